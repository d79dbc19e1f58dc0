"""The command `memory`: what the optimizer states of a model take, before anything is allocated."""

from __future__ import annotations

import ast
import json
import math
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import _models as models
from . import variants
from ._config import Config
from ._errors import AdafactorError, ConfigError
from ._models import Leaf
from ._numerics import TRAINABLE, WIDTHS, wide_name
from ._report import TensorMemory, axes_text, memory_report, size_text, table
from .variants._from import check_names


class Peer(NamedTuple):
    """How another implementation keeps the second moment: its axes, dtype and placeholders."""

    config: Config
    widens: bool  # 16-bit tensors have float32 statistics; else all have the tensor's dtype
    places: int = 0  # arrays of one entry for the slots that a factored tensor does not use
    places_full: int = 0  # and for those of one that is not factored


# With their default options. The tests compare with the states that the real ones make.
PEERS = {
    "torch.optim": Peer(variants.torch(), False),
    "transformers": Peer(variants.transformers(), True),
    "optax": Peer(variants.optax(), False, places=1, places_full=2),
}
COLUMNS = ("Adam", "Adam fp32", *PEERS, "here")
ABOUT = """Bytes of optimizer state per tensor, largest first.

MODEL is one of
  shapes.json           {"embed": [32000, 512], "head": [[512, 32000], "bfloat16"]}, else float32
  model.safetensors     its header alone is read
  package.module:make   a function of no arguments: THE MODULE IS IMPORTED AND THE FUNCTION CALLED.
                        It returns a torch.nn.Module (called under torch.device("meta")), or a JAX
                        tree, flax or equinox module (called by eval_shape)

Columns: Adam has two slots of the tensor's dtype (torch.optim, optax), "Adam fp32" two float32
ones; torch.optim, transformers and optax are their Adafactors with default options; here is
adafactor-core with the options of --set. Step counters are not counted."""


def main(argv: Sequence[str]) -> int:
    """Prints the report. Returns 0, or 2 for a model or option that cannot be used."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.top is not None and options.top < 1:
        parser.error(f"--top {options.top}: expected at least 1")
    try:
        config = variants.config(options.variant, _options(options.set))
        leaves = models.read(options.model, options.framework, _say)
        report = compare(leaves, config)
        if options.plot:
            from ._memory_plot import save

            save(report, options.model, options.plot)
    except (AdafactorError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(report.record(options.model, options.variant, options.set), indent=1))
    else:
        print(report.text(options.top))
    return 0


class Report(NamedTuple):
    """All tensors, largest state here first, each with its bytes by column of COLUMNS."""

    tensors: tuple[tuple[TensorMemory, dict[str, int]], ...]
    left_out: Mapping[str, str]  # path to dtype, of what no optimizer trains

    @property
    def totals(self) -> dict[str, int]:
        return {name: sum(sizes[name] for _, sizes in self.tensors) for name in COLUMNS}

    @property
    def param_bytes(self) -> int:
        return sum(t.param_bytes for t, _ in self.tensors)

    @property
    def parameters(self) -> int:
        return sum(math.prod(t.shape) for t, _ in self.tensors)

    def text(self, top: int | None = None) -> str:
        """The table; with `top`, of so many tensors."""
        rows: list[tuple[str, ...]] = [
            ("tensor", "shape", "dtype", "factored", "param", *COLUMNS, "why")
        ]
        for t, sizes in self.tensors[:top]:
            factored = f"{axes_text(t.row_axes)} x {axes_text(t.col_axes)}" if t.row_axes else "no"
            numbers = [size_text(sizes[name]) for name in COLUMNS]
            head = (t.path or "(array)", str(t.shape), t.dtype, factored, size_text(t.param_bytes))
            rows.append((*head, *numbers, t.reason))
        if top is not None and (more := len(self.tensors) - top) > 0:
            rows.append((f"... {more} more", *[""] * (len(rows[0]) - 1)))
        totals = [size_text(self.totals[name]) for name in COLUMNS]
        what = f"{self.parameters:,} parameters"
        rows.append(("total", what, "", "", size_text(self.param_bytes), *totals, ""))
        lines = [table(rows)]
        lines += [f"left out, {dtype} is not trained: {p}" for p, dtype in self.left_out.items()]
        return "\n".join(lines)

    def record(self, model: str, variant: str | None, options: Sequence[str]) -> dict[str, Any]:
        """The same for JSON; all sizes in bytes."""
        tensors = [
            {
                "path": t.path, "shape": t.shape, "dtype": t.dtype, "row_axes": t.row_axes,
                "col_axes": t.col_axes, "why": t.reason, "param": t.param_bytes, **sizes,
            }
            for t, sizes in self.tensors
        ]  # fmt: skip
        totals = {"param": self.param_bytes, **self.totals}
        return {
            "model": model, "variant": variant, "options": list(options),
            "parameters": self.parameters, "totals": totals, "tensors": tensors,
            "left_out": dict(self.left_out),
        }  # fmt: skip


def compare(leaves: Mapping[str, Leaf], config: Config) -> Report:
    """The report of these tensors. Raises ConfigError or ShapeError for options that do not fit."""
    trained = {path: leaf for path, leaf in leaves.items() if leaf.dtype in TRAINABLE}
    if not trained:
        raise ConfigError(f"the model has no tensor of dtype {', '.join(TRAINABLE)}.")
    ours = memory_report(trained, config).tensors
    peers = {name: memory_report(trained, peer.config).tensors for name, peer in PEERS.items()}
    rows = []
    for i, t in enumerate(ours):
        sizes = {"Adam": 2 * t.param_bytes, "Adam fp32": t.adam_bytes}
        sizes |= {name: _peer(PEERS[name], found[i]) for name, found in peers.items()}
        rows.append((t, {**sizes, "here": t.state_bytes}))
    rows.sort(key=lambda row: (-row[0].state_bytes, -row[0].param_bytes, row[0].path))
    left_out = {path: leaf.dtype for path, leaf in leaves.items() if path not in trained}
    return Report(tuple(rows), left_out)


def _peer(peer: Peer, t: TensorMemory) -> int:
    """Its bytes: as many entries as a state of those axes has here, of its own width."""
    own, wide = WIDTHS[t.dtype], WIDTHS[wide_name(t.dtype)]
    places = peer.places if t.row_axes else peer.places_full
    return (t.state_bytes // wide + places) * (wide if peer.widens else own)


def _options(words: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"--set {word!r}: expected NAME=VALUE, as in --set beta1=0.9.")
        try:
            check_names([name])
        except ConfigError as error:
            raise ConfigError(f"--set {word!r}: {error}") from None
        if name in options:
            raise ConfigError(f"--set gives {name!r} twice. Give it once.")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            options[name] = text  # a word, such as bfloat16
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m adafactor_core memory",
        description=ABOUT,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="see above")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of Config, as in --set beta1=0.9 --set momentum_dtype=bfloat16",
    )
    add("--variant", metavar="NAME", help="a named variant whose options --set replaces")
    add("--framework", choices=("torch", "jax"), help="of package.module:make, where unclear")
    add("--top", type=int, metavar="N", help="show the N largest tensors only; totals are of all")
    add("--json", action="store_true", help="print JSON, sizes in bytes")
    add("--plot", type=Path, metavar="FILE", help="also draw the totals; needs matplotlib")
    return parser  # fmt: skip
