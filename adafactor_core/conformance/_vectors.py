"""The golden vectors: the named cases with the oracle's trajectories, as a JSON file.

Arrays are `{"shape": [...], "values": [...]}` in C order, and their floats round-trip.
Anyone can read the file without this package: `options` mean what docs/options.md says.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ._cases import Case
from ._named import TABLE, build
from ._oracle import Trajectory
from ._trees import Tree, map_leaves

FILE = Path(__file__).with_name("vectors.json")
FORMAT = 1


def encode(case: Case) -> dict[str, Any]:
    """One entry of the file; its trajectory is that of float64 tensors."""
    done = case.expected("float64")
    return {
        "name": case.name,
        "options": dict(case.options),
        "params": map_leaves(_encode_array, case.params),
        "grads": [map_leaves(_encode_array, grad) for grad in case.grads],
        "params_after_each_step": [map_leaves(_encode_array, dict(step)) for step in done.params],
        "moments_at_the_end": map_leaves(_encode_array, dict(done.moments[-1])),
    }


def write(file: Path = FILE) -> int:
    """Run the oracle on the table and rewrite the file; returns its size in bytes."""
    entries = [json.dumps(encode(build(row)), separators=(",", ":")) for row in TABLE]
    head = json.dumps({"format": FORMAT, "dtype": "float64"})[:-1]
    return file.write_text(head + ', "cases": [\n' + ",\n".join(entries) + "\n]}\n")


@cache
def read(file: Path = FILE) -> dict[str, tuple[Case, Trajectory]]:
    """Name to (case, float64 trajectory). The trajectory holds moments for the last step alone."""
    found = json.loads(file.read_text())
    if found["format"] != FORMAT:
        raise ValueError(f"{file} has format {found['format']}, this package reads {FORMAT}")
    return {entry["name"]: _decode_entry(entry) for entry in found["cases"]}


def _decode_entry(entry: Mapping[str, Any]) -> tuple[Case, Trajectory]:
    grads = tuple(_decode(grad) for grad in entry["grads"])
    case = Case(entry["name"], entry["options"], _decode(entry["params"]), grads)
    after = [_decode(step) for step in entry["params_after_each_step"]]
    return case, Trajectory(after, moments=[_decode(entry["moments_at_the_end"])])


def _encode_array(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "values": array.ravel().tolist()}


def _decode(tree: Tree) -> Tree:
    if isinstance(tree, list):
        return [_decode(child) for child in tree]
    if "shape" in tree:
        return np.array(tree["values"], dtype=np.float64).reshape(tree["shape"])
    return {key: _decode(child) for key, child in tree.items()}
