"""What XLA makes of a step for a GPU that is not here: streams of memory and kernels per step.

Compiles for an H100 that a text describes, with the plugin alone: no driver, no CUDA libraries.
`python tests/gpu/xla.py` prints the table, `--write` puts it into docs/gpu_xla.md as well.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

sys.path.insert(0, str(Path(__file__).parents[1] / "tpu"))
from _aot import FREE, entry

PAGE = Path(__file__).parents[2] / "docs" / "gpu_xla.md"
MARK = "<!-- below: written by tests/gpu/xla.py -->"
# Public figures of the card, in the words of XLA's GpuTargetConfigProto.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072 l2_cache_size: 52428800
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 1 patch: 1 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
WORK = {
    "one 8192x8192": [(8192, 8192)],
    "four 4096x4096": [(4096, 4096)] * 4,
    "one of 2^26": [(1 << 26,)],
    "100 of 512x512": [(512, 512)] * 100,
}
OPTIONS: dict[str, dict[str, Any]] = {"defaults": {}, "max_grad_norm": {"max_grad_norm": 1.0}}


@cache
def device() -> Any:
    given = {"topology": "1x1x1", "target_config": H100}
    return topologies.get_topology_desc(platform="cuda", topology_name="H100", **given).devices[0]


def optax_step() -> tuple[Any, Any]:
    import optax

    tx = optax.adafactor(1e-3)

    def step(params: Any, grads: Any, state: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return tx.init, jax.jit(step, donate_argnums=(0, 2))


def measured(init: Any, step: Any, shapes: list[tuple[int, ...]], dtype: str) -> dict[str, Any]:
    """`streams`: bytes moved over bytes of the parameters, if nothing stays in the L2 cache."""
    here = SingleDeviceSharding(device())
    x = [jax.ShapeDtypeStruct(s, dtype, sharding=here) for s in shapes]
    state = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), jax.eval_shape(init, x)
    )
    compiled = step.lower(x, x, state).compile()
    ops = entry(compiled.as_text())
    params = sum(map(prod, shapes)) * jnp.dtype(dtype).itemsize
    run = [op for op in ops.values() if op.kind not in FREE]
    read = sum(a.nbytes for op in run for name in op.operands for a in ops[name].results)
    written = sum(a.nbytes for op in run for a in op.results)
    memory = compiled.memory_analysis()
    return {
        "streams": (read + written) / params,
        "kernels": len(run),
        "temporary_mib": memory.temp_size_in_bytes / 2**20,
        "aliased": memory.alias_size_in_bytes >= params,
    }


def rows() -> list[dict[str, Any]]:
    from adafactor_jax import make_step

    made = {f"make_step, {name}": make_step(1e-3, **o) for name, o in OPTIONS.items()}
    made["optax.adafactor"] = optax_step()
    found = []
    for work, shapes in WORK.items():
        for dtype in ("float32", "bfloat16"):
            for whose, (init, step) in made.items():
                numbers = measured(init, step, shapes, dtype)
                found.append({"work": work, "dtype": dtype, "whose": whose, **numbers})
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| tensors | dtype | step | streams | kernels | temporaries, MiB | reused |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in found:
        cells = (
            r["work"], r["dtype"], r["whose"], f"{r['streams']:.2f}", r["kernels"],
            f"{r['temporary_mib']:.1f}", "yes" if r["aliased"] else "no",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="into docs/gpu_xla.md")
    written = parser.parse_args().write
    text = (
        f"jax {jax.__version__}, jax-cuda12-pjrt {version('jax-cuda12-pjrt')}.\n\n{table(rows())}"
    )
    print(text)
    if written:
        PAGE.write_text(f"{PAGE.read_text().partition(MARK)[0]}{MARK}\n\n{text}\n")


if __name__ == "__main__":
    main()
