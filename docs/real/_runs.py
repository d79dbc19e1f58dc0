"""Which runs there are, and what becomes of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from _optimizers import adamw, in_our_words, ours, theirs
from _report import plain, same_bits
from _texts import read_text
from _training import Kind, Run, Setting, start, train
from tqdm import tqdm

Options = Mapping[str, Any]  # the arguments of transformers.optimization.Adafactor

SETTINGS: dict[str, Options] = {
    "defaults": {},
    "warm-up": {"warmup_init": True},
    "fine-tuning": {"lr": 1e-3, "scale_parameter": False, "relative_step": False},
}
ADAMW = {"lr": 3e-3}
OWN = "ours, own defaults"

QUICK = Setting(
    width=32, inner=32, heads=2, layers=1, batch=4, steps=10, every=5, held_out=960,
    snapshots=(1, 10),
)  # fmt: skip
EVERYTHING: Options = {  # what can be told from the defaults on this model
    "lr": 1e-2, "relative_step": False, "eps": (1e-8, 0.1), "clip_threshold": 0.5,
    "decay_rate": -0.6, "beta1": 0.9, "weight_decay": 0.1,
}  # fmt: skip


def measured(seeds: int, quick: bool) -> dict[str, Any]:
    """All runs, as JSON. `quick`: 10 steps of a smaller model, and EVERYTHING as well."""
    setting = QUICK if quick else Setting()
    settings = SETTINGS | {"everything": EVERYTHING} if quick else SETTINGS
    groups = {name: compared(given) for name, given in settings.items()}
    groups["others"] = {OWN: Kind(ours()), "AdamW": Kind(adamw(**ADAMW))}
    return recorded(setting, settings, trained(groups, setting, seeds))


def compared(given: Options) -> dict[str, Kind]:
    """Theirs, theirs again from initial values that differ by rounding, and ours."""
    return {
        "transformers": Kind(theirs(**given)),
        "transformers, nudged": Kind(theirs(**given), nudged=True),
        "ours": Kind(ours(**in_our_words(**given))),
    }


Runs = dict[str, dict[str, list[Run]]]  # by group and kind, one per seed


def trained(groups: Mapping[str, Mapping[str, Kind]], setting: Setting, seeds: int) -> Runs:
    """One run after the other, on one thread."""
    calm = 0.5 if sys.stderr.isatty() else 30.0  # seconds between redraws; in a log each is a line
    runs: Runs = {name: {kind: [] for kind in kinds} for name, kinds in groups.items()}
    total = seeds * setting.steps * sum(map(len, groups.values()))
    with tqdm(total=total, unit="step", mininterval=calm) as bar:
        for seed in range(seeds):
            for name, kinds in groups.items():
                bar.set_description(f"seed {seed}, {name}")
                for kind, k in kinds.items():
                    runs[name][kind].append(train(k, setting, seed, bar.update))
    return runs


def recorded(setting: Setting, settings: Mapping[str, Options], runs: Runs) -> dict[str, Any]:
    """All of it, as JSON."""
    found: dict[str, Any] = {}
    for name, kinds in runs.items():
        theirs_ = kinds.get("transformers")
        found[name] = {
            kind: plain(of_seeds, None if of_seeds is theirs_ else theirs_, setting.every)
            for kind, of_seeds in kinds.items()
        }
    own = runs["others"][OWN]
    return {
        "seeds": len(own),
        "setting": asdict(setting),
        "parameters": sum(p.numel() for p in start(setting, 0).parameters()),
        "text_sha256": read_text("topics").sha256,
        "adamw_options": ADAMW,
        "own_defaults_are_transformers_defaults_bit_for_bit": same_bits(
            own, runs["defaults"]["ours"]
        ),
        "steps": list(range(0, setting.steps + 1, setting.every)),
        "settings": {
            name: {
                "transformers_options": dict(given),
                "our_options": in_our_words(**given),
                "kinds": found[name],
            }
            for name, given in settings.items()
        },
        "others": found["others"],
    }
