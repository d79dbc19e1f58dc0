"""Variants that cannot be installed, against golden vectors of their published formulas.

They are no proof that the implementations do this, only that ours does what they publish.
"""

import json

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _golden_peers import CASES, FILE, inputs, sample, vectors

KEPT = json.loads(FILE.read_text())
EXACT = {name for name in af.variants.names() if af.variants.get(name).checked == "formulas"}


def test_the_file_is_what_the_formulas_give():
    found = vectors()
    assert found.keys() == KEPT.keys() - {"note"}
    for name, tensors in found.items():
        assert tensors.keys() == KEPT[name].keys()
        for tensor, entries in tensors.items():
            close(np.array(entries), np.array(KEPT[name][tensor]), 1e-14, f"{name} {tensor}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ours_is_what_they_publish(case):
    bound = af.variants.get(case.variant).accuracy["float64"]
    for name in case.only:
        x, grads = inputs(name)
        # One tensor at a time: the transcription of PaLM's global norm sees one.
        state = af.init(x, case.config())
        for g in grads:
            x, state = af.step(x, g, state, case.config())
        close(np.array(sample(x)), np.array(KEPT[case.name][name]), bound, name)


def test_every_variant_that_is_not_run_has_golden_vectors():
    assert {case.variant for case in CASES} == EXACT
