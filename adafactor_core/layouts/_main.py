"""The command `convert`: a state from one implementation's checkpoint to another's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .._errors import AdafactorError, ConfigError, StateFileError
from ..interchange import Record
from ..interchange import read as read_state
from ..interchange import write as write_state
from ..interchange._progress import on_terminal
from ._describe import table
from ._files import is_torch, load, load_json, load_params, save_flat, save_torch
from ._find import BARE_GROUP, has_names, torch_dict
from ._flat import flat
from ._names import New, renamed
from ._read import read
from ._table import FORMATS, format_of
from ._write import losses, write

STATE = "state"
BARE = (
    "the groups of OUT hold no options, without which a step fails: load it with "
    "layouts.load_torch(optimizer, state), which keeps the optimizer's own, or pass --like a fresh "
    "state"
)

EPILOG = f"""
IN and OUT are state files of adafactor-core (.safetensors, .npz) where --from or --to is "{STATE}";
torch files (.pt, .pth, .bin) for formats of torch; and else flat .safetensors or .npz files, whose
keys are those of the flattened state, as layouts.flat() names them. Formats: {", ".join(FORMATS)}.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 converted, 1 not, and OUT is as it was; 2 wrong usage."""
    a = _parser().parse_args(argv)
    try:
        if STATE not in (a.source, a.target):
            format_of(a.source), format_of(a.target)
        record = _record(a)
        lost, bare = _put(a, record)
    except (AdafactorError, OSError) as error:
        print(f"adafactor-core convert: {error}", file=sys.stderr)
        return 1
    for note in (*record.notes, *([BARE] if bare else ())):
        print(f"note: {note}", file=sys.stderr)
    for loss in lost:
        print(f"approximated: {loss}", file=sys.stderr)
    print(f"{a.output}: {len(record.tensors)} tensors, {record.step} steps")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adafactor-core convert", description=__doc__, epilog=EPILOG
    )
    names = [STATE, *FORMATS]
    parser.add_argument("--formats", action=_Formats, help="print what every format is, and leave")
    parser.add_argument("input", metavar="IN")
    parser.add_argument("output", metavar="OUT")
    parser.add_argument(
        "--from", dest="source", default=STATE, choices=names, metavar="FORMAT",
        help="format of IN; default a state file",
    )  # fmt: skip
    parser.add_argument(
        "--to", dest="target", default=STATE, choices=names, metavar="FORMAT",
        help="format of OUT; default a state file",
    )  # fmt: skip
    parser.add_argument(
        "--params", metavar="FILE",
        help="paths, shapes and dtypes of the parameters of IN, in its optimizer's order: a "
        "model's torch or safetensors file, or JSON {path: [shape, dtype]}",
    )  # fmt: skip
    parser.add_argument(
        "--to-params", metavar="FILE",
        help="the same for OUT, where the order counts: torch and Keras",
    )  # fmt: skip
    parser.add_argument(
        "--like", metavar="FILE",
        help="a fresh state of the optimizer that is to go on, whose form OUT gets",
    )  # fmt: skip
    parser.add_argument(
        "--name-map", metavar="FILE", help="JSON {old path: new path, or [new path, axes]}"
    )
    parser.add_argument(
        "--from-options", type=_options, default={}, metavar="JSON",
        help='where the options of IN differ from its format\'s: \'{"min_dim_size_to_factor": 4}\'',
    )  # fmt: skip
    parser.add_argument(
        "--to-options", type=_options, default={}, metavar="JSON", help="the same for OUT"
    )
    parser.add_argument("--step", type=int, help="completed steps, where IN does not hold them")
    parser.add_argument(
        "--no-momentum", action="store_true", help="leave momentum behind: it starts at 0"
    )
    parser.add_argument(
        "--approximate", action="store_true",
        help="convert what cannot be converted exactly, too, and say what that was",
    )  # fmt: skip
    return parser


class _Formats(argparse.Action):
    def __init__(self, **given: Any) -> None:
        super().__init__(nargs=0, **given)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(table(), end="")
        parser.exit()


def _options(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("expected a JSON object of options by name")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def _record(a: argparse.Namespace) -> Record:
    if a.source == STATE:
        record = read_state(a.input)
    else:
        _check_ending(a.input, a.source)
        state = load(a.input)
        params = _params(a.params, a.source, state)
        record = read(
            state,
            a.source,
            params,
            options=a.from_options,
            step=a.step,
            approximate=a.approximate,
        )
    return renamed(record, _names(a.name_map)) if a.name_map else record


def _params(file: str | None, format: str, state: Any) -> Any:
    if file is None:
        return None
    params, ordered = load_params(file)
    by_order = format_of(format).family == "torch" and not has_names(flat(torch_dict(state)[1]))
    if by_order and not ordered:
        raise StateFileError(
            f"{file} does not keep the order of the parameters, and the state has no names to go "
            f"by. Write them in the optimizer's order: json.dump([[n, list(p.shape), "
            f"str(p.dtype)] for n, p in layouts.torch_order(optimizer, model)], file)."
        )
    return params


def _names(file: str) -> dict[str, New]:
    found = load_json(file)
    fits = isinstance(found, Mapping) and all(
        isinstance(new, str)
        or (isinstance(new, list) and len(new) == 2 and isinstance(new[0], str) and _axes(new[1]))
        for new in found.values()
    )
    if not fits:
        raise StateFileError(
            f"{file} should be {{old path: new path}} or {{old path: [new path, axes]}}, as in "
            f'{{"fc.weight": ["fc.kernel", [1, 0]]}}.'
        )
    return {old: new if isinstance(new, str) else (new[0], new[1]) for old, new in found.items()}


def _axes(x: Any) -> bool:
    return x is None or (isinstance(x, list) and all(type(n) is int for n in x))


def _put(a: argparse.Namespace, record: Record) -> tuple[tuple[str, ...], bool]:
    """Writes; returns what was approximated, and whether torch groups are without options."""
    if a.target == STATE:
        if is_torch(a.output):
            raise ConfigError(f"{a.output}: a state file ends in .safetensors or .npz.")
        write_state(a.output, record, progress=on_terminal("writing"))
        return (), False
    _check_ending(a.output, a.target)
    fmt = format_of(a.target)
    given: dict[str, Any] = {"options": a.to_options, "momentum": not a.no_momentum}
    template = None if a.like is None else load(a.like)
    if a.to_params is not None:
        given["params"] = load_params(a.to_params)[0]
    elif fmt.family == "torch" and a.source != STATE and format_of(a.source).family == "torch":
        given["params"] = record  # in the same order
    notes: tuple[str, ...] = ()
    if a.approximate:
        notes = losses(record, a.target, template, **given)
    if fmt.family == "torch":
        made = write(record, a.target, template, approximate=a.approximate, **given)
        save_torch(a.output, made)
        return notes, any(group.keys() <= BARE_GROUP for group in made["param_groups"])
    made = write(record, a.target, template, approximate=a.approximate, arrays="raw", **given)
    save_flat(a.output, made, {"layout": a.target}, on_terminal("writing"))
    return notes, False


def _check_ending(file: str, format: str) -> None:
    torch = format_of(format).family == "torch"
    if torch != is_torch(file):
        kinds = ".pt, .pth or .bin" if torch else ".safetensors or .npz"
        raise ConfigError(f"{file}: checkpoints of {format!r} are in files that end in {kinds}.")
