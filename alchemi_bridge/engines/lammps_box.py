"""Structures of ASE in LAMMPS: any cell, ASE's order and frame, results in eV and Å."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import ase
import numpy as np
from ase.data import atomic_masses

from alchemi_bridge.cell import Cell
from alchemi_bridge.engines.boxes import Computed
from alchemi_bridge.engines.lammps_frame import Frame, require_positions
from alchemi_bridge.engines.lammps_library import command, start
from alchemi_bridge.errors import ConfigurationError, EvaluationError

#: Makes the commands of a potential, ``pair_style`` and ``pair_coeff``, from the atomic numbers of
#: LAMMPS' atom types.
PairCommands = Callable[[Sequence[int]], Sequence[str]]

#: Names of what is computed, such that no user's are taken.
VIRIAL, ENERGIES, SUM = "bridge_virial", "bridge_energies", "bridge_sum"

#: By how many boxes atoms may be away from a periodic box before they are put into it anew. LAMMPS
#: itself brings those back that are beyond it by less than one.
BEYOND = 0.4

#: LAMMPS' own numbers for what is asked for.
_DOUBLE, _INT, _GLOBAL, _VECTOR = 1, 0, 0, 1


class LammpsBox:
    """An instance of LAMMPS that computes one structure after the other with the same potential.

    Atoms have the numbers 1 to N in ASE's order; there is one atom type for each atomic number, in
    ascending order. A structure that differs from the last one by its positions only is moved, as
    in molecular dynamics; one with the same elements and periodic directions gets a new box in the
    same instance, and anything else a new instance.

    Parameters
    ----------
    pair
        Makes the commands of the potential.
    opened
        Makes an instance of LAMMPS.
    skin
        Distance by which LAMMPS' own list reaches beyond the potential's cutoff, Å.
    room
        Space between the atoms and the fixed faces of directions that are not periodic, Å.

    Notes
    -----
    With a potential that can not tell an energy per atom, or a virial, LAMMPS fails when that is
    asked for, and only then.
    """

    def __init__(
        self,
        pair: PairCommands,
        *,
        opened: Callable[[], Any] = start,
        skin: float = 2.0,
        room: float = 10.0,
    ) -> None:
        for name, value in (("skin", skin), ("room", room)):
            if not 0.0 < value < 1e6:
                raise ConfigurationError(
                    name, expected="a length above zero, Å", got=repr(value), fix="choose some Å"
                )
        self._pair = pair
        self._opened = opened
        self._skin, self._room = skin, room
        self._lmp: Any = None
        self._frame: Frame | None = None
        self._numbers = np.empty(0, dtype=np.int64)
        self._kinds: list[int] = []
        self._wraps = np.empty((0, 3), dtype=np.int64)
        self._output: tuple[str, ...] | None = None

    def __enter__(self) -> LammpsBox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def lmp(self) -> Any:
        """The instance of LAMMPS with the last structure in it."""
        return self._lmp

    @property
    def frame(self) -> Frame | None:
        """Where LAMMPS has the last structure."""
        return self._frame

    def close(self) -> None:
        """End the instance."""
        lmp, self._lmp, self._frame = self._lmp, None, None
        if lmp is not None:
            lmp.close()

    def evaluate(self, atoms: ase.Atoms, *, virial: bool = True, energies: bool = True) -> Computed:
        """Compute a structure.

        Raises
        ------
        EvaluationError
            With LAMMPS' message, if LAMMPS fails.
        InputError, NonFiniteError, CellError
            If there are no atoms, or if positions or cell are none.
        """
        self._place(atoms)
        self._print(virial=virial, energies=energies)
        self._run("run 0 post no")
        frame = self._frame
        assert frame is not None  # _place has made it
        forces = _rows(self._lmp.gather_atoms("f", _DOUBLE, 3), 3)
        return Computed(
            energy=float(self._lmp.get_thermo("pe")),
            forces=frame.back(forces),
            virial=frame.tensor_back(self._virial(frame)) if virial else None,
            energies=_rows(self._lmp.gather(f"c_{ENERGIES}", _DOUBLE, 1)) if energies else None,
        )

    def step(self, atoms: ase.Atoms) -> float:
        """One step as in molecular dynamics, without an integrator; the time it took, ms.

        The atoms are moved before. What is timed is LAMMPS' own step: whether its list has become
        too old, and a new one if so; the positions of ghost atoms; energy and forces; forces of
        ghosts back to their atoms. The first step on a new structure comes after one that sets up
        and is not timed.
        """
        moved = self._place(atoms)
        if self._print(virial=False, energies=False) or not moved:
            self._run("run 0 post no")
        begin = time.perf_counter()
        self._run("run 1 pre no post no")
        return 1e3 * (time.perf_counter() - begin)

    def _run(self, text: str) -> None:
        try:
            command(self._lmp, text)
        except EvaluationError:
            self.close()  # nobody knows what it is good for after an error
            raise

    def _virial(self, frame: Frame) -> np.ndarray:
        """dE/d(strain) in LAMMPS' frame: it has minus that over the volume, in its own unit."""
        pressure = self._lmp.extract_compute(VIRIAL, _GLOBAL, _VECTOR)
        xx, yy, zz, xy, xz, yz = (float(pressure[k]) for k in range(6))
        tensor = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        return tensor * (-frame.volume / float(self._lmp.extract_global("nktv2p")))

    def _print(self, *, virial: bool, energies: bool) -> bool:
        """Let LAMMPS compute what is wanted, by having it printed; whether that changed."""
        wanted = ["pe"]
        if virial:
            wanted += [f"c_{VIRIAL}[{k}]" for k in range(1, 7)]
        if energies:
            wanted.append(f"c_{SUM}")
        if self._output == tuple(wanted):
            return False
        # LAMMPS asks its potential for what computes exist for, whether they are printed or not
        self._run("thermo_style custom step pe")
        for name in self._lmp.available_ids("compute"):
            if name in (VIRIAL, SUM, ENERGIES):
                self._run(f"uncompute {name}")
        if virial:
            self._run(f"compute {VIRIAL} all pressure NULL virial")
        if energies:
            self._run(f"compute {ENERGIES} all pe/atom")
            self._run(f"compute {SUM} all reduce sum c_{ENERGIES}")
        self._run("thermo_style custom step " + " ".join(wanted))
        self._run("thermo_modify norm no flush no lost error")
        self._output = tuple(wanted)
        return True

    def _place(self, atoms: ase.Atoms) -> bool:
        """Put a structure into LAMMPS; whether it was enough to move atoms."""
        require_positions(atoms.positions)
        numbers = np.asarray(atoms.numbers, dtype=np.int64)
        frame = Frame.of(atoms.positions, Cell.of(atoms.cell.array, atoms.pbc), self._room)
        last, inside = self._frame, frame.into(atoms.positions)
        if self._lmp is not None and last is not None and last.boundary == frame.boundary:
            same = last.same_box(frame) and np.array_equal(numbers, self._numbers)
            if same and self._move(last, inside):
                return True
            if set(numbers.tolist()) <= set(self._kinds):
                self._refill(frame, numbers, inside)
                return False
        self._open(frame, numbers)
        self._create(frame, numbers, inside)
        return False

    def _move(self, frame: Frame, inside: np.ndarray) -> bool:
        """Move the atoms, if they stay in or near the box; whether they did."""
        images = _rows(self._lmp.gather_atoms("image", _INT, 3), 3)
        target = inside - (self._wraps + images) @ frame.lattice
        if not frame.holds(target, BEYOND):
            return False
        flat = np.ascontiguousarray(target, dtype=np.float64)
        pointer = flat.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        self._lmp.scatter_atoms("x", _DOUBLE, 3, pointer)
        return True

    def _refill(self, frame: Frame, numbers: np.ndarray, inside: np.ndarray) -> None:
        """Another structure in the same instance: the potential stays as it is."""
        self._run("delete_atoms group all")
        last = self._frame
        assert last is not None  # _place has looked
        if last.skewed != frame.skewed:
            if last.skewed:  # LAMMPS makes a box orthogonal only if it has no tilts
                self._run("change_box all xy final 0 xz final 0 yz final 0 ortho")
            else:
                self._run("change_box all triclinic")
        low, high = frame.origin, frame.origin + np.diagonal(frame.lattice)
        xy, xz, yz = frame.lattice[[1, 2, 2], [0, 0, 1]].tolist()
        self._lmp.reset_box(low.tolist(), high.tolist(), xy, yz, xz)
        self._create(frame, numbers, inside)

    def _open(self, frame: Frame, numbers: np.ndarray) -> None:
        """A new instance, with an empty box for a structure."""
        self.close()
        self._lmp = self._opened()
        self._output = None
        self._kinds = sorted(set(numbers.tolist()))
        low, high = frame.origin, frame.origin + np.diagonal(frame.lattice)
        faces = " ".join(f"{a!r} {b!r}" for a, b in zip(low.tolist(), high.tolist(), strict=True))
        shape = f"block {faces}"
        if frame.skewed:
            xy, xz, yz = frame.lattice[[1, 2, 2], [0, 0, 1]].tolist()
            shape = f"prism {faces} {xy!r} {xz!r} {yz!r}"
        masses = (
            # LAMMPS refuses a mass of zero; nothing here depends on it
            f"mass {number} {float(atomic_masses[kind]) or 1.0!r}"
            for number, kind in enumerate(self._kinds, start=1)
        )
        for text in (
            "units metal",
            "atom_style atomic",
            "atom_modify map array",
            f"boundary {' '.join(frame.boundary)}",
            "box tilt large",
            f"region bridge_box {shape} units box",
            f"create_box {len(self._kinds)} bridge_box",
            *masses,
            *self._pair(self._kinds),
            f"neighbor {self._skin!r} bin",
            "neigh_modify every 1 delay 0 check yes",
        ):
            self._run(text)

    def _create(self, frame: Frame, numbers: np.ndarray, inside: np.ndarray) -> None:
        """Atoms in an empty box. They are wrapped here: LAMMPS does so by one box only."""
        wraps = frame.wraps(inside)
        types = np.searchsorted(self._kinds, numbers) + 1
        n_atoms = len(numbers)
        made = self._lmp.create_atoms(
            n_atoms,
            list(range(1, n_atoms + 1)),
            types.tolist(),
            (inside - wraps @ frame.lattice).ravel().tolist(),
        )
        if made != n_atoms or self._lmp.get_natoms() != n_atoms:
            self.close()
            raise EvaluationError(
                "atoms in LAMMPS",
                expected=f"all {n_atoms}",
                got=f"{made}",
                fix="see whether all atoms are in the box; enlarge 'room'",
            )
        self._frame, self._numbers, self._wraps = frame, numbers.copy(), wraps


def _rows(data: Any, columns: int = 0) -> np.ndarray:
    """A copy of what LAMMPS handed out, with ``columns`` numbers for each atom."""
    values = np.array(np.ctypeslib.as_array(data))
    return values.reshape(-1, columns) if columns else values
