"""What real implementations have in their states comes back to the last bit."""

import numpy as np
import pytest
import test_state_moves as moves
from _state_peers import Keras, Mlx, Optax, Torch, problem, run

from adafactor_core import layouts


def bits(x):
    """Of an array of any library."""
    if type(x).__module__.startswith("keras"):
        x = x.value
    if hasattr(x, "dtype"):
        raw = layouts.raw(x, "x") if str(x.dtype) != "uint64" else None
        return bytes(raw.bytes()) if raw else np.asarray(x).tobytes()
    return x


# RMS is of the last step, and made anew by the next. So is what timm puts in the place of lr=None.
# adafactor8bit keeps settings beside the state, and writes down what it did not find.
MADE_ANEW = (".RMS", "param_groups.0.lr")
SETTINGS = ("quant_type", "is_quantized", "block_size", "sr_seed", "_seed", "rank", "counter")


def same(before, after, idle):
    """Every leaf of the first is in the second, with its dtype, shape and bits."""
    one, two = layouts.flat(before), layouts.flat(after)
    kept = {key for key in one if not key.endswith(idle)}
    assert kept <= two.keys()
    for key in kept:
        a, b = one[key], two[key]
        assert type(a) is type(b) or type(a).__module__.startswith("keras"), key
        assert str(getattr(a, "dtype", "")) == str(getattr(b, "dtype", "")), key
        assert tuple(getattr(a, "shape", ())) == tuple(getattr(b, "shape", ())), key
        assert bits(a) == bits(b), key
    return len(kept)


NARROW = [name for name in moves.ROWS if "adafactor8bit" not in name and "came" not in name]


@pytest.mark.parametrize("name", list(moves.ROWS))
def test_float32(name):
    make, call, _, names, *_ = moves.ROWS[name]
    params, grads = problem(names)
    peer = make(params, **call)
    run(peer, grads[:3])
    record = peer.record()
    fresh = make(peer.params(), **call)
    after = layouts.write(record, peer.format, fresh.state(), params=peer.own)
    before = peer.state()
    if peer.format == "keras":
        before = {str(k): v for k, v in enumerate(before)}
        after = {str(k): v for k, v in enumerate(after)}
        for k, n in enumerate(names):
            if params[n].ndim > 1:
                # Keras' estimate of a matrix is made of rows and columns, and so it is here.
                a, b = (np.asarray(s.pop(f"{4 + 3 * k}")) for s in ({**before}, {**after}))
                np.testing.assert_allclose(a, b, rtol=1e-6)
                before.pop(f"{4 + 3 * k}")
    assert same(before, after, MADE_ANEW + SETTINGS) > len(names)


@pytest.mark.parametrize("name", NARROW)
def test_bfloat16(name):
    make, call, _, names, *_ = moves.ROWS[name]
    params, grads = problem(names)
    peer = _in_bfloat16(make, params, call)
    run(peer, grads[:3])
    record = peer.record()
    assert all(r.dtype != "bfloat16" for t in record.tensors for s, r in t.slots.items()
               if s != "momentum")  # fmt: skip
    fresh = _in_bfloat16(make, peer.params(), call)
    after = layouts.write(record, peer.format, fresh.state(), params=peer.own)
    before = peer.state()
    if peer.format == "keras":
        before = {str(k): v for k, v in enumerate(before)}
        after = {str(k): v for k, v in enumerate(after)}
        for k, n in enumerate(names):
            if params[n].ndim > 1:
                before.pop(f"{4 + 3 * k}")
    assert same(before, after, MADE_ANEW) > len(names)


def _in_bfloat16(make, params, call):
    """The same peer with parameters of bfloat16."""
    if make is moves.optax_peer:
        optax = pytest.importorskip("optax")
        return Optax(lambda: optax.adafactor(**call), params, "bfloat16")
    if make is moves.keras_peer:
        pytest.importorskip("keras")
        return Keras(call, params, "bfloat16")
    if make is moves.mlx_peer:
        pytest.importorskip("mlx")
        return Mlx(call, params, "bfloat16")
    format, maker = make.args
    return Torch(format, lambda p: maker(p, **call), params, "bfloat16")
