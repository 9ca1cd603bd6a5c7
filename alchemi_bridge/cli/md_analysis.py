"""What the table of a run says: drift, means, and the plot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alchemi_bridge.cli.md_record import COLUMNS, read_rows
from alchemi_bridge.cli.md_settings import Settings
from alchemi_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours of C. Wong's palette that colour-blind readers can tell apart
#: (Nature Methods 8, 441 (2011), doi:10.1038/nmeth.1618).
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


@dataclass(frozen=True)
class Drift:
    """How well a run conserves its total energy.

    Attributes
    ----------
    slope
        Of the straight line through the total energy (least squares), eV/atom/ps.
    fluctuation
        Root mean square deviation from that line, eV/atom.
    """

    slope: float
    fluctuation: float


def read_thermo(path: Path) -> dict[str, np.ndarray]:
    """The table of a run as one float64 array per column; empty fields are NaN.

    Raises
    ------
    ConfigurationError
        If the file has other columns, or something that is not a number in them.
    """
    rows = list(read_rows(path))
    try:
        values = [[float(field) if field else np.nan for field in row] for row in rows]
    except ValueError as error:
        raise ConfigurationError(
            f"table '{path}'", expected="numbers", got=str(error), fix="move the file away"
        ) from error
    table = np.array(values, dtype=np.float64).reshape(len(rows), len(COLUMNS))
    return dict(zip(COLUMNS, table.T, strict=True))


def energy_drift(thermo: dict[str, np.ndarray], n_atoms: int) -> Drift | None:
    """Drift of the total energy; None for fewer than three rows."""
    times, energies = thermo["time_ps"], thermo["total_energy_eV"] / n_atoms
    if len(times) < 3 or np.ptp(times) == 0:
        return None
    times = times - times.mean()
    # the mean goes first: the drift is many digits below the energy itself
    deviations = energies - energies.mean()
    slope = float(times @ deviations / (times @ times))
    rest = deviations - slope * times
    return Drift(slope=slope, fluctuation=float(np.sqrt(np.mean(rest**2))))


def plot_thermo(
    thermo: dict[str, np.ndarray], n_atoms: int, settings: Settings, title: str, path: Path
) -> None:
    """Plot a run: energies and temperature over time, or energy and largest force over steps."""
    from matplotlib.figure import Figure

    rows = 3 if settings.ensemble == "nve" else 2
    figure = Figure(figsize=(7.0, 2.3 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)
    if settings.is_dynamics:
        _plot_energies(axes[0], thermo, n_atoms)
        if settings.ensemble == "nve":
            _plot_conservation(axes[1], thermo, n_atoms)
        _plot_temperature(axes[-1], thermo, settings)
        axes[-1].set_xlabel("time (ps)")
    else:
        _plot_relaxation(axes, thermo, n_atoms)
    for axis in axes:
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.01)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150)


def _plot_energies(axis: Axes, thermo: dict[str, np.ndarray], n_atoms: int) -> None:
    # one axis for all three: what leaves the potential energy shows up in the kinetic one
    for name, colour in (("potential", _BLUE), ("kinetic", _ORANGE), ("total", _GREEN)):
        energy = thermo[f"{name}_energy_eV"] / n_atoms
        label = f"{name} (start: {_minus(f'{energy[0]:.4f}')} eV)"
        _line(axis, thermo["time_ps"], 1000 * (energy - energy[0]), colour, label)
    axis.set_ylabel("change of energy\n(meV/atom)")
    axis.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _plot_conservation(axis: Axes, thermo: dict[str, np.ndarray], n_atoms: int) -> None:
    times, total = thermo["time_ps"], thermo["total_energy_eV"] / n_atoms
    unit, factor = _small_unit(total)
    _line(axis, times, factor * (total - total[0]), _GREEN)
    axis.set_ylabel(f"change of total\nenergy ({unit}/atom)")
    drift = energy_drift(thermo, n_atoms)
    if drift is not None:
        fit = total.mean() - total[0] + drift.slope * (times - times.mean())
        label = f"drift {_minus(f'{drift.slope:.1e}')} eV/atom/ps"
        axis.plot(times, factor * fit, color="black", linewidth=1.0, linestyle="--", label=label)
        _legend(axis)


def _plot_temperature(axis: Axes, thermo: dict[str, np.ndarray], settings: Settings) -> None:
    temperature = thermo["temperature_K"]
    _line(axis, thermo["time_ps"], temperature, _ORANGE)
    mean = float(np.mean(temperature))
    axis.axhline(mean, color="black", linewidth=1.0, linestyle="--", label=f"mean {mean:.1f} K")
    if settings.ensemble == "langevin" and settings.temperature is not None:
        label = f"thermostat {settings.temperature:g} K"
        axis.axhline(settings.temperature, color="black", linewidth=1.0, linestyle=":", label=label)
    _legend(axis)
    axis.set_ylabel("temperature (K)")


def _legend(axis: Axes) -> None:
    # above the data, wherever they are
    axis.legend(fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.98))


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _plot_relaxation(axes: np.ndarray, thermo: dict[str, np.ndarray], n_atoms: int) -> None:
    steps = thermo["step"]
    energy = thermo["potential_energy_eV"] / n_atoms
    above = energy - energy[-1]
    if np.all(above[:-1] > 0) and len(above) > 2:
        _line(axes[0], steps[:-1], above[:-1], _BLUE)
        axes[0].set_yscale("log")
        axes[0].set_ylabel("energy above the\nlast step (eV/atom)")
    else:
        _line(axes[0], steps, 1000 * (energy - energy[0]), _BLUE)
        axes[0].set_ylabel("change of energy\n(meV/atom)")
    force = thermo["max_force_eV_per_A"]
    _line(axes[1], steps, force, _ORANGE)
    if np.all(force > 0):
        axes[1].set_yscale("log")
    axes[1].set_ylabel("largest force (eV/Å)")
    axes[1].set_xlabel("step")


def _line(axis: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str | None = None) -> None:
    marker = "o" if len(x) < 3 else None
    axis.plot(x, y, color=colour, linewidth=1.2, marker=marker, markersize=3, label=label)


def _small_unit(energies: np.ndarray) -> tuple[str, float]:
    """Unit in which the spread of energies (eV) has about one to three digits."""
    spread = float(np.ptp(energies))
    for unit, factor in (("eV", 1.0), ("meV", 1e3), ("µeV", 1e6), ("neV", 1e9)):
        if spread * factor >= 1:
            return unit, factor
    return "neV", 1e9
