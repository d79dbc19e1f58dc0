"""The state files of adafactor_cupy's optimizer, over a library that stands in for CuPy."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _resume import drawn, same, trained
from _standin import Adafactor, Array, Device, SyncError, reading
from test_state_file_resume import OPTIONS, needs


@pytest.mark.parametrize("setting", OPTIONS)
def test_goes_on_to_the_bit(setting, tmp_path):
    options, dtype, odd = OPTIONS[setting]
    needs("cupy", dtype, options)
    whole = trained(["cupy"], [10], dtype, options, tmp_path, odd)
    same(trained(["cupy", "cupy"], [5, 5], dtype, options, tmp_path, odd), whole)


@pytest.mark.filterwarnings("ignore:Numba is not installed")
@pytest.mark.parametrize("setting", ["rate, momentum, decay", "batch axis", "skipped tensors"])
@pytest.mark.parametrize("other", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("back", [False, True])
def test_to_and_from_other_adapters(other, setting, back, tmp_path):
    if other != "numpy":
        pytest.importorskip(other, reason=f"{other} is not installed")
    options, dtype, odd = OPTIONS[setting]
    options = {k: v for k, v in options.items() if k != "rules" or other != "torch"}
    kinds = [other, "cupy"] if back else ["cupy", other]
    whole, record = trained(kinds[:1], [10], dtype, options, tmp_path, odd)
    parts, last = trained(kinds, [5, 5], dtype, options, tmp_path, odd)
    for name, x in whole.items():
        close(parts[name], x, 1e-6, f"{kinds}, {name}")
    assert (last.step, last.skipped) == (record.step, record.skipped)


def test_slots_stay_on_the_device_of_their_tensor(tmp_path):
    x = {n: Array(g.copy(), Device(k)) for k, (n, g) in enumerate(drawn(0).items())}
    opt = Adafactor(x, lr=0.1, nonfinite="skip_step")
    with pytest.raises(SyncError):  # a save has to wait for the device
        opt.save_state(tmp_path / "s")
    with reading():
        opt.save_state(tmp_path / "s")
        opt.load_state(tmp_path / "s")
    for n, m in opt.state.moments.items():
        assert {a.device for a in m if a is not None} == {x[n].device}
    assert opt.state.step.device == x["b"].device  # the first of the tree


def test_a_refused_file_changes_nothing(tmp_path):
    x = {n: Array(g.copy()) for n, g in drawn(0).items()}
    opt = Adafactor(x, lr=0.1)
    opt.step({n: Array(g.copy()) for n, g in drawn(1).items()})
    with reading():
        Adafactor(x, lr=0.1, beta1=0.9).save_state(tmp_path / "s")
        opt.save_state(tmp_path / "before")
        with pytest.raises(af.StateError, match="Load it with a beta1"):
            opt.load_state(tmp_path / "s")
        opt.save_state(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    assert np.isfinite(x["s"]._values)
