"""The golden vectors: the named cases with the oracle's trajectories, as a JSON file.

Arrays are `{"shape": [...], "values": [...]}` in C order, and their floats round-trip; "nan", "inf"
and "-inf" stand for what JSON has no number for. `counters`: completed and skipped steps after each
step, where anything may be skipped. `rounding`: see _bits.
Anyone can read the file without this package: `options` mean what docs/options.md says.
"""

import json
from collections.abc import Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from . import _bits
from ._cases import Case
from ._named import TABLE, build
from ._oracle import Trajectory
from ._trees import Tree, map_leaves

FILE = Path(__file__).with_name("vectors.json")
FORMAT = 1


def encode(case: Case) -> dict[str, Any]:
    """One entry of the file; its trajectory is that of float64 tensors."""
    done = case.expected("float64")
    extra: dict[str, Any] = {}
    if case.grad_scale:
        extra["grad_scale"] = list(case.grad_scale)
    if done.skipped:
        extra["counters"] = list(zip(done.steps, done.skipped, strict=True))
    return {
        "name": case.name,
        "options": dict(case.options),
        "params": map_leaves(_encode_array, case.params),
        "grads": [map_leaves(_encode_array, grad) for grad in case.grads],
        "params_after_each_step": [map_leaves(_encode_array, dict(step)) for step in done.params],
        "moments_at_the_end": map_leaves(_encode_array, dict(done.moments[-1])),
        **extra,
    }


def write(file: Path = FILE) -> int:
    """Run the oracle on the table and rewrite the file; returns its size in bytes."""
    head = _dumps({"format": FORMAT, "dtype": "float64"})[:-1]
    cases = ",\n".join(_dumps(encode(build(row))) for row in TABLE)
    rows = ",\n".join(_dumps(_bits.encode(row)) for row in _bits.TABLE)
    return file.write_text(f'{head},"cases":[\n{cases}\n],"rounding":[\n{rows}\n]}}\n')


def _dumps(entry: Any) -> str:
    return json.dumps(entry, separators=(",", ":"), allow_nan=False)


@cache
def read(file: Path = FILE) -> dict[str, tuple[Case, Trajectory]]:
    """Name to (case, float64 trajectory). The trajectory holds moments for the last step alone."""
    found = json.loads(file.read_text())
    if found["format"] != FORMAT:
        raise ValueError(f"{file} has format {found['format']}, this package reads {FORMAT}")
    return {entry["name"]: _decode_entry(entry) for entry in found["cases"]}


def _decode_entry(entry: Mapping[str, Any]) -> tuple[Case, Trajectory]:
    grads = tuple(_decode(grad) for grad in entry["grads"])
    scales = entry.get("grad_scale")
    params = _decode(entry["params"])
    case = Case(entry["name"], entry["options"], params, grads, scales and tuple(scales))
    after = [_decode(step) for step in entry["params_after_each_step"]]
    moments = [_decode(entry["moments_at_the_end"])]
    if "counters" not in entry:
        return case, Trajectory(after, moments=moments, steps=range(1, len(after) + 1))
    steps, skipped = zip(*entry["counters"], strict=True)
    return case, Trajectory(after, moments=moments, steps=steps, skipped=skipped)


@cache
def rounding(file: Path = FILE) -> list[tuple[_bits.Row, str]]:
    """The rows of the rounding table, and the hash of the bits that each has to give."""
    return [_bits.decode(entry) for entry in json.loads(file.read_text())["rounding"]]


def _encode_array(array: Any) -> dict[str, Any]:
    values = [x if isfinite(x) else str(x) for x in array.ravel().tolist()]
    return {"shape": list(array.shape), "values": values}


def _decode(tree: Tree) -> Tree:
    if isinstance(tree, list):
        return [_decode(child) for child in tree]
    if "shape" in tree:
        return np.array([float(x) for x in tree["values"]]).reshape(tree["shape"])
    return {key: _decode(child) for key, child in tree.items()}
