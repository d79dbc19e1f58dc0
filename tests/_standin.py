"""An array library with devices, over NumPy: it stands in for CuPy, and cannot be read by the host.

Whatever would make the host wait for a GPU raises SyncError, unless within `reading()`. Work on
arrays of a device other than the current one is an error, as are arrays in CPU memory.
"""

import operator
from contextlib import contextmanager, nullcontext

import array_api_compat.numpy as xnp
import numpy as np

from adafactor_core._numerics import dtype_called
from adafactor_cupy._optimizer import DeviceOptimizer


class SyncError(AssertionError):
    """The host would wait for a device."""


class _Now:
    stack, reads = (0,), False
    tape = None  # what would be launches under CuPy, each to be run again


@contextmanager
def reading():
    """Lets values be read."""
    before, _Now.reads = _Now.reads, True
    try:
        yield
    finally:
        _Now.reads = before


@contextmanager
def taping():
    """A list of what is queued meanwhile, as calls that do it again in the same memory."""
    before, _Now.tape = _Now.tape, []
    try:
        yield _Now.tape
    finally:
        _Now.tape = before


def queue(work):
    """Runs it, now and whenever the tape is played."""
    work()
    if _Now.tape is not None:
        _Now.tape.append(work)


def made(function, *args, **kwargs):
    """What it makes of NumPy arrays."""

    def work():
        with np.errstate(all="ignore"):
            np.copyto(out, function(*args, **kwargs))

    with np.errstate(all="ignore"):
        out = np.asarray(function(*args, **kwargs))
    if not any(np.may_share_memory(out, a) for a in args if isinstance(a, np.ndarray)):
        queue(work)  # and not for a view, which is no launch
    return out


class Device:
    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Device) and self.number == other.number

    def __hash__(self):
        return self.number

    def __repr__(self):
        return f"<device {self.number}>"

    def __enter__(self):
        _Now.stack = (*_Now.stack, self.number)

    def __exit__(self, *_):
        _Now.stack = _Now.stack[:-1]


class Array:
    """The arithmetic, indexing by slices and `view` that the core may use, on one device."""

    def __init__(self, values, device=None):
        self._values = np.asarray(values)
        self.device = Device(_Now.stack[-1]) if device is None else device

    dtype = property(lambda self: self._values.dtype)
    shape = property(lambda self: self._values.shape)
    strides = property(lambda self: self._values.strides)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    nbytes = property(lambda self: self._values.nbytes)
    flags = property(lambda self: self._values.flags)
    T = property(lambda self: Array(self._values.T, self.device))

    def __array_namespace__(self, api_version=None):
        return xp

    def to_device(self, device, stream=None):
        return self if device == self.device else Array(self._values.copy(), device)

    def view(self, dtype):
        return Array(here(self).view(dtype), self.device)

    def __getitem__(self, index):
        return Array(here(self)[sliced(index)], self.device)

    def __setitem__(self, index, value):
        into, given = here(self), here(value)
        queue(lambda: into.__setitem__(sliced(index), given))

    def __dlpack_device__(self):
        return 2, self.device.number

    def __dlpack__(self, **_):
        return self

    def __repr__(self):
        return f"Array({numpy(self)!r})"


def sliced(index):
    for i in index if isinstance(index, tuple) else (index,):
        assert i is Ellipsis or isinstance(i, slice | int), f"indexed by a {type(i).__name__}"
    return index


def here(x):
    """The values of an array on the current device; numbers and dtypes as they are."""
    if isinstance(x, list | tuple):
        return type(x)(map(here, x))
    if isinstance(x, Array):
        assert x.device.number == _Now.stack[-1], f"{x.device} used on device {_Now.stack[-1]}"
        return x._values
    assert not isinstance(x, np.ndarray | np.generic), f"a {type(x).__name__} among device arrays"
    return x


def numpy(x):
    """A copy for the test to look at."""
    return x._values.copy()


def _operator(name):
    function = getattr(operator, name)

    def method(self, other=None):
        others = () if other is None else (here(other),)
        return Array(made(function, here(self), *others), self.device)

    def reflected(self, other):
        return Array(made(function, here(other), here(self)), self.device)

    def in_place(self, other):
        self[...] = method(self, other)
        return self

    setattr(Array, f"__{name.strip('_')}__", method)
    setattr(Array, f"__r{name.strip('_')}__", reflected)
    setattr(Array, f"__i{name.strip('_')}__", in_place)


for _name in ("add", "sub", "mul", "truediv", "pow", "and_", "or_", "xor", "lshift", "rshift"):
    _operator(_name)
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "neg"):
    _operator(_name)


def _read(name):
    def method(self, *_, **__):
        if not _Now.reads:
            raise SyncError(f"{name} of an array of shape {self.shape}")
        return getattr(self._values, name)()

    setattr(Array, name, method)


for _name in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist"):
    _read(_name)
_read("__array__")
Array.__hash__ = None


class Namespace:
    """NumPy's functions, of arrays on the current device or on that of `device=`."""

    __name__ = "standin"

    def __getattr__(self, name):
        if name == "bfloat16":
            return dtype_called(xnp, name, np.empty(0))
        found = getattr(xnp, name)
        if isinstance(found, type) or not callable(found):
            return found

        def call(*args, device=None, **kwargs):
            with nullcontext() if device is None else device:
                args, kwargs = here(args), {k: here(v) for k, v in kwargs.items()}
                return Array(made(found, *args, **kwargs))

        return call


xp = Namespace()


class Library:
    """What _device.CuPy is for CuPy."""

    name = "standin.Array"

    def __init__(self, passes=()):
        self._passes = passes
        self.waits = []

    def is_array(self, x):
        return isinstance(x, Array)

    def on(self, x):
        return x.device

    def wait(self, x, y):
        self.waits.append((x.device.number, y.device.number))

    def is_on_host(self, x):
        return x.__dlpack_device__()[0] == 1

    def from_dlpack(self, x):
        return x.__dlpack__()

    def copy(self, x):
        return Array(np.array(x._values if isinstance(x, Array) else x, order="C"))

    def address(self, x):
        return x._values.__array_interface__["data"][0]

    def share_memory(self, x, y):
        return np.shares_memory(x._values, y._values)

    def passes(self):
        return self._passes


class Adafactor(DeviceOptimizer):
    """adafactor_cupy.Adafactor over this library."""

    def __init__(self, params, config=None, *, passes=(), **options):
        super().__init__(Library(passes), params, config, options)
