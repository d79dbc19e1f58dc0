"""State files of DTensors: whole in the file, in parts on the ranks, for any number of them."""

import pytest

pytest.importorskip("torch.distributed.tensor")

import _state_files
import _wrapped
from _bodies import LAYOUTS, OPTIONS, SIZES

from _close import close
from adafactor_core import interchange

CHOSEN = {
    "defaults": {},
    "rate, momentum, decay": {"lr": 0.05, "beta1": 0.9, "weight_decay": 0.1},
    "norm, skips": {"lr": 0.05, "max_grad_norm": 0.1, "nonfinite": "skip_tensor"},
}


def compare(got, want):
    for t, (mine, theirs) in enumerate(zip(got, want, strict=True), 1):
        for name, x in theirs.items():
            close(mine[name], x, 1e-6, f"step {t}, {name}")


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("options", CHOSEN)
def test_a_file_of_two_ranks_goes_on_with(ranks, tmp_path, options, size):
    ranks(2).run(_state_files.fsdp_saves, str(tmp_path), CHOSEN[options], 3)
    want = _wrapped.alone("Net", CHOSEN[options], 5)[3:]
    for shard in [True, False] if size == 1 else [True]:
        words = str(tmp_path), CHOSEN[options], 3, 2, shard
        for after in ranks(size).run(_state_files.goes_on, *words):
            compare(after, want)


@pytest.mark.parametrize("options", CHOSEN)
def test_the_file_is_that_of_one_process(ranks, tmp_path, options):
    """To rounding: names, shapes, slots and counters are the same."""
    ranks(2).run(_state_files.fsdp_saves, str(tmp_path), CHOSEN[options], 3)
    model = _wrapped.Net()
    made = _wrapped.built(model, CHOSEN[options])
    _wrapped.train(model, made, range(1, 4))
    made.save_state(tmp_path / "alone")
    ours, theirs = (interchange.read(tmp_path / name) for name in ("state", "alone"))
    assert (ours.step, ours.skipped, ours.options) == (theirs.step, theirs.skipped, theirs.options)
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        assert (a.path, a.shape, a.row_axes, a.skipped) == (b.path, b.shape, b.row_axes, b.skipped)
        for slot, raw in b.slots.items():
            close(numbers(a.slots[slot]), numbers(raw), 1e-5, f"{a.path}, {slot}")


def numbers(raw):
    from adafactor_core.interchange._arrays import numpy_array

    return numpy_array(raw)


@pytest.mark.parametrize("options", ["rate, momentum, decay", "skipped tensors", "stochastic"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_and_loaded_in_the_middle_to_the_bit(ranks, tmp_path, layout, options):
    assert options in OPTIONS
    dtype = "bfloat16" if options == "stochastic" else "float32"
    words = str(tmp_path), layout, options, dtype, 2
    for whole, parts in ranks(SIZES[layout]).run(_state_files.resumed, *words):
        assert whole.keys() == parts.keys()
        for name, x in whole.items():
            assert parts[name].tobytes() == x.tobytes(), name


def test_a_write_that_fails_is_told_to_all_ranks(ranks, tmp_path):
    first, second = ranks(2).run(_state_files.a_full_disk, str(tmp_path))
    assert first == "OSError: No space left on device"
    assert second.startswith("StateFileError: the first rank did not write")
    assert "No space left on device" in second


def test_ranks_that_have_other_parameters_are_refused(ranks, tmp_path):
    for words in ranks(2).run(_state_files.disagreeing, str(tmp_path)):
        assert words.startswith("StateError: the ranks of DeviceMesh")
    assert not (tmp_path / "none").exists()
