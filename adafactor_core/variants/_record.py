"""What a named variant is, and how its options meet those that a user gives. No formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from .._config import Config
from .._errors import ConfigError

Options = Mapping[str, Any]

NAMES = tuple(f.name for f in fields(Config) if f.name != "_")
GIVEN = "<given>"
"""In a condition: anything but None."""

EXACT: Options = MappingProxyType({"float32": 1e-6, "float64": 4e-15})
"""The bound for those that agree to rounding."""

FORMULAS: Options = MappingProxyType({"float64": 1e-14})
"""The bound against golden vectors."""


@dataclass(frozen=True)
class When:
    """`options` that a variant takes where the others, the user's included, are `these`."""

    these: Options
    options: Options

    def holds(self, chosen: Options) -> bool:
        def fits(name: str, wanted: Any) -> bool:
            found = chosen.get(name)
            if wanted is None or wanted == GIVEN:  # `found` may be an array, and then == is one
                return (found is None) == (wanted is None)
            return bool(found == wanted)

        return all(fits(name, wanted) for name, wanted in self.these.items())


@dataclass(frozen=True, eq=False, kw_only=True)
class Variant:
    """One implementation of Adafactor as options of `Config`. Calling it gives the Config.

    options: where it differs from Config's defaults. when: options that depend on other ones.
    required: options without a default there, which the user must give.
    project, file, version: the source that was read.
    checked: "run", the real implementation beside ours (`nox -s parity`); "formulas", a float64
    transcription of the published source; "settings", the implementation that it sets options of.
    accuracy: the bound of that comparison per dtype, `max|a - b| / max|b|` over tensors and ten
    steps. Where momentum has 16 bits, flips of its rounding come on top.
    reproduced: what agrees. left_out: defects of the original that are not reproduced, on purpose.
    not_reproduced: what it has that Config cannot express. notes: what users should know.
    """

    name: str
    project: str
    file: str
    version: str
    options: Options
    when: tuple[When, ...] = ()
    required: tuple[str, ...] = ()
    checked: Literal["run", "formulas", "settings"] = "run"
    accuracy: Options = field(default_factory=lambda: EXACT)
    reproduced: str
    left_out: tuple[str, ...] = ()
    not_reproduced: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "__doc__", f"{self.project}, {self.file}: {self.reproduced}")

    def __call__(self, lr: Any = None, **options: Any) -> Config:
        """The Config of this variant with these options in place of its own.

        `lr=None` is the variant's own rate. Raises ConfigError for an option that is missing,
        unknown or out of range.
        """
        try:
            return Config(**self.resolve({"lr": lr, **options}))
        except ConfigError as error:
            raise ConfigError(f"variant {self.name!r}: {error}") from None

    def resolve(self, given: Options) -> dict[str, Any]:
        """All options by name: the variant's, and `given` in their place.

        `lr=None` counts as not given. Raises ConfigError for an unknown or a missing option.
        """
        given = {n: value for n, value in given.items() if n != "lr" or value is not None}
        from ._from import check_names  # which knows the calls, which know the variants

        check_names(given, self.name)
        own = dict(self.options)
        chosen = {**own, **given}
        for case in self.when:
            if case.holds(chosen):
                own |= case.options
        chosen = own | given
        if missing := [name for name in self.required if chosen.get(name) is None]:
            raise ConfigError(
                f"it has no default for {missing[0]}. Give one, as in "
                f"variants.{self.name}({missing[0]}=1e-3)."
            )
        return chosen

    @property
    def citation(self) -> str:
        """The source that was read: project, file and version."""
        return f"{self.project}, {self.file} ({self.version})"

    def __reduce__(self) -> tuple[Any, ...]:
        from . import get

        return get, (self.name,)

    def __repr__(self) -> str:
        return f"variants.{self.name}"
