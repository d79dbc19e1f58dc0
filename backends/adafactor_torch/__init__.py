"""Adafactor for PyTorch: a torch.optim.Optimizer over adafactor_core."""

from ._backward import attach_backward_hooks as attach_backward_hooks
from ._logging import log_metrics as log_metrics
from ._optimizer import Adafactor as Adafactor

__all__ = ["Adafactor", "attach_backward_hooks", "log_metrics"]
