"""Steps compiled ahead of time for TPUs that are not here, and what the compiler made of them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from adafactor_jax import make_step, state_sharding

Shape = tuple[int, ...]

TOPOLOGIES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2")
BOTH = ("x", "y")
# Where matrices lie on a mesh of 2x2, and where vectors do.
LAYOUTS = {
    "rows": (P(BOTH, None), P(BOTH)),
    "columns": (P(None, BOTH), P()),
    "blocks": (P("x", "y"), P("y")),
}
# Unless told otherwise, XLA merges at most 256 all-reduced arrays into one operation.
MERGE_ALL = {"xla_jf_crs_combiner_threshold_count": "1000000"}

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
INNER = ("while", "conditional", "call", "async-start")
FREE = ("bitcast", "constant", "get-tuple-element", "parameter", "tuple")


class Array(NamedTuple):
    dtype: str
    shape: Shape
    in_hbm: bool  # the other memories are on the chip

    @property
    def nbytes(self) -> int:
        return WIDTHS.get(self.dtype, 8) * prod(self.shape)


class Op(NamedTuple):
    """What the device runs as one operation; the inside of a fusion is none."""

    kind: str
    results: list[Array]
    operands: list[str]


class Built(NamedTuple):
    """A compiled step; shapes and bytes are those of one device."""

    ops: dict[str, Op]
    params: list[Array]
    held: int  # bytes of parameters and state
    aliased: int
    temporary: int
    accessed: int  # as XLA counts
    seconds: float

    @property
    def minimum(self) -> int:
        """Bytes of the six streams: read G, X; read G; read G, X, write X."""
        return 6 * sum(a.nbytes for a in self.params)

    def count(self, kind: str) -> int:
        return sum(op.kind in (kind, f"{kind}-start") for op in self.ops.values())

    def moved(self) -> int:
        """Bytes read from and written to HBM. What XLA prefetches is read once."""
        return sum(_moved(op, self.ops) for op in self.ops.values())

    def whole(self) -> list[Array]:
        """What operations make of the shape of a parameter that is no vector."""
        shapes = {a.shape for a in self.params if len(a.shape) > 1}
        return [a for op in self.ops.values() for a in _written(op) if a.shape in shapes]


@cache
def devices(topology: str) -> Any:
    # On a v4 JAX takes the two cores of a chip as one device.
    more = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices


def placement(topology: str, layout: str, axes: AxisType) -> tuple[Any, Any]:
    found = devices(topology)
    if layout == "single":
        return (SingleDeviceSharding(found[0]),) * 2
    mesh = Mesh(np.reshape(found, (2, 2)), BOTH, axis_types=(axes, axes))
    matrix, vector = LAYOUTS[layout]
    return NamedSharding(mesh, matrix), NamedSharding(mesh, vector)


def build(
    topology: str,
    layout: str,
    dtype: str,
    shapes: Mapping[str, Shape],
    options: Mapping[str, Any] | None = None,
    *,
    axes: AxisType = AxisType.Auto,
    compiler_options: Any = None,
    make: Any = make_step,
) -> Built:
    """The step that `make(**options)` makes, for parameters and gradients of these shapes."""
    options = {"lr": 1e-2, **(options or {})}
    matrix, vector = placement(topology, layout, axes)
    at = {name: matrix if len(shape) > 1 else vector for name, shape in shapes.items()}
    kind = jax.numpy.dtype(dtype)
    x = {n: jax.ShapeDtypeStruct(s, kind, sharding=at[n]) for n, s in shapes.items()}
    init, step = make(**options)
    state = jax.tree.map(
        lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where),
        jax.eval_shape(init, x),
        state_sharding(at, x, **options),
    )
    lowered = step.lower(x, x, state)
    start = time.perf_counter()
    compiled = lowered.compile(compiler_options=compiler_options)
    seconds = time.perf_counter() - start
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    params = [Array(short, at[n].shard_shape(s), True) for n, s in shapes.items()]
    held = sum(
        prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
        for a in jax.tree.leaves((x, state._replace(metrics=None)))
    )
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return Built(
        entry(compiled.as_text()),
        params,
        held,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        int(cost["bytes accessed"]),
        seconds,
    )


def entry(text: str) -> dict[str, Op]:
    """The operations of the compiled program, by name."""
    line = re.compile(r"\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\(([^)]*)\)(.*)$")
    found = {}
    for row in text[text.index("\nENTRY") :].splitlines():
        if match := line.match(row):
            name, results, kind, operands, rest = match.groups()
            if kind in INNER:
                raise NotImplementedError(f"{kind}: the operations within it are not read")
            if '"ConcatBitcast"' in rest:
                kind = "bitcast"
            found[name] = Op(kind, list(_arrays(results)), re.findall(r"%([\w.-]+)", operands))
    return found


def _arrays(text: str) -> Iterator[Array]:
    for dtype, shape, layout in re.findall(r"\b([a-z]+\d+|pred)\[([\d,]*)\](\{[^}]*\})?", text):
        yield Array(dtype, tuple(int(n) for n in shape.split(",") if n), "S(" not in layout)


def _written(op: Op) -> list[Array]:
    """Copies that run beside the rest also list their source and a flag as results."""
    if op.kind in FREE or op.kind.endswith("-done"):
        return []
    if op.kind == "copy-start":
        return op.results[:1]
    return op.results[1:2] if op.kind == "slice-start" else op.results


def _moved(op: Op, ops: Mapping[str, Op]) -> int:
    written = _written(op)
    if not written:
        return 0
    out = sum(a.nbytes for a in written if a.in_hbm)
    ins = [a for name in op.operands for a in ops[name].results if a.in_hbm]
    if op.kind == "slice-start":
        return out + written[0].nbytes * bool(ins)
    return out + sum(a.nbytes for a in ins)
