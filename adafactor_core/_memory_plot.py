"""The totals of a memory report as bars. Matplotlib is imported here, and only when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ._report import size_text

if TYPE_CHECKING:
    from ._memory import Report

LABELS = {
    "Adam": "Adam",
    "Adam fp32": "Adam, float32",
    "torch.optim": "torch.optim.Adafactor",
    "transformers": "transformers Adafactor",
    "optax": "optax.adafactor",
    "here": "adafactor-core",
}


def save(report: Report, model: str, file: Path) -> None:
    """Writes FILE; its ending names the format. Raises ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("--plot needs matplotlib: pip install matplotlib.") from None
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.subplots()
    totals = report.totals
    for y, name in enumerate(reversed(totals)):
        ax.barh(y, totals[name], color="#0072B2" if name == "here" else "#999999")
        ax.annotate(
            size_text(totals[name]), (totals[name], y), xytext=(5, 0),
            textcoords="offset points", va="center",
        )  # fmt: skip
    ax.axvline(report.param_bytes, color="#D55E00", lw=1.2, label="the parameters themselves")
    ax.set_yticks(range(len(totals)), [LABELS[name] for name in reversed(totals)])
    ax.set_xlim(0, 1.15 * max(*totals.values(), report.param_bytes, 1))
    ax.set_xlabel("bytes of optimizer state")
    ax.set_title(f"{model}: {report.parameters:,} parameters, {size_text(report.param_bytes)}")
    ax.legend(loc="lower right")
    try:
        figure.savefig(file, dpi=130)
    except ValueError as error:
        raise OSError(f"--plot {file}: {error}") from None
