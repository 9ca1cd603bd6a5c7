"""``alchemi-bridge md``: molecular dynamics or relaxation with a model, through ASE."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alchemi_bridge.cli.console import print_json, print_table, stdout_console
from alchemi_bridge.cli.md_settings import (
    DEFAULT_FMAX,
    DEFAULT_FRICTION_PER_PS,
    DEFAULT_TIMESTEP_FS,
    ENSEMBLES,
    Files,
    Settings,
)
from alchemi_bridge.cli.options import (
    add_command,
    apply_threads,
    calculator_options,
    json_option,
    model_options,
    positive_integer,
)
from alchemi_bridge.errors import ConfigurationError

if TYPE_CHECKING:
    from ase import Atoms

    from alchemi_bridge.cli.md_start import Start

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_NOT_CONVERGED = 1
EXIT_SIGNAL = 128  # plus the signal's number, as shells report it

_EPILOG = """\
files (PREFIX is --output, or STRUCTURE.ENSEMBLE without its suffix):
  PREFIX.extxyz  frames with positions, momenta, forces, energy and stress; 17 digits
  PREFIX.csv     one row per --thermo-interval: energies, temperature, pressure, largest force,
                 largest uncertainty of an atom's energy
  PREFIX.png     the table as a plot

restart: the same command with --restart goes on from the last complete frame up to --steps and
appends to the files; rows and half-written frames behind that frame are dropped first. The noise of
a Langevin step depends on the seed and the number of the step only, so a restarted run goes where
the uninterrupted one would have gone, to rounding. FIRE starts anew from the positions.

exit status: 0 done, 1 FIRE has not converged within --steps, 2 bad input or a failed evaluation,
128 + N after signal N (130 for Ctrl-C; the present state is written first).
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "md",
        description="Molecular dynamics or relaxation of a structure with a metatomic model.",
        parents=[model_options(), json_option()],
        epilog=_EPILOG,
    )
    parser.add_argument("structure", metavar="STRUCTURE", help="any file that ASE reads")
    parser.add_argument(
        "--index", default="-1", help="frame of STRUCTURE to start from (default: the last)"
    )
    run_options = parser.add_argument_group("run")
    run_options.add_argument("--ensemble", choices=ENSEMBLES, default="nve", help="default: nve")
    run_options.add_argument(
        "--steps", type=int, default=1000, help="steps of the whole run (default: 1000)"
    )
    run_options.add_argument(
        "--timestep", type=float, metavar="FS", help=f"fs (default: {DEFAULT_TIMESTEP_FS:g})"
    )
    run_options.add_argument(
        "--temperature",
        type=float,
        metavar="K",
        help="of the thermostat and of drawn velocities; a crystal at rest that is given T ends"
        " near T/2 in NVE, which refuses T if the file has velocities (see --new-velocities)",
    )
    run_options.add_argument(
        "--friction",
        type=float,
        metavar="1/PS",
        help=f"of the Langevin thermostat (default: {DEFAULT_FRICTION_PER_PS:g})",
    )
    run_options.add_argument(
        "--fmax",
        type=float,
        metavar="EV/A",
        help=f"largest force at which FIRE stops (default: {DEFAULT_FMAX:g})",
    )
    run_options.add_argument(
        "--new-velocities", action="store_true", help="draw velocities even if the file has some"
    )
    run_options.add_argument("--seed", type=int, help="of velocities and noise (default: drawn)")
    files = parser.add_argument_group("files")
    files.add_argument("-o", "--output", metavar="PREFIX", help="where to write, see below")
    for option, default, what in (("--interval", 10, "frame"), ("--thermo-interval", 1, "row")):
        files.add_argument(
            option,
            type=positive_integer,
            default=default,
            metavar="N",
            help=f"steps from one {what} to the next (default: {default})",
        )
    files.add_argument("--no-plot", action="store_true", help="do not write PREFIX.png")
    behind = files.add_mutually_exclusive_group()
    behind.add_argument("--restart", action="store_true", help="go on with an earlier run")
    behind.add_argument("--force", action="store_true", help="overwrite the files of another run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command (see the module's ``--help``)."""
    from alchemi_bridge.cli import md_start
    from alchemi_bridge.cli.md_dynamics import StopSignals, run_dynamics
    from alchemi_bridge.cli.md_record import Recorder
    from alchemi_bridge.engines.ase import BridgeCalculator
    from alchemi_bridge.engines.structure_files import read_structure
    from alchemi_bridge.uncertainty import UncertaintyWarning

    settings = Settings.from_arguments(args)
    structure = read_structure(args.structure, args.index)
    files = _files(args)
    _warn_about_constraints(structure)
    if args.restart:
        start = md_start.restart(files.trajectory, structure, settings)
    else:
        start = md_start.new_start(structure, settings)
    apply_threads(args)
    atoms = start.atoms
    atoms.calc = BridgeCalculator(args.model, **calculator_options(args))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncertaintyWarning)
        # whatever is wrong with model or structure shows here, before any file is touched
        atoms.get_forces()

    began = time.perf_counter()
    with (
        warnings.catch_warnings(),
        StopSignals() as stop,
        Recorder(atoms, settings, start, files) as recorder,
    ):
        # not once per step: the recorder logs the first one, and writes all of them down
        warnings.simplefilter("ignore", UncertaintyWarning)
        step, converged = run_dynamics(atoms, settings, start, recorder, stop)
    seconds = time.perf_counter() - began

    summary = _summary(settings, start, files, step, converged)
    summary["ms_per_step"] = 1000 * seconds / (step - start.step) if step > start.step else None
    summary["stopped_by_signal"] = stop.received
    if not args.no_plot:
        _plot(args, settings, files, len(atoms))
        summary["files"]["plot"] = str(files.plot)
    if args.json:
        print_json(summary)
    else:
        _print_summary(summary)
    if stop.received is not None:
        return EXIT_SIGNAL + stop.received
    if not settings.is_dynamics and not converged:
        return EXIT_NOT_CONVERGED
    return EXIT_OK


def _files(args: argparse.Namespace) -> Files:
    prefix = args.output
    if prefix is None:
        prefix = Path(args.structure).with_suffix(f".{args.ensemble}")
    files = Files.with_prefix(Path(prefix))
    taken = [path for path in files.all() if path.exists()]
    if taken and not args.restart and not args.force:
        raise ConfigurationError(
            f"output '{taken[0]}'",
            expected="files that are not there yet",
            got="an existing file",
            fix="pass --restart to go on, --force to overwrite, or another --output",
        )
    if not args.restart and Path(args.structure).resolve() in [p.resolve() for p in files.all()]:
        raise ConfigurationError(
            f"output '{files.trajectory}'",
            expected="another file than STRUCTURE",
            got="the same file",
            fix="choose another --output",
        )
    return files


def _warn_about_constraints(structure: Atoms) -> None:
    from ase.constraints import FixAtoms, FixCartesian

    others = [c for c in structure.constraints if not isinstance(c, FixAtoms | FixCartesian)]
    if others:
        names = ", ".join(sorted({type(c).__name__ for c in others}))
        logger.warning("the trajectory does not hold these constraints, the run does: %s", names)


def _summary(
    settings: Settings, start: Start, files: Files, step: int, converged: bool
) -> dict[str, Any]:
    import numpy as np

    from alchemi_bridge.cli.md_analysis import energy_drift, read_thermo

    thermo = read_thermo(files.thermo)
    n_atoms = len(start.atoms)
    uncertain = thermo["max_uncertainty_eV"]
    summary: dict[str, Any] = {
        "ensemble": settings.ensemble,
        "atoms": n_atoms,
        "first_step": start.step,
        "last_step": step,
        "steps_wanted": settings.steps,
        "restarted": start.offset is not None,
        "potential_energy_eV": float(thermo["potential_energy_eV"][-1]),
        "max_force_eV_per_A": float(thermo["max_force_eV_per_A"][-1]),
        "max_uncertainty_eV": None if np.isnan(uncertain).all() else float(np.nanmax(uncertain)),
        "files": {"trajectory": str(files.trajectory), "thermo": str(files.thermo)},
    }
    if not settings.is_dynamics:
        return summary | {"converged": converged, "fmax_eV_per_A": settings.fmax}
    drift = energy_drift(thermo, n_atoms)
    summary |= {
        "seed": start.seed,
        "timestep_fs": settings.timestep,
        "time_ps": float(thermo["time_ps"][-1]),
        "total_energy_eV": float(thermo["total_energy_eV"][-1]),
        "temperature_K": float(thermo["temperature_K"][-1]),
        "mean_temperature_K": float(np.mean(thermo["temperature_K"])),
    }
    if settings.ensemble == "nve":
        summary["drift_eV_per_atom_per_ps"] = None if drift is None else drift.slope
        summary["fluctuation_eV_per_atom"] = None if drift is None else drift.fluctuation
    return summary


def _plot(args: argparse.Namespace, settings: Settings, files: Files, n_atoms: int) -> None:
    from alchemi_bridge.cli.md_analysis import plot_thermo, read_thermo

    details = {
        "nve": f"NVE, time step {settings.timestep:g} fs",
        "langevin": f"Langevin, {settings.temperature or 0:g} K, {settings.friction:g}/ps, "
        f"time step {settings.timestep:g} fs",
        "fire": f"FIRE to {settings.fmax:g} eV/Å",
    }
    title = f"{Path(args.structure).name}, {n_atoms} atoms, {Path(args.model).name}\n"
    thermo = read_thermo(files.thermo)
    plot_thermo(thermo, n_atoms, settings, title + details[settings.ensemble], files.plot)


#: Line of the printed summary for each entry: text, format, unit.
_LINES = {
    "potential_energy_eV": ("potential energy", ".6f", "eV"),
    "total_energy_eV": ("total energy", ".6f", "eV"),
    "max_force_eV_per_A": ("largest force", ".3e", "eV/Å"),
    "time_ps": ("time", "g", "ps"),
    "temperature_K": ("temperature", ".1f", "K"),
    "mean_temperature_K": ("mean temperature", ".1f", "K"),
    "max_uncertainty_eV": ("largest uncertainty", ".3e", "eV"),
    "drift_eV_per_atom_per_ps": ("drift of the total energy", ".2e", "eV/atom/ps"),
    "fluctuation_eV_per_atom": ("fluctuation around the drift", ".2e", "eV/atom"),
    "seed": ("seed", "d", ""),
    "ms_per_step": ("time per step", ".2f", "ms"),
}


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    what = f"{summary['ensemble']}, {summary['atoms']} atoms"
    table.add_row("run", f"{what}, steps {summary['first_step']} to {summary['last_step']}")
    for key, (text, form, unit) in _LINES.items():
        if summary.get(key) is not None:
            table.add_row(text, f"{summary[key]:{form}} {unit}".rstrip())
    if "converged" in summary:
        answer = "yes" if summary["converged"] else "no"
        table.add_row(f"converged to {summary['fmax_eV_per_A']:g} eV/Å", answer)
    if summary["stopped_by_signal"] is not None:
        table.add_row("stopped by signal", str(summary["stopped_by_signal"]))
    for name, path in summary["files"].items():
        table.add_row(name, path)
    print_table(table, stdout_console())
