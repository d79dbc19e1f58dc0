"""What is judged: anything that can follow a case. Built in is the core on a namespace."""

import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import adafactor_core as af

from ._cases import Case, decode
from ._compare import MismatchError
from ._namespaces import Function, Namespace, UnavailableError, load
from ._oracle import Trajectory
from ._rounding import wide
from ._trees import Tree, leaves, map_leaves


class Subject(Protocol):
    """An optimizer under test. Adapters (a torch optimizer, an optax pair, ...) write their own."""

    name: str
    device: str
    mode: str

    def lacks(self, dtype: str) -> str | None:
        """Why tensors of this dtype cannot be judged here, or None if they can."""

    def trajectory(self, case: Case, dtype: str) -> Trajectory:
        """Follow `case.at(dtype)`: parameters after each step, and moments if it can show them."""


class CoreSubject:
    """`af.step` on a namespace, eager or compiled; compiled functions are kept, by case name."""

    def __init__(self, namespace: Namespace, mode: str = "eager") -> None:
        self.namespace, self.mode, self.name = namespace, mode, namespace.name
        self.device = namespace.device_name()
        self.quick = namespace.quick and mode == "eager"
        self._compiled: dict[tuple[str, str], Function] = {}

    def lacks(self, dtype: str) -> str | None:
        """The library's own words on a dtype it does not have."""
        try:
            self.namespace.dtype(dtype)
        except UnavailableError as error:
            return str(error)
        return None

    def config(self, case: Case) -> af.Config:
        """The case's options as the core takes them."""
        return af.Config(**decode(case.options, af.RelativeStep))

    def step(self, case: Case, donate: bool = False) -> Function:
        """(params, grads, state, grad_scale) -> (params, state)."""
        config = self.config(case)

        def step(
            params: Tree, grads: Tree, state: af.State, *scale: float
        ) -> tuple[Tree, af.State]:
            return af.step(params, grads, state, config, donate=donate, **_named(*scale))

        return self._in_mode("donate" if donate else "step", case, step)

    def update(self, case: Case) -> Function:
        """(params, grads, state, grad_scale) -> (updates, state)."""
        config = self.config(case)

        def update(
            params: Tree, grads: Tree, state: af.State, *scale: float
        ) -> tuple[Tree, af.State]:
            return af.update(grads, state, params, config, **_named(*scale))

        return self._in_mode("update", case, update)

    def _in_mode(self, kind: str, case: Case, function: Function) -> Function:
        if self.mode != "eager":
            key = kind, case.name
            if key not in self._compiled:
                self._compiled[key] = self.namespace.compile(function)
            function = self._compiled[key]

        def call(params: Tree, grads: Tree, state: af.State, scale: float | None = None) -> Any:
            given = () if scale is None else (scale,)  # None is no array: it cannot be traced
            return function(params, grads, state, *given)

        return call

    def start(self, case: Case, dtype: str) -> tuple[Tree, af.State]:
        """The case's parameters as the library's arrays, and the state for them."""
        params = self.arrays(case.params, dtype)
        with warnings.catch_warnings():  # that 16-bit tensors lose small updates is tested as such
            warnings.simplefilter("ignore", af.LowPrecisionWarning)
            state = af.init(params, self.config(case))
        return params, self.namespace.settle(state)

    def arrays(self, tree: Tree, dtype: str) -> Tree:
        """A tree of float64 NumPy as the library's arrays."""
        return map_leaves(lambda leaf: self.namespace.asarray(leaf, dtype), tree)

    def numbers(self, tree: Tree, dtype: str | None = None) -> dict[str, Any]:
        """Path to float64 NumPy; raises MismatchError for an array that is not of `dtype`."""
        found = leaves(tree)
        for path, leaf in found.items():
            if dtype and (has := str(leaf.dtype).rpartition(".")[2]) != dtype:
                raise MismatchError(f"{path!r} has dtype {has}, expected {dtype}")
        return {path: self.namespace.to_numpy(leaf) for path, leaf in found.items()}

    def trajectory(self, case: Case, dtype: str) -> Trajectory:
        """Drive `af.step`; read-only inputs where the library knows such a thing."""
        case, after, moments = case.at(dtype), [], []
        steps: list[int] = []
        skipped: list[int] = []
        with self.namespace.scope(dtype):
            for params, state in self.states(case, dtype):
                after.append(self.numbers(params, dtype))
                moments.append(self.numbers(state.moments))
                steps.append(self.count(state.step))
                skipped.extend([] if state.skipped is None else [self.count(state.skipped)])
                self._check_moments(state.moments, dtype)
        return Trajectory(after, (), moments, steps, skipped)

    def states(self, case: Case, dtype: str) -> Iterator[tuple[Tree, af.State]]:
        """Parameters and state after each step."""
        params, state = self.start(case, dtype)
        for grads, scale in case.attempts():
            params, state = self.step(case)(params, self.arrays(grads, dtype), state, scale)
            params, state = self.namespace.settle((params, state))
            yield params, state

    def count(self, counter: Any) -> int:
        """A counter of the state, which may be an int."""
        return counter if isinstance(counter, int) else int(self.namespace.to_numpy(counter))

    def _check_moments(self, moments: Tree, dtype: str) -> None:
        """Statistics are wide whatever the dtype of the tensor, and counters whole."""
        own = {"compensation": dtype, "skipped": "int32"}
        for path, slot in leaves(moments).items():
            name = path.rpartition(".")[2]
            if name != "momentum":
                self.numbers({path: slot}, own.get(name, wide(dtype)))


def _named(*scale: float) -> dict[str, Any]:
    return {"grad_scale": scale[0]} if scale else {}


def core_subjects(
    name: str, mode: str | None = None, device: str | None = None
) -> list[CoreSubject]:
    """The core on the library of this name, in `mode` or in all that the library runs by default.

    Raises UnavailableError if there is no such library or device, or it cannot compile.
    """
    namespace = load(name, device)
    if mode == "jit":
        namespace.compile(lambda x: x)
    return [CoreSubject(namespace, mode) for mode in ([mode] if mode else namespace.modes)]
