"""Times and ratios over the number of atoms, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alchemi_bridge.bench.run import BenchRow

#: Colours that remain distinct for the colour-blind (Okabe and Ito, 2008), markers by path.
_STYLES = {
    "metatomic-ase": ("#D55E00", "s", "metatomic-ase"),
    "metatomic-torchsim": ("#CC79A7", "D", "metatomic-torchsim"),
    "bridge-ase": ("#56B4E9", "^", "bridge, ASE calculator"),
    "bridge": ("#0072B2", "o", "bridge, provider"),
    "model": ("#999999", "x", "model alone"),
}
_DPI = 130


def plot_rows(rows: Sequence[BenchRow], path: Path, title: str) -> None:
    """Draw milliseconds per step (top) and ratios to metatomic-ase (bottom), a column per model."""
    names = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(4.6 * len(names), 6.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(names), squeeze=False, sharex="col",
                           gridspec_kw={"height_ratios": [3, 2]})  # fmt: skip
    for column, name in enumerate(names):
        mine = sorted((row for row in rows if row.model == name), key=lambda row: row.atoms)
        _times(grid[0, column], mine)
        _ratios(grid[1, column], mine)
    grid[0, 0].set_ylabel("ms per step")
    grid[1, 0].set_ylabel("time of metatomic-ase / time")
    grid[0, 0].legend(frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path)


def _soften(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _times(axes: Axes, rows: Sequence[BenchRow]) -> None:
    for path, (color, marker, label) in _STYLES.items():
        points = [(row.atoms, row.paths[path].median) for row in rows if path in row.paths]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=label)
    axes.set(xscale="log", yscale="log", title=f"{rows[0].model}, {rows[0].dtype}")
    _soften(axes)


def _ratios(axes: Axes, rows: Sequence[BenchRow]) -> None:
    for path in ("bridge-ase", "bridge", "model"):
        color, marker, _ = _STYLES[path]
        points = [
            (row.atoms, row.paths["metatomic-ase"].median / row.paths[path].median)
            for row in rows
            if "metatomic-ase" in row.paths and path in row.paths
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=marker)
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set(xscale="log", xlabel="atoms", ylim=(0.0, None))
    _soften(axes)
