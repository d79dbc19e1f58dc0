"""Our adapters by name, alike: NumPy in and out, a state file between them."""

import tempfile
import warnings
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np

import adafactor_core as af

STEPS = {}
NAMES = ("numpy", "torch", "jax", "cupy")


def narrow(x, dtype):
    """A NumPy array of this dtype; bfloat16 is ml_dtypes'."""
    kind = import_module("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    return np.array(x, dtype=kind)


class NumPy:
    reading = nullcontext

    def __init__(self, params, dtype, options):
        self.params = {n: self.place(narrow(x, dtype)) for n, x in params.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of 16-bit parameters, and of Numba that is missing
            self.optimizer = self.made(options)

    def made(self, options):
        return import_module("adafactor_numpy").Adafactor(self.params, **options)

    def place(self, x):
        return x.copy()

    def step(self, grads, dtype):
        self.optimizer.step({n: self.place(narrow(g, dtype)) for n, g in grads.items()})

    def save(self, file):
        with self.reading():
            self.optimizer.save_state(file)

    def load(self, file):
        with self.reading():
            self.optimizer.load_state(file)

    def numbers(self):
        """Parameters as NumPy arrays of their own dtype."""
        return {n: np.array(x) for n, x in self.params.items()}


class CuPy(NumPy):
    """The adapter over a library that stands in for CuPy."""

    def __init__(self, params, dtype, options):
        self.standin = import_module("_standin")
        self.reading = self.standin.reading
        super().__init__(params, dtype, options)

    def made(self, options):
        return self.standin.Adafactor(self.params, **options)

    def place(self, x):
        return self.standin.Array(x.copy())

    def numbers(self):
        return {n: self.standin.numpy(x) for n, x in self.params.items()}


class Torch(NumPy):
    def __init__(self, params, dtype, options):
        self.torch = import_module("torch")
        super().__init__(params, dtype, options)

    def made(self, options):
        self.params = {n: self.torch.nn.Parameter(x) for n, x in self.params.items()}
        return import_module("adafactor_torch").Adafactor(self.params.items(), **options)

    def place(self, x):
        dtype = str(x.dtype)
        return self.torch.tensor(x.astype(np.float64)).to(getattr(self.torch, dtype))

    def step(self, grads, dtype):
        for n, g in grads.items():
            self.params[n].grad = self.place(narrow(g, dtype))
        self.optimizer.step()

    def numbers(self):
        found = {n: p.detach() for n, p in self.params.items()}
        return {
            n: narrow(p.to(self.torch.float64).numpy(), str(p.dtype).removeprefix("torch."))
            for n, p in found.items()
        }


class Jax(NumPy):
    def made(self, options):
        self.options = options
        # Compiled once for all runs: a step keeps nothing.
        if repr(options) not in STEPS:
            STEPS[repr(options)] = import_module("adafactor_jax").make_step(**options)
        init, self.move = STEPS[repr(options)]
        self.state = init(self.params)

    def place(self, x):
        return import_module("jax").numpy.asarray(x)

    def step(self, grads, dtype):
        grads = {n: self.place(narrow(g, dtype)) for n, g in grads.items()}
        self.params, self.state = self.move(self.params, grads, self.state)

    def save(self, file):
        import_module("adafactor_jax").save_state(file, self.params, self.state, **self.options)

    def load(self, file):
        loaded = import_module("adafactor_jax").load_state(file, self.params, **self.options)
        self.state = loaded


KINDS = {"numpy": NumPy, "cupy": CuPy, "torch": Torch, "jax": Jax}
SHAPES = {"w": (6, 5), "b": (130,), "s": (), "c": (2, 3, 140), "empty": (0, 3)}


def drawn(t, odd=()):
    """Parameters (t = 0) or gradients; at the steps in `odd` with a NaN."""
    rng = np.random.default_rng(t)
    found = {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    if t in odd:
        found["w"][2, 3] = np.nan
    return found


def trained(kinds, steps, dtype, options, folder, odd=(), suffix=".safetensors"):
    """Through these adapters one after another, `steps` each: parameters, and the state's record.

    From one to the next goes a state file, and the parameters to the bit.
    """
    folder = Path(tempfile.mkdtemp(dir=folder))  # a record reads its file until it is forgotten
    params, t = drawn(0), 0
    for k, kind in enumerate(kinds):
        run = KINDS[kind](params, dtype, options)
        if k:
            run.load(folder / f"{k}{suffix}")
        for _ in range(steps[k]):
            t += 1
            run.step(drawn(t, odd), dtype)
        params = run.numbers()
        run.save(folder / f"{k + 1}{suffix}")
    return params, af.interchange.read(folder / f"{len(kinds)}{suffix}")


def same(a, b):
    """Whether parameters and records are equal to the bit."""
    (x, r), (y, s) = a, b
    assert x.keys() == y.keys()
    for n in x:
        assert x[n].dtype == y[n].dtype
        assert x[n].tobytes() == y[n].tobytes(), n
    assert (r.step, r.skipped) == (s.step, s.skipped)
    for t, u in zip(r.tensors, s.tensors, strict=True):
        assert (t.path, t.skipped, t.step, t.slots.keys()) == (
            u.path,
            u.skipped,
            u.step,
            u.slots.keys(),
        )
        for slot in t.slots:
            assert bytes(t.slots[slot].bytes()) == bytes(u.slots[slot].bytes()), (t.path, slot)
