"""Tests on several ranks (gloo, CPU): nox -s "tests(distributed)"."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ranks() -> Iterator[Any]:
    """`ranks(3).run(function, *args)`: on three ranks at once."""
    pytest.importorskip("torch.distributed.tensor")
    from _ranks import Pools

    pools = Pools()
    yield pools
    pools.close()
