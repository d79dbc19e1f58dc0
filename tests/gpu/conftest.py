"""Triton's interpreter for the tests of this folder, at a third of its time."""

import dataclasses
import os

import pytest


class Kept:
    """Stands for what would restore the language after each call."""

    def restore(self):
        pass


@pytest.fixture(autouse=True, scope="session")
def quick():
    """Prepares the language once, where the interpreter does at each call of each function; and
    leaves out its checks for overflow, which it computes and then, without `debug`, drops."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from triton.runtime import interpreter

    usual, prepared = interpreter._patch_lang, {}

    def once(function):
        if function.__module__ not in prepared:
            prepared[function.__module__] = usual(function)
        return Kept()

    builder = interpreter.interpreter_builder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once)
        patch.setattr(
            builder, "options", dataclasses.replace(builder.options, sanitize_overflow=False)
        )
        yield
