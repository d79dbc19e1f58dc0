"""The torch.optim.Optimizer. Holds no formula: the core has them."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from array_api_compat import torch as xp
from torch.optim import Optimizer

from adafactor_core import (
    ArrayPasses,
    Config,
    ConfigError,
    DTypeError,
    Metrics,
    Moments,
    StateError,
    TreeError,
    Work,
)
from adafactor_core._decisions import advanced, counted, unscaling
from adafactor_core._factoring import Layout, layout, small_unit
from adafactor_core._numerics import assign, namespace
from adafactor_core._order import Group as Arranged
from adafactor_core._order import arrange, run
from adafactor_core._prepare import given_up, make_work, own_rates
from adafactor_core._schedules import Clock
from adafactor_core._state import NO_MOMENTS, check, counts, slots, zeros
from adafactor_core._step import warn_of_frozen
from adafactor_core._tree import check_dtype, check_grad
from adafactor_core._work import Whole

from ._cpu import compiled_passes
from ._loading import exact, matched
from ._options import NAMES, WHOLE_STEP, Group, config, defaults, static


class Row(NamedTuple):
    """A parameter that has a gradient, and what belongs to it."""

    path: str
    param: torch.Tensor
    grad: torch.Tensor
    options: Config
    plan: Layout
    state: dict[str, Any]

    def moments(self) -> Moments:
        """The slots that its state has."""
        return Moments(*(self.state.get(name) for name in Moments._fields))

    def identity(self) -> tuple[Any, ...]:
        """What has to stay for what was prepared for it to stay valid: objects and memory."""
        slots = self.state.values()
        place = (_place(self.param), self.param.stride())
        return (id(self.param), id(self.options), *place, *map(id, slots), *map(_place, slots))

    def lag(self) -> Moments:
        """Its counter of skips alone, as a host array where it is in CPU memory."""
        skipped = self.state.get("skipped")
        if skipped is None:
            return NO_MOMENTS
        return NO_MOMENTS._replace(skipped=skipped.numpy() if _on_cpu(skipped) else skipped)


class Adafactor(Optimizer):
    """Adafactor as a torch.optim.Optimizer.

    `params`: parameters, named parameters (`model.named_parameters()`: then state is matched by
    name when loaded, and random draws depend on names and not on positions), or groups, of dtype
    float16, bfloat16, float32 or float64. `lr`: a number, a one-element tensor, or None for the
    paper's relative step, which schedulers then multiply. Options by name as in docs/options.md,
    per group except `seed`, `max_grad_norm`, `nonfinite`, `telemetry` and `max_scratch_bytes`.
    `compiled`: True wants the Numba passes for CPU tensors, False the plain ones, None what is
    there. Raises ConfigError, DTypeError or TreeError, naming the parameter or option.
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor | None = None,
        *,
        compiled: bool | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = True,
        differentiable: bool = False,
        **options: Any,
    ) -> None:
        for name, wanted in (("foreach", foreach), ("fused", fused)):
            if wanted is not None and not isinstance(wanted, bool):
                raise ConfigError(f"{name} must be True, False or None, got {wanted!r}.")
        if differentiable:
            raise ConfigError(
                "differentiable=True is not supported: the step is taken in place, without a "
                "graph. Use adafactor_core.step, which is made of differentiable operations."
            )
        group = {**defaults(lr, options), "capturable": capturable, "compiled": compiled}
        self._forget()
        super().__init__(params, group)

    def _forget(self) -> None:
        self._configs: dict[int, tuple[Any, Config, Group]] = {}
        self._kept: tuple[Any, list[Work]] = ((), [])
        self._arranged: tuple[Any, Sequence[Sequence[Arranged]]] = ((), ())
        self._exact: dict[Any, dict[str, Any]] = {}
        self._told: dict[str, Metrics] = {}  # what a compiled step leaves behind

    def __setstate__(self, state: dict[str, Any]) -> None:
        exact = getattr(self, "_exact", {})
        super().__setstate__(state)
        self._forget()
        for param, found in exact.items():  # what torch has cast to the parameter's dtype
            self.state[param] = found
        for index, group in enumerate(self.param_groups):
            self._config(index, group)
            self.defaults.update({name: group[name] for name in WHOLE_STEP})

    def load_state_dict(self, state_dict: Any) -> None:
        """Continues from a saved state: by name where both were built from named parameters.

        Every dtype is kept. Raises StateError or ConfigError, naming what does not fit, and then
        nothing has changed.
        """
        hooks = self._optimizer_load_state_dict_pre_hooks
        if isinstance(state_dict, Mapping):
            state_dict = dict(state_dict)
            for hook in hooks.values():
                changed = hook(self, state_dict)
                state_dict = state_dict if changed is None else changed
        saved = matched(self.param_groups, state_dict)
        self._exact = exact(self.param_groups, saved)
        self._optimizer_load_state_dict_pre_hooks = OrderedDict()  # they have run
        try:
            super().load_state_dict(saved)
        finally:
            self._exact = {}
            self._optimizer_load_state_dict_pre_hooks = hooks

    def add_param_group(self, param_group: Group) -> None:
        """Raises ConfigError for its options, DTypeError or TreeError for its parameters."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        given = {k: v for k, v in param_group.items() if k not in ("params", "param_names")}
        merged = {**self.defaults, **given}
        common = self.defaults["lr"]
        relative = isinstance(common, float) and common == 1.0  # a tensor is not read
        if relative and "lr" in given and "step_size" not in given:
            merged["step_size"] = None  # a rate of the group's own is applied exactly
        lr = merged.pop("lr")
        extra = {name: merged.pop(name) for name in sorted(set(self.defaults) - set(NAMES))}
        for name in WHOLE_STEP:
            if merged[name] != self.defaults[name]:
                raise ConfigError(
                    f"{name}={merged[name]!r} in a group concerns the whole step. "
                    f"Use Adafactor(..., {name}=...)."
                )
        unknown = sorted(set(merged) - set(self.defaults))
        keep = {name: merged.pop(name) for name in unknown}  # torch groups may carry anything
        group = {**defaults(lr, merged), **extra, **keep}
        with warnings.catch_warnings():  # of parameters that are listed twice: an error here
            warnings.simplefilter("ignore", UserWarning)
            super().add_param_group({**param_group, **group})
        added = self.param_groups[-1]
        try:
            self._check_group(added)
        except Exception:
            self.param_groups.pop()
            raise

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
            check_dtype(p, path)
            namespace(p), namespace(p.detach())  # looked up now, for the same reason
            layout(tuple(p.shape), options, path)
            frozen.append((path, p, options))
        warn_of_frozen(frozen)

    def _named(self, index: int, group: Group) -> Iterable[tuple[str, torch.Tensor]]:
        """Paths: names, or positions over all groups, as in a state dict."""
        first = sum(len(g["params"]) for g in self.param_groups[:index])
        names = group.get("param_names") or [str(first + k) for k in range(len(group["params"]))]
        return zip(names, group["params"], strict=True)

    def _config(self, index: int, group: Group) -> Config:
        now = static(group)
        known = self._configs.get(index)
        if known is None or known[2] is not group or known[0] != now:
            known = self._configs[index] = (now, config(group), group)
        return known[1]

    def _init_group(self, group: Group) -> None:
        """Gives every parameter of the group that has its first gradient a state.

        torch.compile knows this name and runs it as Python, outside the graph.
        """
        index = next(k for k, g in enumerate(self.param_groups) if g is group)
        options = self._config(index, group)
        fresh: dict[Any, torch.Tensor] = {}  # counters that start together go on together
        for path, p in self._named(index, group):
            if p.grad is None or self.state[p]:
                continue
            if p.device not in fresh:
                fresh[p.device] = torch.zeros((), dtype=torch.int32, device=p.device)
            moments = zeros(xp, p, layout(tuple(p.shape), options, path), options)
            kept = {n: a for n, a in moments._asdict().items() if a is not None}
            self.state[p] = {"step": fresh[p.device], **kept}

    def _rows(self) -> list[Row]:
        """Every parameter that has a gradient; all of them checked, and given a state."""
        rows = []
        for index, group in enumerate(self.param_groups):
            options = self._config(index, group)
            for path, p in self._named(index, group):
                g = p.grad
                if g is None:
                    continue
                usual = g.dtype is p.dtype and g.shape == p.shape and g.device == p.device
                if not usual or g.layout is not torch.strided:
                    _check_grad(path, p, g)
                plan = layout(tuple(p.shape), options, path)
                rows.append((path, p, g, options, plan))
        for group in self.param_groups:
            self._init_group(group)
        return [Row(*row, cast(dict[str, Any], self.state[row[1]])) for row in rows]

    def metrics(self) -> dict[str, Metrics]:
        """The numbers of the last step by parameter; needs `telemetry`. Read only when asked."""
        if not self.defaults["telemetry"]:
            raise StateError("there are no metrics without telemetry. Use telemetry=True.")
        return self._told or _told(self._arranged[1])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. `closure`: re-evaluates the model and returns the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rows = self._rows()
        if rows:
            self._step(rows)
        return loss

    def _step(self, rows: list[Row]) -> None:
        whole_options = rows[0].options
        unscale = unscaling(getattr(self, "grad_scale", None))
        unit = small_unit(sum(row.param.numel() for row in rows))
        whole = Whole(whole_options, unscale=unscale, unit=unit, gain=unscale)
        works = self._works(rows, whole)
        arranged = self._arrangement(works, rows)
        try:
            for together in arranged:
                run(together, None)
        finally:
            for work in works:
                work.grad = None
        self._count(rows, works, whole)
        if whole.options.telemetry and torch.compiler.is_compiling():
            self._told = _told(arranged)

    def _works(self, rows: list[Row], whole: Whole) -> list[Work]:
        clocks: dict[int, Clock] = {}
        for row in rows:
            counter = row.state["step"]
            if id(counter) not in clocks:
                clocks[id(counter)] = Clock(int(counter.numpy()) if _on_cpu(counter) else counter)
        if torch.compiler.is_compiling():  # a trace keeps nothing
            return [self._work(r, clocks[id(r.state["step"])], whole) for r in rows]
        # Somebody may have put another tensor under a parameter, or another array into its state.
        kept = tuple(r.identity() for r in rows)
        if self._kept[0] != kept:
            self._kept = (kept, [self._work(r, clocks[id(r.state["step"])], whole) for r in rows])
            self._arranged = ((), ())
        works = self._kept[1]
        for row, work in zip(rows, works, strict=True):
            clock = clocks[id(row.state["step"])]
            rates = own_rates(clock, whole, row.options, row.param, work.width, row.lag())
            key = clock.key(whole.options.seed, row.param) if work.draws else None
            work.again(row.grad, rates, whole, key)
        return works

    def _work(self, row: Row, clock: Clock, whole: Whole) -> Work:
        moments, origin = row.moments(), (0,) * row.param.ndim
        check(moments, slots(xp, row.param, row.plan, row.options), row.path)
        work = make_work(
            row.path, row.options, row.plan, xp, row.param, row.grad,
            moments._replace(skipped=row.lag().skipped), clock, "param", whole, origin,
        )  # fmt: skip
        work.moments = moments
        work.into = given_up(work)
        return work

    def _arrangement(self, works: list[Work], rows: list[Row]) -> Sequence[Sequence[Arranged]]:
        if torch.compiler.is_compiling():
            return arrange(works, (ArrayPasses(stream=False),))  # the compiler fuses and blocks
        kinds = tuple((w.grad.dtype, w.grad.is_contiguous()) for w in works)
        if not self._arranged[1] or self._arranged[0] != kinds:
            passes = compiled_passes(self.defaults["compiled"])
            # Kernels take batches of one clock.
            clocked: dict[int, list[Work]] = {}
            for row, work in zip(rows, works, strict=True):
                clocked.setdefault(id(row.state["step"]), []).append(work)
            parts = [arrange(ws, (*passes, ArrayPasses())) for ws in clocked.values()]
            found = [together for part in parts for together in part]
            if works[0].whole.joint:
                found = [[group for together in found for group in together]]
            self._arranged = (kinds, found)
        return self._arranged[1]

    def _count(self, rows: list[Row], works: list[Work], whole: Whole) -> None:
        """Moves the counters: in place where all that share one have moved."""
        if counts(whole.options):
            for row, work in zip(rows, works, strict=True):
                if work.fine is not None:
                    skipped = row.state["skipped"]
                    assign(skipped, (), counted(skipped, work.fine))
        sharing: dict[int, int] = {}
        for state in self.state.values():
            if "step" in state:
                sharing[id(state["step"])] = sharing.get(id(state["step"]), 0) + 1
        moving: dict[int, list[Row]] = {}
        for row in rows:
            moving.setdefault(id(row.state["step"]), []).append(row)
        for same in moving.values():
            counter = same[0].state["step"]
            after = advanced(counter, True if whole.fine is None else whole.fine)
            if len(same) == sharing[id(counter)]:
                assign(counter, (), after)
            else:
                for row in same:
                    row.state["step"] = after


def _told(arranged: Sequence[Sequence[Arranged]]) -> dict[str, Metrics]:
    groups = [group for together in arranged for group in together]
    return {w.path: m for p, ws in groups for w, m in zip(ws, p.metrics(ws), strict=True)}


def _check_grad(path: str, p: torch.Tensor, g: torch.Tensor) -> None:
    if g.layout is not torch.strided:
        raise DTypeError(
            f"the gradient of tensor {path!r} is sparse; Adafactor takes dense ones. "
            f"Use sparse=False for its embedding."
        )
    check_grad(xp, p, g, path)


def _place(x: torch.Tensor) -> int:
    """Where kernels would write."""
    return x.data_ptr() if _on_cpu(x) else 0


def _on_cpu(x: torch.Tensor) -> bool:
    """Whether the numbers are at hand: reading them waits for no device and breaks no trace."""
    plain = type(x) is torch.nn.Parameter or type(x) is torch.Tensor
    return plain and x.device.type == "cpu" and not torch.compiler.is_compiling()
