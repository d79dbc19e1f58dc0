"""What the figures share. Colours are Okabe and Ito's, which colour-blind readers can tell apart.

Lines drawn later are thinner and broken, so that curves that lie on each other can all be seen.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # files only, no window

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

GRID = {"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}


def save(figure: Figure, path: Path) -> None:
    """Writes the PNG file and forgets the figure."""
    figure.savefig(path, dpi=130)
    plt.close(figure)
