"""Parameters and losses over the steps of a fit, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Colours that remain distinct for the colour-blind (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DPI = 130


def plot_fit(
    rows: Sequence[Mapping[str, float]],
    names: Sequence[str],
    path: Path,
    *,
    expected: Mapping[str, float] | None = None,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    axes_of_curves: tuple[str, str] = ("", ""),
) -> None:
    """Draw losses, relative changes of the parameters, and effective numbers of frames.

    Parameters
    ----------
    rows
        Of :func:`~alchemi_bridge.ensembles.fit.rows.row_of`; numbers that are not known are NaN.
    names
        Of the columns with parameters.
    path
        PNG.
    expected
        Values of parameters, where they are known: errors are drawn instead of changes.
    curves
        Drawn instead of the effective numbers: abscissa and ordinate by name, the first one is what
        the others are to be.
    axes_of_curves
        What the two are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _losses(left, rows)
    _parameters(middle, rows, names, expected)
    if curves is None:
        _effective(right, rows)
    else:
        for k, (label, (x, y)) in enumerate(curves.items()):
            # the first, broad and pale, can be seen behind one that lies on it
            style = {"color": COLOURS[(k - 1) % 6], "linewidth": 1.4, "zorder": 3}
            right.plot(x, y, label=label, **(style if k else {"color": "0.75", "linewidth": 5.0}))
        right.set(xlabel=axes_of_curves[0], title=axes_of_curves[1])
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="y", color="0.9", linewidth=0.6)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    figure.savefig(path)


def _losses(axes: Any, rows: Sequence[Mapping[str, float]]) -> None:
    columns = _columns(rows, "loss:")
    _lines(axes, rows, columns)
    axes.set(title="loss", xlabel="step")
    # the last row may have no loss
    if not any(row[column] <= 0.0 for row in rows for column in columns):
        axes.set_yscale("log")


def _parameters(
    axes: Any,
    rows: Sequence[Mapping[str, float]],
    names: Sequence[str],
    expected: Mapping[str, float] | None,
) -> None:
    shown = list(names)[: len(COLOURS)]
    for colour, name in zip(COLOURS, shown, strict=False):
        reference = expected[name] if expected else rows[0][name] if rows else 0.0
        if reference:
            values = [100.0 * (row[name] / reference - 1.0) for row in rows]
            axes.plot([row["step"] for row in rows], values, color=colour, label=name)
    axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    more = f", first {len(shown)} of {len(names)}" if len(names) > len(shown) else ""
    what = "error" if expected else "change"
    axes.set(title=f"{what} of the parameters in %{more}", xlabel="step")


def _effective(axes: Any, rows: Sequence[Mapping[str, float]]) -> None:
    _lines(axes, rows, _columns(rows, "n_eff:"))
    for row in rows:
        if row["simulations"]:
            axes.axvline(row["step"], color="0.85", linewidth=1.0, zorder=0)
    axes.set(title="effective frames (grey: simulated)", xlabel="step", ylim=(0.0, 1.05))


def _columns(rows: Sequence[Mapping[str, float]], begin: str) -> list[str]:
    return [column for column in (rows[0] if rows else ()) if column.startswith(begin)]


def _lines(axes: Any, rows: Sequence[Mapping[str, float]], columns: list[str]) -> None:
    steps = [row["step"] for row in rows]
    for colour, column in zip(COLOURS, columns, strict=False):
        values = [row[column] for row in rows]
        axes.plot(steps, values, color=colour, label=column.partition(":")[2], linewidth=1.2)
