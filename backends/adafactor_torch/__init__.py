"""Adafactor for PyTorch: a torch.optim.Optimizer over adafactor_core."""

from ._optimizer import Adafactor as Adafactor

__all__ = ["Adafactor"]
