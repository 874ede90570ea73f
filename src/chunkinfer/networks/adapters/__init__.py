"""Kinds of networks, one a file: torch, ONNX, OpenVINO, and any callable."""
