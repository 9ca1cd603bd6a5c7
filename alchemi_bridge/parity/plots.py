"""Parity plots: forces of every path against the reference, and the margin of every comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from alchemi_bridge.parity.compare import limits
from alchemi_bridge.parity.run import CaseReport, PathReport, Report

#: Colours that remain distinct for the colour-blind (Okabe and Ito, 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# not as many as colours: two paths would look the same as soon as both begin anew
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">")

#: Whatever is off.
_RED = "#B00020"

#: Scale of the error axis where all errors are zero.
_NO_ERROR = 1e-15

_DPI = 130


Style = Mapping[str, Any]


def styles(report: Report) -> dict[str, Style]:
    """Colour and marker of each path, the same in all plots of a report."""
    compared = {path.name for case in report.cases for path in case.ran}
    compared -= {case.reference for case in report.cases}
    names = [path.name for path in report.paths if path.name in compared]
    return {
        name: {
            "color": _COLOURS[index % len(_COLOURS)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": "none",
        }
        for index, name in enumerate(names)
    }


def _figure(width: float, height: float) -> Figure:
    # no pyplot: no global state, no window system, nothing to close
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _soften(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _forces(path: PathReport) -> np.ndarray:
    return np.concatenate([result.forces.ravel() for result in path.results])


def comparable(case: CaseReport) -> tuple[PathReport, list[PathReport]] | None:
    """The reference and the paths whose forces can be drawn against it; None if there are none."""
    reference = next(path for path in case.paths if path.name == case.reference)
    if not reference.results:
        return None
    shape = _forces(reference).shape
    others = [
        path
        for path in case.ran
        if path is not reference and path.results and _forces(path).shape == shape
    ]
    return (reference, others) if others and shape[0] else None


def plot_case(case: CaseReport, file: Path, style: Mapping[str, Style]) -> bool:
    """Draw a column for each path: its forces against the reference above, their errors below.

    Parameters
    ----------
    case
        A case that ran.
    file
        PNG file to write.
    style
        Colour and marker of each path, see :func:`styles`.

    Returns
    -------
    bool
        Whether there was something to draw.
    """
    found = comparable(case)
    if found is None:
        return False
    reference, others = found
    expected = _forces(reference)
    figure = _figure(1.2 + 2.4 * max(len(others), 2), 5.6)
    panels = figure.subplots(
        2, len(others), sharex=True, sharey="row", height_ratios=[5, 4], squeeze=False
    )
    floor = _floor(expected, others)
    for (top, bottom), path in zip(panels.T, others, strict=True):
        _parity_panel(top, expected, path, style[path.name])
        _residual_panel(bottom, expected, path, style[path.name], floor)
    tolerance = min(limits(result, case.precision).force_max for result in reference.results)
    _draw_tolerance(panels[1], tolerance, floor)
    atoms = len(case.frames[0])
    verdict = "all within tolerance" if case.passed else "NOT within tolerance"
    figure.suptitle(
        f"{case.case.name}: {verdict}   ({atoms} atom{'s' * (atoms != 1)}, "
        f"{len(case.frames)} frames, {case.dtype})",
        fontsize=11,
        color="black" if case.passed else _RED,
    )
    panels[0, 0].set_ylabel("force component (eV/Å)")
    panels[1, 0].set_ylabel("error of the component (eV/Å)")
    figure.supxlabel(f"force component of the reference, {case.reference} (eV/Å)", fontsize=10)
    figure.savefig(file)
    return True


def _floor(expected: np.ndarray, others: list[PathReport]) -> float:
    """Where errors of exactly zero are drawn: a decade below all others."""
    errors = np.concatenate([np.abs(_forces(path) - expected) for path in others])
    positive = errors[np.isfinite(errors) & (errors > 0.0)]
    smallest = positive.min() if positive.size else _NO_ERROR
    return float(10.0 ** (np.floor(np.log10(smallest)) - 1.0))


def _parity_panel(axes: Axes, expected: np.ndarray, path: PathReport, style: Style) -> None:
    finite = expected[np.isfinite(expected)]
    low, high = (finite.min(), finite.max()) if finite.size else (-1.0, 1.0)
    margin = 0.06 * (high - low) or 1e-3
    ends = (float(low - margin), float(high + margin))
    axes.plot(ends, ends, color="0.6", linewidth=1.0, zorder=1)
    axes.plot(expected, _forces(path), **style, markersize=3, markeredgewidth=0, alpha=0.6)
    axes.set_xlim(ends)
    axes.set_title(
        path.name if path.passed else f"{path.name}: OFF",
        fontsize=10,
        color="black" if path.passed else _RED,
    )
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(axis="both", style="sci", scilimits=(-3, 4))
    _soften(axes)


def _residual_panel(
    axes: Axes, expected: np.ndarray, path: PathReport, style: Style, floor: float
) -> None:
    error = np.abs(_forces(path) - expected)
    missing = int(np.sum(~np.isfinite(error)))
    shown = np.where(error == 0.0, floor, error)
    axes.plot(expected, shown, **style, markersize=3, markeredgewidth=0, alpha=0.6)
    if missing:
        axes.text(
            0.5,
            0.5,
            f"{missing} not finite",
            transform=axes.transAxes,
            ha="center",
            color=_RED,
            fontsize=9,
        )
    axes.set_yscale("log")
    _soften(axes)


def _draw_tolerance(panels: Sequence[Axes], tolerance: float, floor: float) -> None:
    """The line that no point may cross; where exact agreement is drawn, the axis says so."""
    _, high = panels[0].get_ylim()
    if math.isfinite(tolerance):
        high = max(high, 30.0 * tolerance)
        for axes in panels:
            axes.axhline(tolerance, color="0.25", linestyle="--", linewidth=1.0)
        panels[0].annotate(
            f"tolerance {tolerance:.1e}",
            (0.02, tolerance),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
            color="0.25",
        )
    panels[0].set_ylim(0.2 * floor, high)
    first = math.ceil(math.log10(floor)) + 1
    decades = list(range(first, math.floor(math.log10(high)) + 1))
    every = math.ceil(len(decades) / 6)
    kept = decades[::-1][::every]
    panels[0].set_yticks(
        [floor, *(10.0**d for d in kept)], ["exact", *(f"$10^{{{d}}}$" for d in kept)]
    )
    panels[0].yaxis.set_minor_locator(NullLocator())


def plot_margins(report: Report, file: Path) -> bool:
    """Draw, for every case and path, the largest error over its tolerance: right of 1 is off.

    Returns
    -------
    bool
        Whether there was something to draw.
    """
    style = styles(report)
    names = list(style)
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    broken: dict[int, list[str]] = {}
    for row, case in enumerate(report.cases):
        compared = [path for path in case.ran if path.name != case.reference]
        for index, path in enumerate(compared):
            y = row + 0.7 * ((index + 0.5) / len(compared) - 0.5)
            checks = path.comparison.checks if path.comparison else ()
            worst = max((check.severity for check in checks), default=math.inf)
            if path.problem is None and math.isfinite(worst):
                points[path.name].append((max(worst, 1e-9), y))
            else:
                broken.setdefault(row, []).append(path.name)
    if not broken and not any(points.values()):
        return False
    figure = _figure(8.2, 1.7 + 0.46 * len(report.cases))
    axes = figure.subplots()
    for name in names:
        if points[name]:
            errors, rows = zip(*points[name], strict=True)
            axes.plot(errors, rows, **style[name], markersize=5.5, markeredgewidth=0, label=name)
    axes.set_xscale("log")
    axes.set_xlim(1e-9, max([1e2, *(10 * x for name in names for x, _ in points[name])]))
    for row, without in broken.items():
        axes.annotate(
            f"no number: {', '.join(without)}",
            (0.995, row + 0.32),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            color=_RED,
            fontsize=8,
        )
    axes.axvspan(1.0, axes.get_xlim()[1], color=_RED, alpha=0.08, linewidth=0)
    axes.axvline(1.0, color="0.25", linestyle="--", linewidth=1.0)
    axes.set_yticks(range(len(report.cases)), [case.case.name for case in report.cases])
    axes.set_ylim(len(report.cases) - 0.5, -0.5)
    axes.set_xlabel("largest error / its tolerance   (right of the dashed line: not within)")
    axes.set_title("Every quantity of every path against the reference", fontsize=11)
    if any(points.values()):
        figure.legend(
            frameon=False, fontsize=9, loc="outside lower center", ncols=min(len(names), 5)
        )
    _soften(axes)
    figure.savefig(file)
    return True
