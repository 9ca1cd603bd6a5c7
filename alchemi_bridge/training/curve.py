"""The learning curve, as a table (CSV) and a picture (PNG)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from alchemi_bridge.model.files import write_atomically
from alchemi_bridge.training.rmse import QUANTITIES

#: Colours that remain distinct for the colour-blind (Okabe and Ito, 2008).
_COLOURS = {"training": "#0072B2", "validation": "#D55E00"}
_DPI = 130


class LearningCurve:
    """Rows of RMSEs by step, written whenever one is added.

    Parameters
    ----------
    path
        CSV; the picture has the same name with ``.png``.
    rows
        Those of the steps that are done already, from the checkpoint: what the file says of them,
        and of later steps that were lost, is replaced with the next row.
    """

    def __init__(self, path: Path, rows: Sequence[Mapping[str, float]] = ()) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = [dict(row) for row in rows]

    def add(
        self,
        step: int,
        rate: float | None,
        training: Mapping[str, float],
        validation: Mapping[str, float] | None = None,
    ) -> None:
        """Add the RMSEs after a step, and write the table; None: there is no learning rate."""
        row: dict[str, float] = {"step": step}
        if rate is not None:
            row["learning_rate"] = rate
        for label, errors in (("training", training), ("validation", validation or {})):
            row.update({f"{label}_{name}": value for name, value in errors.items()})
        self.rows.append(row)
        names = ["learning_rate", *(f"{a}_{b}" for a in _COLOURS for b in QUANTITIES)]
        columns = ["step", *(name for name in names if any(name in one for one in self.rows))]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for one in self.rows:
            writer.writerow({k: f"{v:.9g}" for k, v in one.items()})
        write_atomically(self.path, text.getvalue().encode())

    def plot(self) -> Path:
        """Draw the picture, and return its path."""
        target = self.path.with_suffix(".png")
        plot_rows(self.rows, target)
        return target


def plot_rows(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw RMSEs over steps, a panel for each quantity."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [n for n in QUANTITIES if any(f"training_{n}" in row for row in rows)] or ["energy"]
    figure = Figure(figsize=(4.2 * len(names), 3.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for label, colour in _COLOURS.items():
            key = f"{label}_{name}"
            points = [(row["step"], row[key]) for row in rows if row.get(key, 0.0) > 0.0]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1.0)
        axes.set(yscale="log", xlabel="step", title=f"{name} RMSE ({QUANTITIES[name]})")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="0.9", linewidth=0.6)
    if rows:
        figure.axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path)
