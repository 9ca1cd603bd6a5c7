"""The decks: what each of them runs, and what of it is compared with what.

A deck is a function of a folder and a GROMACS that runs it there, and yields its comparisons.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ase
import ase.units
import numpy as np
from ase.build import bulk, molecule

from alchemi_bridge import BridgeCalculator
from alchemi_bridge.engines.gromacs_commands import Gromacs, Run

#: What GROMACS in mixed precision can show: forces of a step, relative to their rms.
FORCES = 2e-5
#: Potential energy of the first step, relative.
FIRST_ENERGY = 1e-6
#: Energies after 200 steps, relative: roundoff grows along a trajectory.
LAST_ENERGY = 1e-5
#: Pressure of the first step, bar. Without the virial of the model it would be off by 1,200 bar.
PRESSURE = 0.01
#: Density at constant pressure, in standard deviations of the same mean in native runs that differ
#: by their random numbers, and how many there are. (Blocks of one run of 20 ps say 5 kg/m^3, where
#: the means of 24 runs scatter by 7.5: the volume remembers for some ps.)
DEVIATIONS, REPLICAS = 3.0, 8
#: Change of the total energy over a run, relative to its kinetic energy at the start.
#: The kinetic energy of a leap-frog step is off by the square of the time step, and so is this.
DRIFT = 2e-3
#: Part of a run at constant pressure that is left out, ps.
SETTLING = 5.0

#: kJ/mol in eV.
KJ_PER_MOL = ase.units.kJ / ase.units.mol


class Comparison(NamedTuple):
    """One number of a deck.

    Attributes
    ----------
    quantity
        What it is, with its unit.
    bridge, native
        Both values; None for arrays.
    error, limit
        How far apart they are, and may be.
    """

    quantity: str
    bridge: float | None
    native: float | None
    error: float
    limit: float


Deck = Callable[[Path, Gromacs], Iterator[Comparison]]


def argon_nve(folder: Path, gromacs: Gromacs) -> Iterator[Comparison]:
    """Liquid argon at constant energy, against GROMACS' own Lennard-Jones."""
    both = _both(folder, gromacs, "argon_nve", "argon.gro", "argon", "argon.dat")
    return _constant_energy(*both)


def argon_triclinic(folder: Path, gromacs: Gromacs) -> Iterator[Comparison]:
    """The same in a triclinic box."""
    run = ("argon_nve", "argon_triclinic.gro", "argon", "argon.dat")
    return _constant_energy(*_both(folder, gromacs, *run, name="argon_triclinic"))


def ml_mm(folder: Path, gromacs: Gromacs) -> Iterator[Comparison]:
    """Argon in argon: a region by the model, everything else by GROMACS; against GROMACS alone."""
    run = ("argon_nve", "ml_mm.gro", "ml_mm", "ml_mm.dat")
    return _constant_energy(*_both(folder, gromacs, *run, name="ml_mm"))


def argon_npt(folder: Path, gromacs: Gromacs) -> Iterator[Comparison]:
    """Liquid argon at constant temperature and pressure: the density, within its error bars."""
    files = {"structure": "argon.gro", "topology": "argon.top", "name": "argon_npt_run"}
    gromacs.grompp(folder, parameters="argon_npt.mdp", **files)
    found = _mean(gromacs.mdrun(folder, "argon_npt_run", bridge="argon.dat"), "Density")
    known = []
    for number in range(REPLICAS):
        name = f"argon_npt_native_{number}"
        parameters = (folder / "argon_npt.mdp").read_text(encoding="utf-8")
        seeds = re.sub(r"-seed( +)= \d+", rf"-seed\1= {100 + number}", parameters)
        (folder / f"{name}.mdp").write_text(seeds, encoding="utf-8")
        files = {"structure": "argon.gro", "topology": "argon_native.top", "name": name}
        gromacs.grompp(folder, parameters=f"{name}.mdp", **files)
        known.append(_mean(gromacs.mdrun(folder, name), "Density"))
    deviation = float(np.std(known, ddof=1)) * np.sqrt(1.0 + 1.0 / REPLICAS)
    quantity = f"density (kg/m^3), apart in deviations of {deviation:.1f}"
    native = float(np.mean(known))
    yield Comparison(quantity, found, native, abs(found - native) / deviation, DEVIATIONS)


def ethanol(folder: Path, gromacs: Gromacs) -> Iterator[Comparison]:
    """A molecule with the message-passing net, against the same model in ASE."""
    atoms = molecule("CH3CH2OH")
    yield from _against_ase(folder, gromacs, "molecule", atoms, "net.pt")


def copper(folder: Path, gromacs: Gromacs) -> Iterator[Comparison]:
    """A crystal with the trained DeePMD model, against the same model in ASE."""
    atoms = bulk("Cu", "fcc", a=3.61, cubic=True).repeat(4)
    yield from _against_ase(folder, gromacs, "copper", atoms, "copper.pt")


def _against_ase(
    folder: Path, gromacs: Gromacs, name: str, atoms: ase.Atoms, model: str
) -> Iterator[Comparison]:
    """Run a deck at constant energy; ``atoms`` are its atoms, in its order, wherever they are."""
    gromacs.grompp(
        folder, parameters=f"{name}.mdp", structure=f"{name}.gro", topology=f"{name}.top",
        name=f"{name}_run", extra=["-pp", f"{name}.processed.top"],
    )  # fmt: skip
    run = gromacs.mdrun(folder, f"{name}_run", bridge=f"{name}.dat")
    energies = _model_energies(folder / f"{name}.energies")
    atoms.set_cell(run.frames()[0].box * ase.units.nm)
    atoms.pbc = True
    atoms.calc = BridgeCalculator(folder / model, device="cpu")
    wrong_energy, wrong_forces = 0.0, 0.0
    for frame in run.frames():
        atoms.positions = frame.positions * ase.units.nm
        known = atoms.get_potential_energy() / KJ_PER_MOL
        wrong_energy = max(wrong_energy, abs(energies[frame.step] / known - 1.0))
        forces = atoms.get_forces() * (ase.units.nm / KJ_PER_MOL)
        wrong_forces = max(wrong_forces, _apart(frame.forces, forces))
    # positions are written as numbers of single precision, and so are those of GROMACS
    yield Comparison("energy of frames, relative", None, None, wrong_energy, FIRST_ENERGY)
    yield Comparison("forces of frames, relative", None, None, wrong_forces, FORCES)
    kinetic = _table(run, "Kinetic-En.")
    total = {step: kinetic[step] + energies[step] for step in kinetic}
    last = max(total)
    moved = abs(total[last] - total[0]) / kinetic[0]
    yield Comparison("total energy (kJ/mol): last, first", total[last], total[0], moved, DRIFT)


DECKS: dict[str, Deck] = {
    deck.__name__: deck for deck in (argon_nve, argon_triclinic, ml_mm, ethanol, copper, argon_npt)
}


def _both(
    folder: Path,
    gromacs: Gromacs,
    parameters: str,
    structure: str,
    topology: str,
    bridge: str,
    name: str | None = None,
) -> tuple[Run, Run]:
    """The run with the model, and the one without."""
    runs = []
    for top, dat, suffix in (
        (f"{topology}.top", bridge, ""),
        (f"{topology}_native.top", None, "_native"),
    ):
        called = f"{name or parameters}{suffix}_run"
        gromacs.grompp(
            folder, parameters=f"{parameters}.mdp", structure=structure, topology=top, name=called
        )
        runs.append(gromacs.mdrun(folder, called, bridge=dat))
    return runs[0], runs[1]


def _constant_energy(bridge: Run, native: Run) -> Iterator[Comparison]:
    """What two runs at constant energy have in common."""
    topology = "ml_mm" if bridge.name.startswith("ml_mm") else "argon"
    model = _model_energies(bridge.folder / f"{topology}.energies")
    # what is not the model's, of which there is nothing unless GROMACS computes a part itself
    rest, kinetic = _table(bridge, "Potential"), _table(bridge, "Kinetic-En.")
    potential, own_kinetic = _table(native, "Potential"), _table(native, "Kinetic-En.")
    last = max(potential)
    for step, limit in ((0, FIRST_ENERGY), (last, LAST_ENERGY)):
        found, known = model[step] + rest[step], potential[step]
        name = f"potential energy, step {step} (kJ/mol)"
        yield Comparison(name, found, known, abs(found / known - 1.0), limit)
    found, known = model[last] + rest[last] + kinetic[last], potential[last] + own_kinetic[last]
    name = f"total energy, step {last} (kJ/mol)"
    yield Comparison(name, found, known, abs(found / known - 1.0), LAST_ENERGY)
    forces = [run.frames()[0].forces for run in (bridge, native)]
    yield Comparison("forces, step 0, relative", None, None, _apart(*forces), FORCES)
    found, known = (_table(run, "Pressure")[0] for run in (bridge, native))
    yield Comparison("pressure, step 0 (bar)", found, known, abs(found - known), PRESSURE)


def _apart(found: np.ndarray, known: np.ndarray) -> float:
    """Largest error of a component, relative to the root of their mean square."""
    return float(np.abs(found - known).max() / np.sqrt(np.mean(known**2)))


def _model_energies(path: Path) -> dict[int, float]:
    """The model's energy at each step, kJ/mol."""
    rows = np.loadtxt(path, ndmin=2)
    return {int(step): float(energy) for step, _, energy in rows}


def _table(run: Run, term: str) -> dict[int, float]:
    """A term of the energy file by step; the decks' steps are those of their files' times."""
    found = run.energies(term)
    steps = np.round(found["Time"] / _timestep(run)).astype(int)
    return dict(zip(steps.tolist(), found[term].tolist(), strict=True))


def _timestep(run: Run) -> float:
    """ps."""
    for line in run.log.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "dt":
            return float(value)
    raise SystemExit(f"{run.name}.log does not tell the time step")


def _mean(run: Run, term: str) -> float:
    """Mean of a term, once the run has settled."""
    found = run.energies(term)
    return float(found[term][found["Time"] >= SETTLING].mean())
