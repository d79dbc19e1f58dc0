"""fully_shard, tensor parallelism, checkpoints over other numbers of ranks, DDP, ZeRO, FSDP1."""

import pytest

pytest.importorskip("torch.distributed.tensor")

import _wrapped

from _close import close

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:torch.distributed")
OPTIONS = {
    "defaults": {},
    "rate, momentum, decay": {"lr": 0.05, "beta1": 0.9, "weight_decay": 0.1},
    "norm, skips, telemetry": {
        "lr": 0.05, "max_grad_norm": 0.1, "nonfinite": "skip_tensor", "telemetry": True,
    },
}  # fmt: skip
STEPS = 5


def compare(got, want, tolerance=1e-6):
    for t, (mine, theirs) in enumerate(zip(got, want, strict=True), 1):
        assert mine.keys() == theirs.keys()
        for name, x in theirs.items():
            close(mine[name], x, tolerance, f"step {t}, {name}")


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("options", OPTIONS)
def test_fully_shard(ranks, options, size):
    want = _wrapped.alone("Net", OPTIONS[options], STEPS)
    for after, places, counts in ranks(size).run(_wrapped.fsdp, OPTIONS[options], STEPS):
        compare(after, want)
        assert counts == [2]
        assert places["up.weight.row"][:2] == ("(Shard(dim=0),)", (13, 1))
        assert places["up.weight.col"] == ("(Replicate(),)", (1, 6), (1, 6))
        assert places["up.bias.full"][:2] == ("(Shard(dim=0),)", (13,))


def test_fully_shard_in_backward(ranks):
    options = OPTIONS["rate, momentum, decay"]
    want = _wrapped.alone("Net", options, STEPS)
    for after in ranks(2).run(_wrapped.fsdp_in_backward, options, STEPS):
        compare(after, want)


@pytest.mark.parametrize("options", OPTIONS)
def test_tensor_parallel_and_fully_shard(ranks, options):
    want = _wrapped.alone("Block", OPTIONS[options], STEPS)
    for after, counts, kinds in ranks(4).run(
        _wrapped.fsdp_and_tensor_parallel, OPTIONS[options], STEPS
    ):
        assert any("_StridedShard" in kind for kind in kinds)
        compare(after, want)
        assert counts == 2


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_checkpoint_of_two_ranks_goes_on_with(ranks, tmp_path, options, size):
    ranks(2).run(_wrapped.saved, str(tmp_path), OPTIONS[options], 3)
    want = _wrapped.alone("Net", OPTIONS[options], STEPS)[3:]
    for shard in [True, False] if size == 1 else [True]:
        words = str(tmp_path), OPTIONS[options], 3, STEPS - 3, shard
        for after in ranks(size).run(_wrapped.resumed, *words):
            compare(after, want)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_full_state_dict_is_cut_to_the_parts(ranks, options):
    want = _wrapped.alone("Net", OPTIONS[options], STEPS)[3:]
    for after in ranks(2).run(_wrapped.full_state, OPTIONS[options], 3, STEPS - 3):
        compare(after, want)


def test_a_full_state_dict_can_be_gathered(ranks):
    options = OPTIONS["rate, momentum, decay"]
    got, _ = ranks(2).run(_wrapped.gathered_state, options, 3)
    assert got["up.weight.row"].shape == (13, 1)
    assert got["up.weight.momentum"].shape == (13, 6)
    assert got["up.weight.step"] == 3


@pytest.mark.parametrize("options", OPTIONS)
def test_distributed_data_parallel(ranks, options):
    want = _wrapped.alone("Net", OPTIONS[options], STEPS)
    for after in ranks(2).run(_wrapped.ddp, OPTIONS[options], STEPS):
        compare(after, want)


def test_zero_redundancy_optimizer(ranks):
    options = OPTIONS["rate, momentum, decay"]
    want = _wrapped.alone("Net", options, STEPS)
    done = ranks(2).run(_wrapped.zero, options, STEPS)
    for after, _ in done:
        compare(after, want)
    assert sum(kept for _, kept in done) == len(want[0])


@pytest.mark.parametrize("use_orig_params", [False, True])
def test_fsdp1_is_refused_with_the_remedy(ranks, use_orig_params):
    for words in ranks(2).run(_wrapped.fsdp1, use_orig_params):
        assert "flattened by FSDP1" in words
        assert "fully_shard" in words
