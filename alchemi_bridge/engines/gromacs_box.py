"""Structures of ASE in GROMACS: any cell, ASE's order and frame, results in eV and Å.

GROMACS computes one trajectory at a time, and with Verlet lists it wants a box. So

- a direction that is not periodic becomes one with so much room that no image is in the range of
  the model, which gives the same numbers;
- a second structure is where the first one's atoms get to some steps later: they have velocities
  that take them there, and masses that no force can turn aside.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ase
import numpy as np

from alchemi_bridge.cell import Cell
from alchemi_bridge.engines.boxes import Computed, same_system
from alchemi_bridge.engines.gromacs_commands import Gromacs, Run
from alchemi_bridge.engines.gromacs_files import KJ_PER_MOL, NM, write_gro
from alchemi_bridge.engines.lammps_frame import Frame, require_positions
from alchemi_bridge.errors import EvaluationError

#: Time step, ps, and mass of the atoms, u: a force of 1e5 kJ/mol/nm moves them by 1e-16 nm.
TIME_STEP, MASS = 0.001, 1e15

#: Room beyond the range of the model in directions that are not periodic, Å.
ROOM = 4.0

#: Cutoff of GROMACS' own interactions, of which there are none, in heights of the box: it must be
#: below half of the shortest one.
CUTOFF = 0.3

#: Steps from the first structure to the second in the first run, and as many more that are timed.
#: Before that the provider tries out how the model is called.
STEPS = 20

PARAMETERS = """integrator = md
dt = {dt}
nsteps = {steps}
comm-mode = None
cutoff-scheme = Verlet
verlet-buffer-tolerance = -1
nstlist = 10
rlist = {cutoff:.6f}
rvdw = {cutoff:.6f}
rcoulomb = {cutoff:.6f}
nstcalcenergy = {every}
nstenergy = {every}
nstlog = 0
nstxout = 0
nstvout = 0
nstfout = {every}
"""

TOPOLOGY = """[ defaults ]
1 2 no 1.0 1.0
[ atomtypes ]
{types}
{molecules}
[ system ]
parity
[ molecules ]
{system}
"""


class GromacsBox:
    """Structures with one model, in a GROMACS of double precision.

    Parameters
    ----------
    gromacs
        The program.
    model_file
        A metatomic model.
    keywords
        Further lines of the setup file.
    interaction_range
        Of the model, Å; finite.
    """

    def __init__(
        self,
        gromacs: Gromacs,
        model_file: Path,
        keywords: Mapping[str, str],
        interaction_range: float,
    ) -> None:
        self._gromacs = gromacs
        self._model_file = model_file.resolve()
        self._keywords = dict(keywords)
        self._room = 0.5 * (interaction_range + ROOM)
        #: Mean time of a step of the first run, ms; None before it.
        self.step_ms: float | None = None

    def evaluate(self, structures: Sequence[ase.Atoms]) -> list[Computed]:
        """Compute structures; neighbours in the list that differ in positions only share a run.

        Raises
        ------
        EvaluationError
            With GROMACS' message, if it fails.
        InputError, NonFiniteError, CellError
            If there are no atoms, or if positions or cell are none.
        """
        results: list[Computed] = []
        while len(results) < len(structures):
            first, *others = structures[len(results) : len(results) + 2]
            together = [first, *(other for other in others if same_system(first, other))]
            results += self._evaluate(together)
        return results

    def _evaluate(self, structures: Sequence[ase.Atoms]) -> list[Computed]:
        timed = self.step_ms is None
        between = STEPS if timed else 1
        steps = 2 * STEPS if timed else len(structures) - 1
        with tempfile.TemporaryDirectory(prefix="alchemi-bridge-") as scratch:
            folder = Path(scratch)
            frame = self._write(folder, structures, steps, between)
            self._gromacs.grompp(
                folder,
                parameters="in.mdp",
                structure="in.gro",
                topology="in.top",
                name="run",
                extra=["-maxwarn", 1],  # the centre of mass moves as the structures have it
            )
            words = ["-noconfout", *(["-resetstep", STEPS] if timed else [])]
            run = self._gromacs.mdrun(folder, "run", bridge="bridge.dat", extra=words)
            if timed:
                # which has more digits than the seconds
                self.step_ms = TIME_STEP * 1e-3 / run.nanoseconds_per_day * 86400.0 * 1e3
            return _results(run, frame, [between * k for k in range(len(structures))])

    def _write(
        self, folder: Path, structures: Sequence[ase.Atoms], steps: int, between: int
    ) -> Frame:
        atoms = structures[0]
        require_positions(atoms.positions)
        frame = Frame.of(atoms.positions, Cell.of(atoms.cell.array, atoms.pbc), self._room)
        inside = [frame.into(structure.positions) for structure in structures]
        velocities = (inside[-1] - inside[0]) / (NM * between * TIME_STEP)
        places = inside[0] - frame.wraps(inside[0]) @ frame.lattice - frame.origin
        symbols = atoms.get_chemical_symbols()
        write_gro(
            folder / "in.gro", symbols, places / NM, frame.lattice / NM, velocities=velocities
        )
        cutoff = CUTOFF * min(np.diagonal(frame.lattice)) / NM
        parameters = PARAMETERS.format(dt=TIME_STEP, steps=steps, cutoff=cutoff, every=between)
        for name, text in (
            ("in.top", _topology(symbols)),
            ("in.mdp", parameters),
            ("bridge.dat", self._setup(symbols)),
        ):
            (folder / name).write_text(text, encoding="utf-8")
        return frame

    def _setup(self, symbols: Sequence[str]) -> str:
        lines = {
            "model": shlex.quote(str(self._model_file)),
            "species": " ".join(symbols),
            "energies": "energies",
            "device": "cpu",
            **{name: shlex.quote(value) for name, value in self._keywords.items()},
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())


def _results(run: Run, frame: Frame, steps: Sequence[int]) -> list[Computed]:
    """What a run computed in some of its steps."""
    names = [f"Vir-{a}{b}" for a in "XYZ" for b in "XYZ"]
    terms = run.energies(*names)
    rows = np.round(terms["Time"] / TIME_STEP).astype(int).tolist()
    energies = {int(row[0]): row[2] for row in np.loadtxt(run.folder / "energies", ndmin=2)}
    forces = {found.step: found.forces for found in run.frames()}
    results = []
    for step in steps:
        force = forces.get(step)
        if force is None or step not in energies or step not in rows:
            raise EvaluationError(
                f"step {step} of GROMACS",
                expected="its forces, virial, and energy of the model",
                got="only a part of them",
                fix="see whether the run came to its end",
            )
        # GROMACS' virial is half of dE/d(strain), and it prints it so
        half = np.array([terms[name][rows.index(step)] for name in names]).reshape(3, 3)
        results.append(
            Computed(
                energy=float(energies[step]) * KJ_PER_MOL,
                forces=frame.back(force) * (KJ_PER_MOL / NM),
                virial=frame.tensor_back(2.0 * half) * KJ_PER_MOL,
            )
        )
    return results


def _topology(symbols: Sequence[str]) -> str:
    """Atoms of large mass that do not interact."""
    kinds = list(dict.fromkeys(symbols))
    molecule = "[ moleculetype ]\n{0} 1\n[ atoms ]\n1 {0} 1 {0} {0} 1 0.0 {1!r}"
    return TOPOLOGY.format(
        types="\n".join(f"{kind} 0 {MASS!r} 0.0 A 0.1 0.0" for kind in kinds),
        molecules="\n".join(molecule.format(kind, MASS) for kind in kinds),
        system="\n".join(f"{symbol} 1" for symbol in symbols),
    )
