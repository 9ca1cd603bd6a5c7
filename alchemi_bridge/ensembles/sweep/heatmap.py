"""The matrix as a picture: how far is each cell from its limit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from alchemi_bridge.ensembles.sweep.matrix import Matrix

#: Ends of the scale of colours, log10 of error over limit: beyond them nothing more is to be seen.
LOWEST, HIGHEST = -6.0, 6.0

#: Blue is within the limit, yellow to red is beyond; they differ in lightness, too.
COLOURS = LinearSegmentedColormap.from_list(
    "margin",
    [
        (0.0, "#08519c"),
        (0.35, "#6baed6"),
        (0.499, "#deebf7"),
        (0.501, "#fed976"),
        (0.7, "#f16913"),
        (1.0, "#7f0000"),
    ],
)

#: Cells without a number.
SKIPPED, ERROR = "#d9d9d9", "#000000"

#: Most columns and rows that are drawn; of more, neighbours share one, and the worst of them shows.
MOST_COLUMNS, MOST_ROWS = 1000, 600

#: Most labels along an axis, and cells that get their number written in.
_LABELS_ACROSS, _LABELS_DOWN, _WRITTEN = 60, 70, 150

#: Characters of a label.
_LONGEST = 34

_DPI = 130

# how bad a cell is: skipped, by its severity, error; for the worst of several
_SKIPPED_VALUE, _ERROR_VALUE = -np.inf, np.inf


def severities(matrix: Matrix) -> np.ndarray:
    """log10 of the worst error over its limit, shape (models x engines, structures).

    Minus infinity stands for skipped cells, infinity for errors; numbers are cut at
    :data:`LOWEST` and :data:`HIGHEST`, and a number that is missing counts as the highest.
    """
    plan = matrix.plan
    values = np.array([_value(row.status, row.severity) for row in matrix.rows])
    shape = (len(plan.models), len(plan.structures), len(plan.engines))
    return values.reshape(shape).transpose(0, 2, 1).reshape(-1, shape[1])


def _value(status: str, severity: float | None) -> float:
    if status == "skipped":
        return _SKIPPED_VALUE
    if status == "error":
        return _ERROR_VALUE
    if severity is None:
        return HIGHEST
    return min(max(math.log10(severity), LOWEST), HIGHEST) if severity > 0 else LOWEST


def binned(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """At most so many rows and columns: the worst of those that share one."""
    for axis, most in enumerate((rows, columns)):
        if values.shape[axis] > most:
            starts = np.linspace(0, values.shape[axis], most, endpoint=False).astype(int)
            values = np.maximum.reduceat(values, starts, axis=axis)
    return values


def colours(values: np.ndarray) -> np.ndarray:
    """RGBA of such values, shape (rows, columns, 4)."""
    scaled = Normalize(LOWEST, HIGHEST)(np.clip(values, LOWEST, HIGHEST))
    found = COLOURS(np.asarray(scaled))
    found[values == _SKIPPED_VALUE] = to_rgba(SKIPPED)
    found[values == _ERROR_VALUE] = to_rgba(ERROR)
    return np.asarray(found)


def plot(matrix: Matrix, path: Path) -> None:
    """Write the heat map as a PNG file: a row for each model and engine, a column a structure."""
    plan = matrix.plan
    values = severities(matrix)
    shown = binned(values, MOST_ROWS, MOST_COLUMNS)
    engines = [one.name for one in plan.engines]
    down = [f"{model.name}  {name}" for model in plan.models for name in engines]
    across = [one.name for one in plan.structures]
    width, height = _size(shown.shape, max(map(len, down)), max(map(len, across)))
    # no pyplot: no global state, no window system, nothing to close
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    extent = (-0.5, len(across) - 0.5, len(down) - 0.5, -0.5)
    axes.imshow(colours(shown), aspect="auto", interpolation="nearest", extent=extent)
    _label(axes, down, across)
    _separate(axes, shown.shape, len(engines), len(down), len(across))
    if values.size <= _WRITTEN:
        _write(axes, values)
    axes.set_title(_title(matrix), fontsize=10, loc="left", wrap=True)
    _legend(figure, axes, values)
    with warnings.catch_warnings():
        # names of files may be in any script; the HTML page shows them all
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure.savefig(path)


def _size(shape: tuple[int, ...], longest_down: int, longest_across: int) -> tuple[float, float]:
    """Of the figure, inches: cells of half an inch where there are few, of some pixels else."""
    rows, columns = shape
    across = min(max(0.55 * columns, 3.5), 16.0)
    down = min(max(0.38 * rows, 1.2), max(0.16 * rows, 9.0), 24.0)
    labels_left = 0.075 * min(longest_down, _LONGEST)
    labels_below = 0.07 * min(longest_across, _LONGEST)
    return across + labels_left + 1.4, down + labels_below + 1.2


def _label(axes: Axes, down: Sequence[str], across: Sequence[str]) -> None:
    """Names along both axes; where there are too many, of some rows and columns only."""
    for axis, names, most in (
        (axes.yaxis, down, _LABELS_DOWN),
        (axes.xaxis, across, _LABELS_ACROSS),
    ):
        step = max(1, math.ceil(len(names) / most))
        places = list(range(0, len(names), step))
        size = 8 if len(places) <= 40 else 6.5
        axis.set_ticks(places, [_short(names[place]) for place in places], fontsize=size)
        if step > 1:
            axis.set_label_text(f"one name in {step} of {len(names)} is shown", fontsize=8)
    axes.tick_params(axis="x", rotation=90 if len(across) > 6 else 30)
    if len(across) <= 6:
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.tick_params(length=2)
    axes.spines[:].set_visible(False)


def _short(name: str) -> str:
    # dollar signs would begin a formula
    name = name.replace("$", r"\$")
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _separate(axes: Axes, shown: tuple[int, ...], engines: int, rows: int, columns: int) -> None:
    """Lines between cells where those are large, and between models."""
    if shown[1] <= 100 and columns == shown[1]:
        for x in range(1, columns):
            axes.axvline(x - 0.5, color="white", linewidth=0.8)
    if rows <= 100:
        for y in range(1, rows):
            thick = y % engines == 0 and engines > 1
            axes.axhline(y - 0.5, color="white", linewidth=2.2 if thick else 0.6)


def _write(axes: Axes, values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        if value == _SKIPPED_VALUE:
            text, colour = "n/a", "0.45"
        elif value == _ERROR_VALUE:
            text, colour = "error", "white"
        else:
            text = f"≤{value:.0f}" if value == LOWEST else f"{value:+.1f}"
            text = f"≥+{value:.0f}" if value == HIGHEST else text
            colour = "black" if -3.2 < value < 2.8 else "white"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)


def _title(matrix: Matrix) -> str:
    counts = matrix.counts
    told = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
    what = (
        "log10 of the worst error over its limit"
        if len(matrix.rows) <= _WRITTEN
        else ("worst error over its limit")
    )
    return f"{what}, against {matrix.plan.reference.name}: {told}"


def _legend(figure: Figure, axes: Axes, values: np.ndarray) -> None:
    scale = ScalarMappable(Normalize(LOWEST, HIGHEST), COLOURS)
    bar = figure.colorbar(scale, ax=axes, fraction=0.05, pad=0.015, aspect=30, shrink=0.95)
    ticks = list(range(int(LOWEST), int(HIGHEST) + 1, 2))
    names = ["limit" if tick == 0 else f"$10^{{{tick}}}$" for tick in ticks]
    bar.set_ticks(ticks, labels=names, fontsize=8)
    bar.outline.set_visible(False)
    patches = []
    if np.any(values == _SKIPPED_VALUE):
        patches.append(Patch(color=SKIPPED, label="skipped"))
    if np.any(values == _ERROR_VALUE):
        patches.append(Patch(color=ERROR, label="error"))
    if patches:
        figure.legend(
            handles=patches, loc="outside lower right", ncols=2, fontsize=8, frameon=False
        )
