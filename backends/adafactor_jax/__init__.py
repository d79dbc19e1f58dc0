"""Adafactor for JAX: gradient transformations for optax, and a jitted step, over adafactor_core."""

from adafactor_core.schedules import zero_based as zero_based

from ._sharding import state_sharding as state_sharding
from ._transform import Step as Step
from ._transform import Transformation as Transformation
from ._transform import adafactor as adafactor
from ._transform import make_step as make_step
from ._transform import scale_by_adafactor as scale_by_adafactor

__all__ = [
    "Step",
    "Transformation",
    "adafactor",
    "make_step",
    "scale_by_adafactor",
    "state_sharding",
    "zero_based",
]
