"""The torch.optim.Optimizer. Holds no formula: the core has them."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from adafactor_core import (
    AdafactorError,
    Config,
    ConfigError,
    Metrics,
    Moments,
    ShapeError,
    StateError,
    TreeError,
)
from adafactor_core._decisions import unscaling
from adafactor_core._factoring import Layout, layout, small_unit
from adafactor_core._numerics import namespace
from adafactor_core._order import Group as Arranged
from adafactor_core._order import run
from adafactor_core._state import counts
from adafactor_core._step import warn_of_frozen
from adafactor_core._tree import check_dtype
from adafactor_core._work import Whole
from adafactor_core.variants import Variant

from ._counters import count_skips, count_step
from ._files import load_state, save_state
from ._loading import exact, matched
from ._options import (
    NAMES,
    WHOLE_STEP,
    Group,
    agree,
    check_executors,
    check_keys,
    config,
    defaults,
    overlaid,
    static,
)
from ._plan import Plan, told
from ._rows import Row, State, begun, checked_grad, fresh
from ._sharded import PLAIN, Placed, is_distributed, local, placed_like
from ._sums import Meshes

if TYPE_CHECKING:
    from ._backward import BackwardHooks

    Tensor = torch.Tensor
    Stateless = tuple[str, Tensor, Tensor, Config, Layout, Placed | None, Tensor]


class Adafactor(Optimizer):
    """Adafactor as a torch.optim.Optimizer.

    `params`: parameters, named parameters (`model.named_parameters()`: then state is matched by
    name when loaded, and random draws depend on names and not on positions), or groups, of dtype
    float16, bfloat16, float32 or float64. `lr`: a number, a one-element tensor, or None for the
    paper's relative step, which schedulers then multiply. Options by name as in docs/options.md,
    per group except `seed`, `max_grad_norm`, `nonfinite`, `telemetry` and `max_scratch_bytes`.
    `variant`: a named variant (docs/variants.md) whose options the given ones are laid over; groups
    may name their own. `compiled`: True wants the kernels (Numba's for CPU tensors, Triton's for
    GPU tensors), False the plain passes, None what is there. Raises ConfigError, DTypeError or
    TreeError, naming the parameter or option.
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor | None = None,
        *,
        variant: str | None = None,
        compiled: bool | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = True,
        differentiable: bool = False,
        **options: Any,
    ) -> None:
        executors = {"foreach": foreach, "fused": fused, "compiled": compiled}
        check_executors({**executors, "capturable": capturable, "differentiable": differentiable})
        # Laid over a variant again for every group: what it means may depend on the group's lr.
        self._variant, self._given = variant, {"lr": lr, **options}
        options = overlaid(variant, self._given)
        lr = options.pop("lr")
        group = {**defaults(lr, options), "capturable": capturable}
        # As given: the relative step that no lr means is not for groups with a rate of their own.
        group |= {"lr": lr, "step_size": group["step_size"] if "step_size" in options else None}
        group |= {} if variant is None else {"variant": variant}
        self._backward: BackwardHooks | None = None
        self._compiled = compiled  # no option of a group: those are saved and resumed
        self._forget()
        super().__init__(params, group)

    def _forget(self) -> None:
        self._configs: dict[int, tuple[Any, Config, Group]] = {}
        self._plans: dict[Any, Plan] = {}
        self._meshes = Meshes()
        self._exact: dict[Any, dict[str, Any]] = {}
        # Metrics of compiled steps, which may write to tensors but to no attribute; and the version
        # of each of these tensors that the last step outside of a graph has seen.
        self._told: dict[str, torch.Tensor] = {}
        self._seen: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_compiled", "_variant", "_given")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        exact = getattr(self, "_exact", {})
        super().__setstate__(state)
        self._backward = getattr(self, "_backward", None)  # a copy has none
        earlier: Group = {
            "_compiled": self.defaults.get("compiled"),
            "_variant": None,
            "_given": {},
        }
        self.__dict__ |= {**earlier, **self.__dict__}
        for holder in (self.defaults, *self.param_groups):  # earlier versions have it there
            holder.pop("compiled", None)
        self._forget()
        for param, found in exact.items():  # what torch has cast to the parameter's dtype
            self.state[param] = found
        for index, group in enumerate(self.param_groups):
            self._config(index, group)
        if self._backward is not None:
            self._attach(self._backward)

    def load_state_dict(self, state_dict: Any) -> None:
        """Continues from a saved state: by name where both were built from named parameters.

        Every dtype is kept. Raises StateError or ConfigError, naming what does not fit, and then
        nothing has changed.
        """
        hooks, stepping = self._optimizer_load_state_dict_pre_hooks, self._backward
        if isinstance(state_dict, Mapping):
            state_dict = dict(state_dict)
            for hook in hooks.values():
                changed = hook(self, state_dict)
                state_dict = state_dict if changed is None else changed
        saved = matched(self.param_groups, state_dict)
        found = exact(self.param_groups, saved, self._meshes.of)
        if stepping is not None:
            for group in saved["param_groups"]:
                stepping.check(group)
        self._exact = found
        self._optimizer_load_state_dict_pre_hooks = OrderedDict()  # they have run
        try:
            super().load_state_dict(saved)
        finally:
            self._exact = {}
            self._optimizer_load_state_dict_pre_hooks = hooks

    def save_state(
        self,
        file: str | os.PathLike[str],
        *,
        variant: str | Variant | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Writes the state, and not the parameters, to a file that every framework can read.

        Tensors are named as the parameters are, or by position where these have no names.
        `variant`: default the one it was made with. DTensors are gathered one at a time, and the
        first rank of their mesh writes: all ranks have to call. Raises StateError on all of them
        where they disagree, and OSError.
        """
        save_state(self, file, self._variant if variant is None else variant, progress)

    def load_state(self, file: str | os.PathLike[str]) -> None:
        """Goes on from the state in this file, whatever framework wrote it; matched by name.

        Options stay as they are. Every rank reads the file and keeps its parts. Raises
        StateFileError, StateError or FileNotFoundError, and then nothing has changed.
        """
        load_state(self, file)

    def _replaced(self, new: dict[torch.Tensor, State]) -> None:
        """Goes on from these states of all parameters."""
        self._forget()
        self.state.update(new)
        for index, group in enumerate(self.param_groups):
            self._config(index, group)
        if self._backward is not None:
            self._attach(self._backward)

    def add_param_group(self, param_group: Group) -> None:
        """Raises ConfigError for its options, DTypeError or TreeError for its parameters."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        given = {k: v for k, v in param_group.items() if k not in ("params", "param_names")}
        check_keys(given)
        param_group = {k: v for k, v in param_group.items() if k != "compiled"}
        if given.pop("compiled", self._compiled) != self._compiled:
            raise ConfigError("compiled concerns the whole step. Use Adafactor(..., compiled=...).")
        if given.get("variant", "") is None:  # as if it were left out
            del given["variant"]
            param_group = {k: v for k, v in param_group.items() if k != "variant"}
        variant = given.get("variant", self._variant)
        merged = {**self.defaults, **given}
        if variant is not None:
            named = {name: given[name] for name in NAMES if name in given}
            chosen = overlaid(variant, {**self._given, **named})
            merged = {k: v for k, v in merged.items() if k not in NAMES} | chosen
            given = {**(chosen if variant != self._variant else given), "variant": variant}
        first = self.param_groups[0] if self.param_groups else self.defaults
        for name in WHOLE_STEP:
            if given.get(name, first[name]) != first[name]:
                raise ConfigError(
                    f"{name}={merged[name]!r} in a group concerns the whole step. "
                    f"Use Adafactor(..., {name}=...)."
                )
            merged[name] = first[name]
        options = {name: merged.pop(name) for name in NAMES if name in merged}
        group = {**defaults(options.pop("lr", None), options), **merged}
        with warnings.catch_warnings():  # of parameters that are listed twice: an error here
            warnings.simplefilter("ignore", UserWarning)
            super().add_param_group({**param_group, **group})
        added = self.param_groups[-1]
        try:
            self._check_group(added)
        except Exception:
            self.param_groups.pop()
            raise
        if self._backward is not None:
            self._backward.watch(len(self.param_groups) - 1)

    def _check_group(self, group: Group) -> None:
        # Made here and not in the first step: a traced step must find it.
        options, frozen = self._config(len(self.param_groups) - 1, group), []
        others = enumerate(self.param_groups[:-1])
        taken = {name for k, other in others for name, _ in self._named(k, other)}
        seen: set[int] = set()
        for path, p in self._named(len(self.param_groups) - 1, group):
            if id(p) in seen:
                raise TreeError(f"parameter {path!r} is listed twice. List every parameter once.")
            if path in taken:
                raise TreeError(
                    f"two parameters have the name {path!r}, and state is matched by name. Give "
                    f"each its own, for example with a prefix per model."
                )
            seen.add(id(p))
            taken.add(path)
            if is_lazy(p):
                raise ShapeError(
                    f"parameter {path!r} has no shape yet: it is lazy. Run the model on one batch "
                    f"before you build the optimizer."
                )
            check_dtype(p, path)
            namespace(p), namespace(p.detach())  # looked up now, for the same reason
            self._meshes.of(p, options, path)
            layout(tuple(p.shape), options, path)
            frozen.append((path, p, options))
        warn_of_frozen(frozen)

    def _named(self, index: int, group: Group) -> Iterable[tuple[str, torch.Tensor]]:
        """Paths: names, or positions over all groups, as in a state dict."""
        first = sum(len(g["params"]) for g in self.param_groups[:index])
        names = group.get("param_names") or [str(first + k) for k in range(len(group["params"]))]
        return zip(names, group["params"], strict=True)

    def _every(self) -> Iterable[tuple[str, torch.Tensor]]:
        return (pair for k, group in enumerate(self.param_groups) for pair in self._named(k, group))

    def _config(self, index: int, group: Group) -> Config:
        try:
            now = static(group)
        except KeyError as error:
            raise ConfigError(
                f"group {index} has no {error}. Use add_param_group, which fills in the defaults."
            ) from None
        known = self._configs.get(index)
        if known is None or known[2] is not group or known[0] != now:
            agree(self.param_groups)
            if self._backward is not None:
                self._backward.check(group)
            known = self._configs[index] = (now, config(group), group)
        return known[1]

    @torch.inference_mode(False)  # or no step after that mode could write to the state
    def _init_group(self) -> None:
        """Gives every parameter that has its first gradient a state.

        torch.compile knows this name and runs it as Python, outside the graph. Once, for all
        groups: it looks at the state after the first call.
        """
        counters: dict[Any, torch.Tensor] = {}  # those that start together go on together
        for index, group in enumerate(self.param_groups):
            options = self._config(index, group)
            for path, p in self._named(index, group):
                if p.grad is None:
                    continue
                if not begun(self.state[p]):
                    if p.device not in counters or self._backward is not None:
                        counters[p.device] = torch.zeros((), dtype=torch.int32, device=p.device)
                    self._begin(path, p, options, counters[p.device])
                if options.telemetry and path not in self._told:
                    dtype = torch.promote_types(p.dtype, torch.float32)
                    numbers = torch.zeros(len(Metrics._fields), dtype=dtype, device=p.device)
                    self._told[path], self._seen[path] = numbers, 0
        self._meshes.meet(self._every())

    def _begin(self, path: str, p: torch.Tensor, options: Config, counter: torch.Tensor) -> None:
        kept = self.state[p] if isinstance(self.state[p], dict) else {}  # what users put there
        at = self._meshes.of(p, options, path)
        self.state[p] = {**kept, "step": counter, **fresh(path, p, options, at)}

    def _end(self, p: torch.Tensor) -> None:
        """Takes back what `_begin` made."""
        for name in ("step", *Moments._fields):
            self.state[p].pop(name, None)
        if not self.state[p]:
            del self.state[p]

    def _rows(self) -> tuple[list[Row], list[torch.Tensor]]:
        """Every parameter that has a gradient, all of them checked; and those that begin here."""
        found = []
        tracing = torch.compiler.is_compiling()
        if tracing:  # outside of the graph: it must not look at states and options before they are
            self._init_group()
        for index, group in enumerate(self.param_groups):
            options = self._config(index, group)
            for path, p in self._named(index, group):
                if p.grad is not None:
                    found.append(self._checked(path, p, options))
        new = [p for *_, p in found if not begun(self.state[p])]
        if new:
            self._init_group()
        if not tracing:
            self._meshes.meet(self._every())
        return [Row(*row, self.state[row[-1]]) for row in found], new

    def _checked(self, path: str, p: torch.Tensor, options: Config) -> Stateless:
        """A Row without its state."""
        g, here, at = cast(torch.Tensor, p.grad), p, None
        checked_grad(path, p, g)
        if type(p) not in PLAIN or type(g) not in PLAIN:
            at = self._meshes.of(p, options, path) if is_distributed(p) else None
            here, g = local(p), local(placed_like(g, p, path))
        return path, here, g, options, layout(tuple(p.shape), options, path), at, p

    @torch.inference_mode(False)
    def _attach(self, hooks: BackwardHooks | None) -> None:
        """Every parameter is stepped by itself from now on, or all together again."""
        self._backward, self._plans = hooks, {}
        # So that GradScaler comes to `step`, which can say that the two do not go together.
        self._step_supports_amp_scaling = hooks is not None
        if hooks is not None:
            for state in self._states():
                state["step"] = state["step"].clone()

    def _states(self) -> list[State]:
        """Of the parameters that have begun; users may keep more in `state`."""
        return [state for state in self.state.values() if begun(state)]

    @torch.no_grad()
    def _step_one(self, index: int, path: str, p: torch.Tensor) -> None:
        """A step of one parameter alone, which shares its counter with no other."""
        agree(self.param_groups)
        options = self._config(index, self.param_groups[index])
        found = self._checked(path, p, options)
        new = [] if begun(self.state[p]) else [p]
        if new:
            with torch.inference_mode(False):
                counter = torch.zeros((), dtype=torch.int32, device=p.device)
                self._begin(path, p, options, counter)
        self._meshes.meet(self._every())
        self._step([Row(*found, self.state[p])], new, id(p))

    def metrics(self) -> dict[str, Metrics]:
        """The numbers of the last step by parameter; needs `telemetry`. Read only when asked."""
        if not any(group["telemetry"] for group in self.param_groups):
            raise StateError("there are no metrics without telemetry. Use telemetry=True.")
        found: dict[str, Metrics] = {}
        for plan in self._plans.values():
            found |= plan.metrics()
        for path, values in self._told.items():
            if values._version != self._seen[path]:
                found[path] = Metrics(*values.unbind())
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. `closure`: re-evaluates the model and returns the loss, which is returned."""
        loss = None
        if self._backward is not None:
            self._check_plain(closure)
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rows, new = self._rows()
        if rows:
            self._step(rows, new, None)
        if self._backward is not None:
            self.zero_grad()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's; what backward hooks have counted towards their next step is forgotten."""
        super().zero_grad(set_to_none)
        if self._backward is not None:
            self._backward.flushed()

    def _check_plain(self, closure: Any) -> None:
        if closure is not None:
            raise ConfigError(
                "step(closure) calls backward, but attach_backward_hooks has every backward take "
                "steps. Call loss.backward() yourself and step() without a closure."
            )
        if hasattr(self, "found_inf"):  # GradScaler was here; it leaves its tensors behind
            self.__dict__.pop("grad_scale", None)
            del self.found_inf
            raise ConfigError(
                "GradScaler unscales gradients after backward, but attach_backward_hooks has "
                "used them up by then. Use bfloat16, which needs no scaler, or plain steps."
            )

    def _step(self, rows: list[Row], new: list[torch.Tensor], key: Any) -> None:
        """`new`: those that begin with this step; `key`: of the plan that the rows go by."""
        try:
            self._take(rows, key)
        except AdafactorError:  # which says that nothing has changed
            for p in new:
                self._end(p)
            raise

    def _take(self, rows: list[Row], key: Any) -> None:
        if torch.compiler.is_compiling():  # a trace keeps nothing, and is guarded by what it reads
            plan = Plan(False)
        else:
            plan = self._plans.get(key) or Plan(self._compiled)
            self._plans.pop(key, None)
            self._plans[key] = plan  # the last one: so metrics() has the latest numbers
        unscale = unscaling(getattr(self, "grad_scale", None))
        unit = small_unit(sum(prod(row.plan.shape) for row in rows))
        sums = self._meshes.sums(rows)
        whole = Whole(rows[0].options, sums is not None, unscale=unscale, unit=unit, gain=unscale)
        works = plan.works(rows, whole)
        groups = plan.groups(works, rows)
        try:
            for together in groups:
                run(together, sums)
        finally:
            for work in works:
                work.grad = None
        if counts(whole.options):
            count_skips(rows, works)
        count_step(rows, self._states() if key is None else [r.state for r in rows], whole.fine)
        if whole.options.telemetry:
            self._tell(groups, rows)

    def _tell(self, groups: Sequence[Sequence[Arranged]], rows: list[Row]) -> None:
        if torch.compiler.is_compiling():
            for path, metrics in told(groups).items():
                self._told[path].copy_(torch.stack(list(metrics)))
        else:
            for path in self._told.keys() & {row.path for row in rows}:
                self._seen[path] = self._told[path]._version
