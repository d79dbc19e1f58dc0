"""Files that hold the checkpoints of other implementations, and those that say how models look."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._errors import DTypeError, StateFileError
from .._numerics import TRAINABLE, WIDTHS
from ..interchange import Raw, read, read_arrays
from ..interchange._file import Progress, replacing, write_arrays
from ..interchange._json import MalformedError, parse
from ..interchange._safetensors import widest_first
from ..interchange._schema import is_state
from ._arrays import scalar
from ._params import Param, described

BFLOAT16 = "bfloat16"
"""The entry of a flat file's metadata that lists the arrays of this dtype, as JSON."""

TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")


def is_torch(file: str) -> bool:
    return file.lower().endswith(TORCH)


def load(file: str) -> Any:
    """What a file holds: a torch checkpoint, or the arrays of a safetensors or npz file by key.

    torch reads with `weights_only=True` and maps the file, so nothing in it is run, and arrays are
    read when asked for. Raises StateFileError and OSError.
    """
    if is_torch(file):
        return _load_torch(file)
    arrays, metadata = read_arrays(file)
    narrow = set(_listed(metadata.get(BFLOAT16, "[]"), file))
    words = {k for k, raw in arrays.items() if k in narrow and WIDTHS[raw.dtype] == 2}
    return {k: replace(raw, dtype="bfloat16") if k in words else raw for k, raw in arrays.items()}


def _listed(text: str, file: str) -> list[str]:
    try:
        found = parse(text, BFLOAT16)
    except MalformedError:
        found = None
    if not isinstance(found, list) or not all(isinstance(key, str) for key in found):
        raise StateFileError(f"{file}: its entry {BFLOAT16!r} is no JSON list of keys.")
    return found


def _load_torch(file: str) -> Any:
    torch = _torch(file)
    with open(file, "rb"):  # torch wraps what the system says
        pass
    try:
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):  # files of torch before 1.6
                raise
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile, struct, and torch's own
        why = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise StateFileError(
            f"{file} is no torch file that can be read: {why}. It is damaged, of another kind, or "
            f"holds objects that weights_only=True does not load; save optimizer.state_dict()."
        ) from None


def save_torch(file: str, state: Any) -> None:
    """With torch.save; the file is replaced as a whole or not at all."""
    torch = _torch(file)
    with replacing(file) as out:
        torch.save(state, out)


def save_flat(
    file: str, leaves: Mapping[str, Any], metadata: Mapping[str, str], progress: Progress | None
) -> None:
    """Arrays by key, 8 MiB at a time: npz where the name ends so, else safetensors."""
    arrays = [
        (key, x if isinstance(x, Raw) else scalar("int64", int(x))) for key, x in leaves.items()
    ]
    narrow = [key for key, raw in arrays if raw.dtype == "bfloat16"]
    if narrow:  # npz has no name for it
        metadata = {**metadata, BFLOAT16: json.dumps(narrow)}
    write_arrays(file, widest_first(arrays), metadata, progress)


def load_params(file: str) -> tuple[list[Param], bool]:
    """The parameters that a file tells of, and whether their order means something.

    JSON, {path: [shape, dtype]} or a list of [path, shape, dtype]; a model's safetensors or npz
    file, which does not keep the order; a model's torch file; or a state file. Arrays of a dtype
    that is not trained are left out. Raises StateFileError.
    """
    if file.lower().endswith(".json"):
        return _of_json(file), True
    if not is_torch(file):
        arrays, metadata = read_arrays(file)
        if is_state(metadata):
            return described(read(file)), True
    found: Any = load(file) if is_torch(file) else arrays
    if not isinstance(found, Mapping):
        raise StateFileError(f"{file} holds a {type(found).__name__}, not arrays by name.")
    for inner in ("state_dict", "model"):
        if isinstance(found.get(inner), Mapping):
            found = found[inner]
    dtypes = {name: str(getattr(x, "dtype", "")).split(".")[-1] for name, x in found.items()}
    kept = {name: x for name, x in found.items() if dtypes[name] in TRAINABLE}
    if not kept:
        raise StateFileError(f"{file} holds no arrays of floats by name.")
    return described(kept), is_torch(file)


def load_json(file: str) -> Any:
    """Raises StateFileError for what is no JSON."""
    with open(file, "rb") as opened:
        text = opened.read()
    try:
        return parse(text, file)
    except MalformedError as error:
        raise StateFileError(f"{error}.") from None


def _of_json(file: str) -> list[Param]:
    found = load_json(file)
    rows: Any = found
    if isinstance(found, Mapping):
        rows = [
            [path, row.get("shape"), row.get("dtype")]
            if isinstance(row, Mapping)
            else [path, *row]
            if isinstance(row, Sequence)
            else [path]
            for path, row in found.items()
        ]
    fits = isinstance(rows, list) and all(
        isinstance(row, list)
        and len(row) == 3
        and isinstance(row[0], str)
        and isinstance(row[1], list)
        and all(isinstance(n, int) and n >= 0 for n in row[1])
        and isinstance(row[2], str)
        for row in rows
    )
    if not fits:
        raise StateFileError(
            f"{file} should be {{path: [shape, dtype]}}, or a list of [path, shape, dtype], as in "
            f'{{"layers.0.weight": [[512, 512], "float32"]}}.'
        )
    return described([(path, (tuple(shape), dtype)) for path, shape, dtype in rows])


def _torch(file: str) -> Any:
    try:
        import torch
    except ImportError:
        raise DTypeError(
            f"{os.path.basename(file)} is a torch file, and torch is not installed: pip install "
            f"torch."
        ) from None
    return torch
