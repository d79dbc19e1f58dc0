"""`python -m adafactor_core`."""

import sys

from ._cli import main

sys.exit(main())
