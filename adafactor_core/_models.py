"""What a model's tensors look like, without the tensors: from a file, or from the code of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import ConfigError
from ._factoring import Shape
from ._numerics import dtype_name
from .interchange._entries import LIMIT, shape_of
from .interchange._json import MalformedError, parse
from .interchange._safetensors import contents

FORMS = (
    "a JSON file of shapes, {path: shape} or {path: [shape, dtype]}; a .safetensors file; or "
    "package.module:callable, a function of no arguments that makes a torch or JAX model"
)


@dataclass(frozen=True)
class Leaf:
    """Shape and dtype of a tensor; not a tuple, which a tree of tensors would be read through."""

    shape: Shape
    dtype: str


def read(model: str, framework: str | None = None, say: Callable[[str], Any] = print) -> dict[
    str, Leaf
]:  # fmt: skip
    """The tensors of `model` by path. `say` is told before code of somebody else's is run.

    Nothing but the header of a safetensors file is read. Raises ConfigError, which says what is
    wrong with the file, or what calling the function raised.
    """
    path = Path(model)
    if model.endswith(".safetensors"):
        return _opened(path, _safetensors)
    if model.endswith(".json"):
        return _opened(path, _shapes)
    module, colon, name = model.partition(":")
    if not colon or not module or not name or path.exists():
        raise ConfigError(f"MODEL is {model!r}, expected {FORMS}.")
    return _made(module, name, framework, say)


def _opened(path: Path, reader: Callable[[Path], dict[str, Leaf]]) -> dict[str, Leaf]:
    if path.exists() and not path.is_file():  # reading from a pipe could wait for ever
        raise ConfigError(f"{path} is no regular file.")
    try:
        return reader(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        text = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{path} holds no shapes of tensors: {text}.") from None


def _safetensors(path: Path) -> dict[str, Leaf]:
    with path.open("rb") as file:
        found = contents(file, path.stat().st_size)
    return {name: Leaf(entry.shape, entry.dtype) for name, entry in found.entries.items()}


def _shapes(path: Path) -> dict[str, Leaf]:
    if (size := path.stat().st_size) > LIMIT:
        raise ValueError(f"it has {size} bytes, and {LIMIT} is the limit")
    rows = parse(path.read_bytes(), "it")
    if not isinstance(rows, dict):
        raise ValueError("it is no JSON object")
    return {name: _row(name, row) for name, row in rows.items()}


def _row(name: str, row: Any) -> Leaf:
    shape, dtype = row, "float32"
    if isinstance(row, list) and len(row) == 2 and isinstance(row[0], list):
        shape, dtype = row
    try:
        sizes = shape_of(shape, f"tensor {name[:200]!r}")
    except MalformedError as error:
        raise ValueError(
            f"{error}: {str(row)[:100]}. Expected sizes such as [512, 2048], or [[512, 2048], "
            f"'bfloat16']"
        ) from None
    if not isinstance(dtype, str):
        raise ValueError(
            f"tensor {name[:200]!r} has the dtype {str(dtype)[:30]}, expected its name"
        )
    return Leaf(sizes, dtype)


def _made(module: str, name: str, framework: str | None, say: Callable[[str], Any]) -> dict[
    str, Leaf
]:  # fmt: skip
    say(f"importing {module}, which runs its code")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, "")
    try:
        make: Any = importlib.import_module(module)
        for part in name.split("."):
            make = getattr(make, part)
    except Exception as error:
        raise ConfigError(f"{module}:{name}: {type(error).__name__}: {error}.") from error
    if not callable(make):
        raise ConfigError(
            f"{module}:{name} is a {type(make).__name__}, expected a function of no arguments that "
            f"returns a model. Write one."
        )
    framework = framework or _framework(make, f"{module}:{name}")
    try:
        importlib.import_module(framework)
    except ImportError as error:
        raise ConfigError(f"--framework {framework}: {error}. Install it.") from error
    how = {
        "torch": "under torch.device('meta'), which allocates nothing",
        "jax": "traced for its shapes by eval_shape, which computes nothing",
    }[framework]
    say(f"calling {module}:{name}() {how}")
    try:
        return {"torch": _torch, "jax": _jax}[framework](make)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"calling {module}:{name}() raised {type(error).__name__}: {error}. It has to take no "
            f"arguments and return a torch.nn.Module, a JAX tree of parameters, or a module of "
            f"flax or equinox."
        ) from error


def _framework(make: Any, what: str) -> str:
    """Of a class its bases tell; of a function, which of the two its module has imported."""
    bases = {base.__module__.partition(".")[0] for base in getattr(make, "__mro__", ())}
    if bases & {"torch", "flax", "equinox"}:
        return "torch" if "torch" in bases else "jax"
    here = [name for name in ("torch", "jax") if name in sys.modules]
    if len(here) != 1:
        raise ConfigError(
            f"{what} could be of torch or of JAX: both are imported, or neither. Say which with "
            f"--framework torch or --framework jax."
        )
    return here[0]


def _torch(make: Callable[[], Any]) -> dict[str, Leaf]:
    import torch

    with torch.device("meta"):
        model = make()
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"it returned a {type(model).__name__}, expected a torch.nn.Module.")
    # Shared parameters are named once, as an optimizer gets them.
    return {n: Leaf(tuple(p.shape), dtype_name(p)) for n, p in model.named_parameters()}


def _jax(make: Callable[[], Any]) -> dict[str, Leaf]:
    import jax

    from adafactor_jax._trees import named  # the paths that rules will be matched with

    tree: Any
    if nnx := sys.modules.get("flax.nnx"):
        tree = nnx.eval_shape(make)
        if isinstance(tree, nnx.Module):
            tree = nnx.state(tree, nnx.Param)
    elif equinox := sys.modules.get("equinox"):
        tree = equinox.filter_eval_shape(make)
        tree = equinox.filter(tree, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    else:
        tree = jax.eval_shape(make)
    if isinstance(tree, Mapping) and "params" in tree:  # the variables of a flax linen module
        tree = tree["params"]
    return {n: Leaf(tuple(x.shape), dtype_name(x)) for n, x in named(tree).leaves.items()}
