"""Steps small enough to work out on paper."""

import numpy as np
import pytest

import adafactor_core as af
from _close import close
from _run import run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"lr": 0.5}, [2.0, 2.0], id="no decay: 4 - 0.5*4"),
        pytest.param({"lr": 0.5, "weight_decay": 0.1}, [1.2, 1.2], id="by alpha: less 0.1*0.5*4*4"),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "lr"},
            [1.8, 1.8],
            id="by lr: less 0.1*0.5*4",
        ),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "none"},
            [1.6, 1.6],
            id="by none: less 0.1*4",
        ),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "none", "weight_decay_first": True},
            [1.8, 1.8],
            id="first: 3.6 - 0.5*3.6",
        ),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "lr", "weight_decay_first": True},
            [1.9, 1.9],
            id="first, by lr: 3.8 - 0.5*3.8",
        ),
        pytest.param(
            {"weight_decay": 0.1, "weight_decay_by": "lr"},
            [3.56, 3.56],
            id="by lr where lr is None, which counts as 1: 4 - 0.01*4 - 0.1*4",
        ),
        pytest.param(
            {"lr": 0.5, "step_size": af.RelativeStep(cap=0.2), "weight_decay": 0.1},
            [3.44, 3.44],
            id="by alpha with a relative step: 4 - 0.1*4 - 0.1*0.1*4*4",
        ),
        pytest.param(
            {"lr": 0.5, "weight_decay": 0.1, "weight_decay_by": "none", "maximize": True},
            [5.6, 5.6],
            id="maximize still shrinks: 4 + 2 - 0.4",
        ),
        pytest.param(
            {"lr": 0.5, "scale_parameter": False, "weight_decay": 0.1},
            [3.3, 3.3],
            id="without scale: 4 - 0.5 - 0.1*0.5*4",
        ),
        pytest.param(
            {"lr": 0.5, "max_parameter_scale": 2.0}, [3.0, 3.0], id="scale capped: 4 - 0.5*2"
        ),
        pytest.param({"lr": 0.5, "eps2": 6.0}, [1.0, 1.0], id="scale from below: 4 - 0.5*6"),
        pytest.param({"lr": 0.5, "clip_threshold": 0.25}, [3.5, 3.5], id="clip: 4 - 0.5*4*0.25"),
        pytest.param({"lr": 0.5, "beta1": 0.75}, [3.5, 3.5], id="momentum from 0: 4 - 0.25*2"),
        pytest.param(
            {"lr": 0.5, "beta1": 0.75, "momentum_on": "update"}, [3.5, 3.5], id="of the update"
        ),
        pytest.param(
            {"lr": 0.5, "beta1": 0.75, "momentum_on": "grad"}, [3.5, 3.5], id="of the gradient"
        ),
    ],
)
def test_one_step_from_4_4_worked_out_by_hand(options, expected):
    """RMS(X) = 4, and U = 1 whatever the gradient, because V = G^2 at the first step."""
    new, _ = run(np.array([4.0, 4.0]), [np.array([3.0, 3.0])], af.Config(**options))
    close(new, np.array(expected), 1e-15)


def test_two_steps_by_hand():
    """V = 1, then 1 + 2**-0.8 (9 - 1); U = 3/sqrt(V) = 1.19 is clipped to 1."""
    x, state = run(np.array([1.0]), [np.array([1.0]), np.array([3.0])], af.Config(0.25))
    close(state.moments.full, np.array([1 + 8 * 2**-0.8]), 1e-15)
    close(x, np.array([0.75 * 0.75]), 1e-15)
    free, _ = run(
        np.array([1.0]), [np.array([1.0]), np.array([3.0])], af.Config(0.25, clip_threshold=None)
    )
    close(free, np.array([0.75 - 0.25 * 0.75 * 3 / np.sqrt(1 + 8 * 2**-0.8)]), 1e-15)


def test_a_factored_step_by_hand():
    """R = (2.5, 12.5)/..., as means: R = (1, 4), C = (1, 4), mean(R) = 2.5, V = R C / 2.5."""
    g = np.array([[1.0, 1.0], [1.0, np.sqrt(7.0)]])  # squares 1 1 / 1 7
    x, state = run(np.ones((2, 2)), [g], af.Config(0.5, clip_threshold=None))
    close(state.moments.row, np.array([[1.0], [4.0]]), 1e-15)
    close(state.moments.col, np.array([[1.0, 4.0]]), 1e-15)
    v = np.array([[0.4, 1.6], [1.6, 6.4]])
    close(x, 1.0 - 0.5 * g / np.sqrt(v), 1e-15)


@pytest.mark.parametrize(
    ("mode", "v"), [("grad_sq", 4.5), ("stats", 4.5), ("clamp", 4.0)], ids=lambda value: str(value)
)
def test_where_eps1_goes_in_a_full_moment(mode, v):
    config = af.Config(1.0, eps1=0.5, eps1_mode=mode, scale_parameter=False, clip_threshold=None)
    x, state = run(np.zeros(3), [np.full(3, 2.0)], config)
    close(x, np.full(3, -2.0 / np.sqrt(v)), 1e-15)
    assert state.moments.full[0] == (4.5 if mode == "grad_sq" else 4.0)


@pytest.mark.parametrize(
    ("mode", "eps1", "g2", "v"),
    [
        pytest.param("grad_sq", 0.5, 4.0, 4.5, id="grad_sq: (4 + 0.5)^2 / (4 + 0.5)"),
        pytest.param("stats", 0.5, 4.0, 4.5**2 / 4.0, id="stats: (4 + 0.5)^2 / 4"),
        pytest.param("clamp", 0.5, 4.0, 4.0, id="clamp, above: 4^2 / 4"),
        pytest.param("clamp", 0.25, 0.2, 0.16, id="clamp, mean(R) below eps1: 0.2^2 / 0.25"),
        pytest.param("clamp", 0.25, 0.1, 0.0625, id="clamp, V below eps1^2: 0.25^2"),
    ],
)
def test_where_eps1_goes_in_a_factored_moment(mode, eps1, g2, v):
    config = af.Config(1.0, eps1=eps1, eps1_mode=mode, scale_parameter=False, clip_threshold=None)
    g = np.full((2, 3), np.sqrt(g2))
    x, state = run(np.zeros((2, 3)), [g], config)
    close(x, -g / np.sqrt(v), 1e-15)
    kept = np.full((2, 1), 4.5 if mode == "grad_sq" else g2)
    close(state.moments.row, kept, 1e-15)


def test_eps1_clamps_v_at_its_square():
    config = af.Config(1.0, eps1=0.5, eps1_mode="clamp", scale_parameter=False, clip_threshold=None)
    small, _ = run(np.zeros(3), [np.full(3, 0.25)], config)
    close(small, np.full(3, -0.25 / 0.5), 1e-15)
    matrix, _ = run(np.zeros((2, 2)), [np.full((2, 2), 0.25)], config)
    close(matrix, np.full((2, 2), -0.25 / 0.5), 1e-15)  # V = (1/16)^2 / max(1/16, 1/2) < 1/4


def test_eps1_finfo_is_that_of_each_tensor():
    x = {d: np.zeros(3, d) for d in ("float16", "float32", "float64")}
    g = {d: np.full(3, 2.0**-20, d) for d in x}
    config = af.Config(
        1.0, eps1="finfo", eps1_mode="stats", scale_parameter=False, clip_threshold=None
    )
    _, _state = run(x, [g], config)
    d, _ = af.update(g, af.init(x, config), x, config)
    for name, eps in [("float16", 2.0**-10), ("float32", 2.0**-23), ("float64", 2.0**-52)]:
        close(d[name], np.full(3, -(2.0**-20) / np.sqrt(2.0**-40 + eps)), 1e-6)
