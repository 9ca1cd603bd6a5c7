"""Parameters and losses over the steps of a fit, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

#: Colours that remain distinct for the colour-blind (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DPI = 130


def plot_fit(rows: Sequence[Mapping[str, float]], names: Sequence[str], path: Path) -> None:
    """Draw losses, relative changes of the parameters, and effective numbers of frames.

    Parameters
    ----------
    rows
        Of ``fit.csv``: ``step``, ``loss``, ``loss:OBJECTIVE``, ``NAME`` of the parameters,
        ``n_eff:OBJECTIVE``, ``simulations``.
    names
        Of the columns with parameters.
    path
        PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(rows[0]) if rows else []
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(12.0, 3.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _lines(left, steps, rows, [c for c in columns if c.startswith("loss:")])
    left.set(title="loss", xlabel="step")
    if all(row[c] > 0.0 for row in rows for c in columns if c.startswith("loss:")):
        left.set_yscale("log")
    shown = list(names)[: len(COLOURS)]
    for colour, name in zip(COLOURS, shown, strict=False):
        first = rows[0][name] if rows else 1.0
        if first:
            values = [100.0 * (row[name] / first - 1.0) for row in rows]
            middle.plot(steps, values, color=colour, label=name, linewidth=1.2)
    more = f", first {len(shown)} of {len(names)}" if len(names) > len(shown) else ""
    middle.set(title=f"parameters, change in %{more}", xlabel="step")
    _lines(right, steps, rows, [c for c in columns if c.startswith("n_eff:")])
    for row in rows:
        if row["simulations"]:
            right.axvline(row["step"], color="0.85", linewidth=1.0, zorder=0)
    right.set(title="effective frames (grey: simulated)", xlabel="step", ylim=(0.0, 1.05))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="y", color="0.9", linewidth=0.6)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    figure.savefig(path)


def _lines(
    axes: object, steps: Sequence[float], rows: Sequence[Mapping[str, float]], columns: list[str]
) -> None:
    for colour, column in zip(COLOURS, columns, strict=False):
        label = column.partition(":")[2]
        values = [row[column] for row in rows]
        axes.plot(steps, values, color=colour, label=label, linewidth=1.2)  # type: ignore[attr-defined]
