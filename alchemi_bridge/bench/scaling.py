"""A model of how a step scales with the number of ranks, and a picture of it.

A rank evaluates the rows of its own atoms, and those of halo atoms whose messages reach them: the
atoms within range minus cutoff plus skin of its domain (its own alone, if the range is the cutoff).
The time of a step is a constant, a part for each atom that a rank knows, halo included, and a part
for each row; all three are measured on one rank. What is exchanged are three coordinates out and
three forces back for each halo atom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alchemi_bridge.bench.ranks import RanksRow
from alchemi_bridge.domain import choose_grid
from alchemi_bridge.domain.evaluator import NO_PLACE

#: Network of a cluster (100 Gbit/s, MPI over InfiniBand): seconds for a message, bytes in a second.
LATENCY, BANDWIDTH = 2e-6, 1.25e10

#: A domain ends between its atoms and the next: half a mean spacing beyond its own.
HALF_SPACING = 0.5

BYTES_OF_AN_ATOM = 48
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 125, 192, 256, 384, 512, 768, 1000)


@dataclass(frozen=True)
class Prediction:
    """Of one number of ranks.

    Attributes
    ----------
    ranks
        How many.
    halo, rows
        Halo atoms of a rank over its home atoms; rows of a rank over those of its home atoms.
    exchange
        Seconds for what travels in a step.
    time
        Time of a step over that of one rank.
    """

    ranks: int
    halo: float
    rows: float
    exchange: float
    time: float


def around(sides: np.ndarray, lengths: np.ndarray, width: float) -> float:
    """Volume within ``width`` of a box in a periodic cell; directions that it fills do not grow.

    The parallel body of a box (J. Steiner, 1840), cut off where it meets itself.
    """
    free = sides < lengths * (1.0 - 1e-9)
    filled = float(np.prod(sides[~free]))
    if free.sum() == 0:
        return filled
    a, b, c = (float(side) for side in np.append(sides[free], np.zeros(int((~free).sum()))))
    if free.sum() == 1:
        grown = a + 2.0 * width
    elif free.sum() == 2:
        grown = a * b + 2.0 * width * (a + b) + math.pi * width**2
    else:
        faces, edges = a * b + b * c + a * c, a + b + c
        grown = a * b * c + 2.0 * width * faces + math.pi * width**2 * edges
        grown += 4.0 / 3.0 * math.pi * width**3
    return min(filled * grown, float(np.prod(lengths)))


def predict(row: RanksRow, n_ranks: int, n_atoms: int | None = None) -> Prediction:
    """What a measurement on one rank says of many, for a cube of as many atoms.

    Parameters
    ----------
    row
        Measured on one rank.
    n_ranks
        How many ranks.
    n_atoms
        How many atoms; as in the measurement by default.
    """
    atoms = row.atoms if n_atoms is None else n_atoms
    edge = (atoms / row.density) ** (1.0 / 3.0)
    lengths = np.full(3, edge)
    sides = lengths / np.array(choose_grid(n_ranks, lengths, halo=row.range + row.skin))
    spacing = HALF_SPACING * row.density ** (-1.0 / 3.0)
    own = float(np.prod(sides))
    halo = around(sides, lengths, row.range + row.skin - spacing) / own - 1.0
    hops = row.range - row.cutoff
    rows = 1.0
    if hops >= NO_PLACE * row.range:
        rows = around(sides, lengths, max(hops + row.skin - spacing, 0.0)) / own
    exchange = 0.0
    if n_ranks > 1:
        # two exchanges with up to 26 neighbours, three reductions
        messages = 2 * min(26, n_ranks - 1) + 3 * math.ceil(math.log2(n_ranks))
        exchange = messages * LATENCY
        exchange += halo * atoms / n_ranks * BYTES_OF_AN_ATOM / BANDWIDTH
    share = atoms / row.atoms / n_ranks
    fixed, of_atoms = (row.fixed_ms or 0.0) * 1e-3, (row.atoms_ms or 0.0) * 1e-3
    of_rows = row.serial_ms * 1e-3 - fixed - of_atoms
    step = fixed + share * (of_atoms * (1.0 + halo) + of_rows * rows) + exchange
    serial = fixed + (of_atoms + of_rows) * atoms / row.atoms
    time = step / serial
    return Prediction(n_ranks, halo, rows, exchange, time)


def plot_scaling(rows: Sequence[RanksRow], path: Path, title: str, cores: int) -> None:
    """Speed-up and halo over the number of ranks: predicted for three sizes, and measured.

    Of more ranks than cores only the ratio to a serial step says something that is made while all
    other ranks make one of their own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(4.6 * len(names), 7.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey="row")
    for (top, bottom), name in zip(grid.T, names, strict=True):
        mine = {row.ranks: row for row in sorted(rows, key=_ranks) if row.model == name}
        for atoms, color in ((mine[1].atoms, "#D55E00"), (10**6, "#0072B2"), (10**7, "#009E73")):
            found = [predict(mine[1], n, atoms) for n in RANKS]
            label = f"{atoms:,} atoms, predicted"
            top.plot(RANKS, [1.0 / p.time for p in found], color=color, label=label)
            bottom.plot(RANKS[1:], [p.halo for p in found[1:]], color=color)
        top.plot(RANKS, RANKS, color="0.7", linewidth=0.8, label="ideal")
        timed = [(n, 1.0 / row.time_over_serial) for n, row in mine.items() if n <= cores]
        label = f"{mine[1].atoms:,} atoms, measured"
        top.plot(*zip(*timed, strict=True), "o", color="black", markersize=5, label=label)
        free = [
            (n, row.crowded_serial_ms / row.serial_ms / row.time_over_serial)
            for n, row in mine.items()
        ]
        label = "measured, over a serial step beside others"
        top.plot(*zip(*free, strict=True), "o", color="black", fillstyle="none", label=label)
        counted = [(n, row.halo / row.atoms) for n, row in mine.items() if n > 1]
        bottom.plot(*zip(*counted, strict=True), "o", color="black", markersize=5)
        top.set_title(name)
        bottom.set_xlabel("ranks")
        for axes in (top, bottom):
            axes.set(xscale="log", yscale="log")
            axes.grid(True, color="0.9", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("speed-up")
    grid[1, 0].set_ylabel("halo atoms / home atoms")
    grid[0, 0].legend(frameon=False, fontsize="small", loc="lower right")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path)


def _ranks(row: RanksRow) -> int:
    return row.ranks
