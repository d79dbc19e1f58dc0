"""Trains a small transformer in pure bfloat16 with each rounding, beside float32.

    python docs/lowprec/transformer.py [--seeds 3] [--jobs 2] [--out DIR] [--quick]

Parameters, activations and gradients are bfloat16; the runs of an experiment share initial values,
batches and rate. Writes transformer.json and transformer.png.
Needs torch, numpy, matplotlib, tqdm.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "_shared"))

from _figures import draw_training
from _model import Size
from _record import write_json
from _texts import read_text
from _training import Kind, Setting, train
from tqdm import tqdm

BF16 = "bfloat16"
F32 = Kind("float32", "float32", {})
KINDS = {
    "float32": F32,
    "bf16 nearest": Kind(BF16, BF16, {"rounding": "nearest"}),
    "bf16 stochastic": Kind(BF16, BF16, {"rounding": "stochastic"}),
    "bf16 kahan": Kind(BF16, BF16, {"rounding": "kahan"}),
}


@dataclass(frozen=True)
class Experiment:
    """Its first kind is the reference of the others. `after`: of the float32 run of "scratch"."""

    setting: Setting
    kinds: Mapping[str, Kind]
    after: bool = False


ABSOLUTE = {"scale_parameter": False}
EXPERIMENTS = {
    "scratch": Experiment(Setting("topics", 400, 5e-3, ABSOLUTE), KINDS),
    "tune": Experiment(Setting("source", 200, 1e-4, ABSOLUTE), KINDS, after=True),
}
QUICK = {
    "size": Size(layers=1, width=32, heads=2, context=32, batch=4),
    "steps": 10,
    "held_out": 2000,
    "evaluations": 2,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, prints the tables, writes the files."""
    parser = argparse.ArgumentParser(description="A small transformer in pure bfloat16.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    options = parser.parse_args(argv)
    experiments = EXPERIMENTS
    if options.quick:
        options.seeds = options.jobs = 1
        experiments = {
            name: replace(e, setting=replace(e.setting, **QUICK)) for name, e in EXPERIMENTS.items()
        }
        if options.out == Path(__file__).parent:
            parser.error("--quick needs --out: it must not replace the measured results")
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"seeds": options.seeds, "experiments": {}}
    for name, runs in trained(experiments, options.seeds, options.jobs):
        e = experiments[name]
        table = summary(runs)
        print_table(name, e.setting, table)
        record["experiments"][name] = {
            "setting": asdict(e.setting),
            "text_sha256": read_text(e.setting.text).sha256,
            "kinds": {kind: asdict(k) for kind, k in e.kinds.items()},
            "table": table,
            "runs": runs,
        }
        write_json(options.out / "transformer.json", record)
    draw_training(options.out / "transformer.png", record["experiments"])
    for file in ("transformer.json", "transformer.png"):
        print(f"written: {options.out / file}")


_steps: Any = None  # a worker's share of the counter that the progress bar reads


def _begin(counter: Any) -> None:
    global _steps
    _steps = counter


def _tick() -> None:
    with _steps.get_lock():
        _steps.value += 1


def _work(*arguments: Any) -> dict[str, Any]:
    return train(*arguments, _tick)


Runs = dict[str, list[dict[str, Any]]]  # by kind, one per seed


def trained(experiments: Mapping[str, Experiment], seeds: int, jobs: int) -> Any:
    """Pairs of a name and its Runs, each when it is complete."""
    spawn = multiprocessing.get_context("spawn")
    counter = spawn.Value("q", 0)
    calm = 0.5 if sys.stderr.isatty() else 30.0  # seconds between redraws; in a log each is a line
    total = seeds * sum(e.setting.steps * len(e.kinds) for e in experiments.values())
    with (
        ProcessPoolExecutor(jobs, spawn, _begin, (counter,)) as pool,
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=total, unit="step", mininterval=calm) as bar,
    ):
        for name, e in experiments.items():
            bar.set_description(name)
            futures: dict[str, list[Future[Any]]] = {}
            for kind, k in e.kinds.items():
                submit = partial(pool.submit, _work, k, e.setting)
                files = [Path(folder) / f"{seed}.pt" for seed in range(seeds)]
                keeps = (name, kind) == ("scratch", "float32")
                futures[kind] = [
                    submit(seed, file if e.after else None, file if keeps else None)
                    for seed, file in enumerate(files)
                ]
            waiting = {f for fs in futures.values() for f in fs}
            while waiting:
                waiting = wait(waiting, timeout=1).not_done
                bar.update(counter.value - bar.n)
            yield name, {kind: [f.result() for f in fs] for kind, fs in futures.items()}


def summary(runs: Runs) -> dict[str, dict[str, Any]]:
    """Means over the seeds, and by how many % the mean is above that of the first kind."""
    measures = {
        "held_out": lambda run: list(run["held_out"].values())[-1],
        "held_out_float32": lambda run: run["held_out_float32"],
        "train_last": lambda run: run["train_last"],
    }
    table: dict[str, dict[str, Any]] = {}
    reference = next(iter(runs.values()))
    for kind, of_seeds in runs.items():
        row = {m: sum(map(value, of_seeds)) / len(of_seeds) for m, value in measures.items()}
        first = next(iter(table.values()), row)
        table[kind] = row | {f"{m}_above_%": 100 * (row[m] / first[m] - 1) for m in measures}
        table[kind]["held_out_above_%_by_seed"] = [
            100 * (measures["held_out"](a) / measures["held_out"](b) - 1)
            for a, b in zip(of_seeds, reference, strict=True)
        ]
        table[kind]["seconds"] = sum(run["seconds"] for run in of_seeds) / len(of_seeds)
    return table


def print_table(name: str, setting: Setting, table: Mapping[str, Mapping[str, Any]]) -> None:
    """Losses in nats per character, beside % above the first row."""
    print(f"\n{name}: {setting.steps} steps, peak rate {setting.peak:g}, {dict(setting.options)}")
    print(f"{'':40}{'held out':>18}{'in float32':>18}{'train, last 10 %':>18}{'s':>6}")
    for kind, row in table.items():
        cells = [
            f"{row[m]:9.4f} {row[f'{m}_above_%']:+6.2f} %"
            for m in ("held_out", "held_out_float32", "train_last")
        ]
        print(f"{kind:40}{''.join(cells)}{row['seconds']:6.0f}", flush=True)


if __name__ == "__main__":
    main()
