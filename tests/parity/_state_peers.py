"""Optimizers that take some steps, give away their state, and go on with another's."""

import os
from typing import Any

import numpy as np

import adafactor_core as af
from adafactor_core import interchange, layouts

os.environ.setdefault("KERAS_BACKEND", "jax")

Arrays = dict[str, np.ndarray]
SHAPES = {
    "matrix": (7, 5),
    "stack": (3, 4, 5),
    "vector": (5,),
    "scalar": (),
    "one": (1,),
    "dead": (6, 5),
    "thin": (6, 2, 7),
    "cube": (5, 5, 5),
    "square": (18, 18),
    "tall": (40, 36),
    "wide": (36, 40),
    "kernel": (20, 17, 3, 3),
}


def problem(names, steps=10, seed=0, dtype="float32"):
    """Parameters, and gradients of every step; heavy tails, a dead row and column."""
    rng = np.random.default_rng(seed)
    params = {}
    for name in names:
        x = rng.normal(size=SHAPES[name]) * 0.5
        params[name] = np.asarray(x + np.copysign(0.2, x), dtype)
    grads = []
    for _ in range(steps):
        g = {n: np.asarray(rng.standard_t(3, size=SHAPES[n]) * 0.1, dtype) for n in names}
        if "dead" in g:
            g["dead"][2], g["dead"][:, 3] = 0.0, 0.0
        grads.append(g)
    return params, grads


class Torch:
    """An optimizer of torch's kind, ours included. `format`: how its state dict is laid out."""

    def __init__(self, format: str, make: Any, params: Arrays, dtype: str = "float32") -> None:
        import torch

        self.format, self._torch, self._dtype = format, torch, getattr(torch, dtype)
        self.own = {n: torch.nn.Parameter(self._tensor(x)) for n, x in params.items()}
        self.optimizer = make(self.own)

    def _tensor(self, x: np.ndarray) -> Any:
        return self._torch.from_numpy(np.array(x, "float32")).to(self._dtype)

    def step(self, grads: Arrays) -> None:
        for name, p in self.own.items():
            p.grad = self._tensor(grads[name])
        self.optimizer.step()

    def params(self) -> Arrays:
        return {n: p.detach().float().numpy().copy() for n, p in self.own.items()}

    def state(self) -> Any:
        return self.optimizer.state_dict()

    def record(self, **given: Any) -> interchange.Record:
        return layouts.read(self.state(), self.format, self.own, **given)

    def load(self, record: interchange.Record, **given: Any) -> None:
        template = self.optimizer.state_dict()
        made = layouts.write(record, self.format, template, params=self.own, **given)
        self.optimizer.load_state_dict(made)


class Optax:
    format = "optax"

    def __init__(self, make: Any, params: Arrays, dtype: str = "float32") -> None:
        import jax.numpy as jnp

        self._jnp, self._dtype = jnp, dtype
        self.own = {n: jnp.asarray(x, dtype) for n, x in params.items()}
        self._tx = make()
        self._state = self._tx.init(self.own)

    def step(self, grads: Arrays) -> None:
        g = {n: self._jnp.asarray(x, self._dtype) for n, x in grads.items()}
        updates, self._state = self._tx.update(g, self._state, self.own)
        self.own = {n: x + updates[n].astype(x.dtype) for n, x in self.own.items()}

    def params(self) -> Arrays:
        return {n: np.asarray(x, "float32") for n, x in self.own.items()}

    def state(self) -> Any:
        return self._state

    def record(self, **given: Any) -> interchange.Record:
        return layouts.read(self._state, self.format, self.own, **given)

    def load(self, record: interchange.Record, **given: Any) -> None:
        self._state = layouts.write(record, self.format, self._state, **given)


class Jax(Optax):
    """Ours."""

    format = "adafactor_core"

    def __init__(self, config: af.Config, params: Arrays) -> None:
        import adafactor_jax

        self.config = config
        super().__init__(lambda: adafactor_jax.adafactor(**af.variants.options(config)), params)

    def record(self, **given: Any) -> interchange.Record:
        return super().record(options=self.config, **given)

    def load(self, record: interchange.Record, **given: Any) -> None:
        super().load(record, options=self.config, **given)


class NumPy:
    """Ours."""

    def __init__(self, config: af.Config, params: Arrays) -> None:
        self.config, self.own = config, {n: x.copy() for n, x in params.items()}
        self._state = af.init(self.own, config)

    def step(self, grads: Arrays) -> None:
        self.own, self._state = af.step(self.own, grads, self._state, self.config)

    def params(self) -> Arrays:
        return {n: np.asarray(x) for n, x in self.own.items()}

    def record(self, **given: Any) -> interchange.Record:
        return interchange.record(self.own, self._state, self.config)

    def load(self, record: interchange.Record, **given: Any) -> None:
        fits = layouts.reshaped(record, self.config, **given)
        self._state = interchange.state(fits, self.own, self.config)


class Keras:
    format = "keras"

    def __init__(self, call: dict[str, Any], params: Arrays, dtype: str = "float32") -> None:
        import keras

        self.own = {n: keras.Variable(x, dtype=dtype, name=n) for n, x in params.items()}
        self._optimizer = keras.optimizers.Adafactor(**call)
        self._optimizer.build(list(self.own.values()))

    def step(self, grads: Arrays) -> None:
        own = list(self.own.values())
        self._optimizer.apply([grads[n] for n in self.own], own)

    def params(self) -> Arrays:
        return {n: np.array(x.value, "float32") for n, x in self.own.items()}

    def state(self) -> Any:
        return self._optimizer.variables

    def record(self, **given: Any) -> interchange.Record:
        return layouts.read(self.state(), self.format, self.own, **given)

    def load(self, record: interchange.Record, **given: Any) -> None:
        made = layouts.write(record, self.format, self.state(), params=self.own, **given)
        for variable, x in zip(self._optimizer.variables, made, strict=True):
            variable.assign(x)


class Mlx:
    format = "mlx"

    def __init__(self, call: dict[str, Any], params: Arrays, dtype: str = "float32") -> None:
        import mlx.core as mx
        import mlx.optimizers

        mx.set_default_device(mx.cpu)
        self._mx, self._dtype = mx, getattr(mx, dtype)
        self.own = {n: mx.array(x).astype(self._dtype) for n, x in params.items()}
        self._optimizer = mlx.optimizers.Adafactor(**call)
        self._optimizer.init(self.own)

    def step(self, grads: Arrays) -> None:
        g = {n: self._mx.array(x).astype(self._dtype) for n, x in grads.items()}
        self.own = self._optimizer.apply_gradients(g, self.own)
        self._mx.eval(self.own, self._optimizer.state)

    def params(self) -> Arrays:
        return {n: np.array(x.astype(self._mx.float32)) for n, x in self.own.items()}

    def state(self) -> Any:
        return self._optimizer.state

    def record(self, **given: Any) -> interchange.Record:
        return layouts.read(self.state(), self.format, self.own, **given)

    def load(self, record: interchange.Record, **given: Any) -> None:
        self._optimizer.state = layouts.write(record, self.format, self.state(), **given)


def run(optimizer: Any, grads: list[Arrays]) -> Arrays:
    for g in grads:
        optimizer.step(g)
    return optimizer.params()


def error(a: Arrays, b: Arrays) -> float:
    """max over tensors of max|a - b| / max|b|"""
    assert a.keys() == b.keys()
    worst = [np.max(np.abs(a[n] - b[n])) / np.max(np.abs(b[n])) for n in b]
    return float(np.max(worst))  # NaN, if there is one
