"""Is this Adafactor? An independent oracle, golden vectors, and checks for any array library.

`python -m adafactor_core conformance --namespace torch` prints a table. From Python, `run` judges
a `Subject`: the core on a library (`core_subjects`), or any optimizer that can follow a `Case`.
"""

from . import _needs_numpy as _needs_numpy
from ._cases import Case as Case
from ._checks import CHECKS as CHECKS
from ._compare import MismatchError as MismatchError
from ._core_checks import CORE_CHECKS as CORE_CHECKS
from ._drawn import draw_case as draw_case
from ._main import main as main
from ._namespaces import DTYPES as DTYPES
from ._namespaces import UnavailableError as UnavailableError
from ._oracle import Trajectory as Trajectory
from ._oracle import run as oracle
from ._report import Result as Result
from ._report import exit_code as exit_code
from ._report import judge as judge
from ._report import run as run
from ._subjects import CoreSubject as CoreSubject
from ._subjects import Subject as Subject
from ._subjects import core_subjects as core_subjects
from ._trial import Trial as Trial
from ._vectors import read as golden_vectors

__all__ = [
    "CHECKS",
    "CORE_CHECKS",
    "DTYPES",
    "Case",
    "CoreSubject",
    "MismatchError",
    "Result",
    "Subject",
    "Trajectory",
    "Trial",
    "UnavailableError",
    "core_subjects",
    "draw_case",
    "exit_code",
    "golden_vectors",
    "judge",
    "main",
    "oracle",
    "run",
]
