"""The relay through all four frameworks, where torch and JAX are installed together."""

import importlib.util

import pytest

pytest.importorskip("torch.distributed.tensor")
pytest.importorskip("jax", reason="the relay needs JAX beside torch")

import test_relay_example as short


@pytest.mark.skipif(not importlib.util.find_spec("sklearn"), reason="sklearn is not installed")
def test_all_four(tmp_path):
    assert short.LEGS == ["numpy", "torch", "jax", "fsdp2"]
    short.test_a_short_run_through_what_is_installed(None, tmp_path)
