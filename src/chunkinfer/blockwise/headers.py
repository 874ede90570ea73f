"""What the headers of two runs do not share: whether one may go on where the other ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HIDDEN = {
    "plan", "precision_check", "asked", "kernels", "slots", "array", "versions", "counts", "copied", "model_file",
    "doubt",
    "planned",
    "overwrote",
}  # fmt: skip
"""What headers hold beside the fingerprint: of the machine, of the call, or following from the rest."""


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What two headers do not share, a line each; but not what is of the machine or the call."""
    theirs, ours = _flat(stored), _flat(json.loads(json.dumps(asked, default=str)))
    names = [
        name
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name) and not HIDDEN & set(name.split("."))
    ]
    for follows in ("computation", "programs"):  # from settings and networks, so they tell nothing new beside them
        others = [name for name in names if follows not in name.split(".")]
        names = others or names
    return [f"{name}: stored {theirs.get(name, 'nothing')}, asked {ours.get(name, 'nothing')}" for name in names]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested table as dotted names."""
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        value = {str(i): v for i, v in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
