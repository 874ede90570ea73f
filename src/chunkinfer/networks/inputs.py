"""What a file of another framework may take: one array of numbers, (n, c, *space)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chunkinfer.errors import ModelError
from chunkinfer.networks.outputs import ITSELF, Shape, exporting_onnx, shape_text

TAKEN = ("float32", "float64", "float16", "uint8", "int8", "uint16", "int16", "int32", "int64")
"""Types of input that a file may ask for: voxels can be given in all of them."""


def check_inputs(path: str, inputs: Sequence[tuple[str, Shape, str]]) -> None:
    """Refuse a file that takes something else than one array of numbers (n, c, *space).

    Parameters
    ----------
    path
        Path of the file.
    inputs
        Name, shape and dtype of each input.

    Raises
    ------
    ModelError
        It takes several, has its channels last, or takes no numbers.
    """
    name = Path(path).name
    listed = ", ".join(f'"{n}" {shape_text(shape)} {dtype}' for n, shape, dtype in inputs)
    openvino = path.endswith(".xml")
    if not inputs:
        raise ModelError(
            f"{name} takes no input.",
            "It gives the same for every volume; its input was written into it as a constant.",
            [f"export the module with an input: {exporting_onnx(3)}", ITSELF],
        )
    if len(inputs) != 1:
        _, (other, *_), *more = inputs
        raise ModelError(
            f"{name} takes {len(inputs)} inputs: {listed}.",
            f"A volume is one of them; what the {'others are' if more else 'other is'} nothing says.",
            [
                _opened('p = m.input(1).get_node(); openvino.utils.replace_node(p, openvino.op.Constant(value)); '
                        'm.remove_parameter(p)', "fix the others in the file: ", "one.xml")
                if openvino
                else "fix the others in the file: m = onnx.load(path); m.graph.initializer.append(onnx.numpy_helper."
                f'from_array(value, "{other}")); onnx.save(m, "one.onnx")',
                "give the torch module, wrapped in one whose forward(x) fills in the others: infer(volume, module)",
            ],
        )  # fmt: skip
    ((_, shape, dtype),) = inputs
    if dtype not in TAKEN:
        raise ModelError(
            f"{name} takes {dtype}: {listed}.",
            f"Voxels are given as {', '.join(TAKEN)}.",
            ["export it with an input in float32, and the conversion inside", ITSELF],
        )
    if len(shape) not in (3, 4, 5):
        raise ModelError(
            f"{name} takes no image or volume: {listed}.",
            "Its input has the axes (n, c, *space), with one to three spatial axes.",
            ["export the network that works on images or volumes", ITSELF],
        )
    if shape[0] not in (None, 1):
        raise ModelError(
            f"{name} takes {shape[0]} patches at a time, no more and no fewer: {listed}.",
            "The size of the batch was fixed when it was exported; patches are given one by one.",
            [
                _opened("s = m.input(0).get_partial_shape(); s[0] = 1; m.reshape(s)", "reshape it: ", "one.xml")
                if openvino
                else f"export it with a batch of 1: {exporting_onnx(len(shape) - 2)}",
                ITSELF,
            ],
        )
    if _channels_last(shape):
        layout = "NDHWC" if len(shape) == 5 else "NHWC"
        ours = "NCDHW" if len(shape) == 5 else "NCHW"
        raise ModelError(
            f"{name} takes its channels last: {listed}.",
            "It was exported from a framework that orders axes (n, *space, c); here they are (n, c, *space).",
            [
                "export it with channels first: tf2onnx has --inputs-as-nchw and --outputs-as-nchw",
                "let OpenVINO turn them: p = openvino.preprocess.PrePostProcessor(openvino.Core().read_model(path)); "
                f'p.input().tensor().set_layout(openvino.Layout("{ours}")); '
                f'p.input().model().set_layout(openvino.Layout("{layout}")); '
                f'p.output().tensor().set_layout(openvino.Layout("{ours}")); '
                f'p.output().model().set_layout(openvino.Layout("{layout}")); '
                'openvino.save_model(p.build(), "first.xml", compress_to_fp16=False)',
            ],
        )


def _opened(lines: str, what: str, name: str) -> str:
    """Lines that change a file of OpenVINO, ``m``, and store it under a name."""
    return (
        f'{what}m = openvino.Core().read_model(path); {lines}; openvino.save_model(m, "{name}", compress_to_fp16=False)'
    )


def _channels_last(shape: Shape) -> bool:
    """Whether the last axis has a size that channels have, 4 or less, and the others are free or larger."""
    if len(shape) not in (4, 5) or shape[-1] is None or shape[-1] > 4:
        return False
    return all(n is None or n > 4 for n in shape[1:-1])
