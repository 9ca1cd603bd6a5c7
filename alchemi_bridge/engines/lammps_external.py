"""LAMMPS without a compiler: the model behind ``fix external``, for scripts that drive LAMMPS.

The pair style that the bridge builds for LAMMPS is faster, runs on several ranks and in input
files. This is the way where it can not be built::

    lmp.command("pair_style zero 5.0")  # nothing but the model
    lmp.command("pair_coeff * *")
    model = attach(lmp, "model.pt", types=[18])
    lmp.command("run 100")
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, Step
from alchemi_bridge.engines.lammps_library import command
from alchemi_bridge.errors import ConfigurationError, SpeciesError
from alchemi_bridge.pairs import Search
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.units import Units, conversion_factor

LOGGER = logging.getLogger(__name__)

#: Length and energy of LAMMPS' unit systems; in each of these force is energy over length.
UNITS = {
    "metal": Units("angstrom", "eV"),
    "real": Units("angstrom", "kcal/mol"),
    "si": Units("m", "J"),
    "electron": Units("bohr", "hartree"),
}

#: How far the list of pairs reaches beyond the cutoff unless the user says, Å.
SKIN = 1.0


class LammpsExternal:
    """A model that is attached to an instance of LAMMPS; made by :func:`attach`.

    Attributes
    ----------
    provider
        The provider behind it: its facts, and its last results.
    fix_id
        Of the fix.
    """

    def __init__(
        self,
        lmp: Any,
        provider: MetatomicForceProvider,
        numbers: np.ndarray,
        *,
        fix_id: str,
        group: int,
        search: Search,
        virial: bool,
        energies: bool,
    ) -> None:
        self.provider = provider
        self.fix_id = fix_id
        self._lmp = lmp
        self._numbers = numbers
        self._group = 1 << group
        self._search = search
        self._virial, self._energies = virial, energies
        self._last: list[np.ndarray] = []
        self._rows: np.ndarray = np.empty(0, dtype=np.int64)
        self._in_order = False
        self._atoms: list[np.ndarray] = []
        self._pbc: tuple[bool, bool, bool] | None = None

    def detach(self) -> None:
        """Take the model out of LAMMPS again."""
        command(self._lmp, f"unfix {self.fix_id}")
        self._lmp.callback.pop(self.fix_id, None)

    def callback(
        self, caller: Any, step: int, n_local: int, tags: Any, x: Any, forces: Any
    ) -> None:
        """What LAMMPS calls in every step.

        ``x`` and ``forces`` are LAMMPS' memory, (n_local, 3) float64, ``tags`` are the numbers of
        the atoms. LAMMPS adds the forces to those of its own potentials.
        """
        del caller
        if n_local == 0:
            return
        forces[:] = 0.0  # they still are those of the last step
        try:
            self._compute(np.asarray(tags).reshape(-1), x, forces)
        except BaseException as error:  # ctypes prints whatever comes, Ctrl-C too, and goes on
            forces[:] = 0.0
            LOGGER.debug("in step %d", step, exc_info=True)
            _report(self._lmp, error)

    def _compute(self, tags: np.ndarray, x: np.ndarray, forces: np.ndarray) -> None:
        self._find_atoms(tags)
        cell = self._cell()
        if cell.pbc != self._pbc:
            self.provider.set_pairs(self._search, cell)
            self._pbc = cell.pbc
        device, rows = self.provider.loaded.device, self._rows
        positions = torch.from_numpy(x if self._in_order else x[rows]).to(device)
        in_place = self._in_order and device.type == "cpu"
        out = ForceBuffers(
            forces=torch.from_numpy(forces) if in_place else torch.zeros_like(positions),
            energy=torch.zeros(1, dtype=torch.float64, device=device),
            virial=torch.zeros((3, 3), dtype=torch.float64, device=device),
            energies=torch.zeros(len(rows), dtype=torch.float64, device=device),
        )
        step = Step(positions, cell=cell, virial=self._virial, energies=self._energies)
        self.provider.compute(step, out).synchronize()
        if not in_place:
            forces[rows] = out.forces.cpu().numpy()
        self._hand_over(out, len(tags))

    def _hand_over(self, out: ForceBuffers, n_local: int) -> None:
        """Sums and energies of atoms into the fix."""
        self._lmp.fix_external_set_energy_global(self.fix_id, float(out.energy))
        if self._virial:
            v = out.virial.cpu().numpy()
            # LAMMPS' virial is sum of r (x) F: minus dE/d(strain)
            six = -v[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
            self._lmp.fix_external_set_virial_global(self.fix_id, six.tolist())
        if self._energies:
            energies = np.zeros(n_local)
            energies[self._rows] = out.energies.cpu().numpy()
            self._lmp.fix_external_set_energy_peratom(self.fix_id, energies.tolist())

    def _find_atoms(self, tags: np.ndarray) -> None:
        """Which of LAMMPS' atoms the model sees, in ascending numbers; the provider is told.

        LAMMPS sorts its atoms anew every now and then. In the order of their numbers they stay the
        same atoms, and the list of pairs stays good.
        """
        n_local = len(tags)
        types = self._lmp.numpy.extract_atom("type")[:n_local]
        masks = self._lmp.numpy.extract_atom("mask")[:n_local]
        now = [tags, types, masks]
        if _same(now, self._last):
            return
        numbers = self._numbers[types]
        rows = np.flatnonzero((numbers > 0) & ((masks & self._group) != 0))
        rows = rows[np.argsort(tags[rows], kind="stable")]
        atoms = [tags[rows], numbers[rows]]
        if not _same(atoms, self._atoms):
            self.provider.set_atoms(Atoms(types=atoms[1]))
            self._atoms, self._pbc = atoms, None  # a list of pairs for them is asked for, too
        self._rows = rows
        self._in_order = len(rows) == n_local and np.array_equal(rows, np.arange(n_local))
        self._last = [array.copy() for array in now]

    def _cell(self) -> Cell:
        low, high, xy, yz, xz, periodic, _ = self._lmp.extract_box()
        if self._lmp.extract_setting("dimension") == 2:
            periodic = [*periodic[:2], 0]  # LAMMPS says that z is, and makes no images there
        x, y, z = (b - a for a, b in zip(low, high, strict=True))
        return Cell.of([[x, 0.0, 0.0], [xy, y, 0.0], [xz, yz, z]], [bool(p) for p in periodic])


def attach(
    lmp: Any,
    model: Any,
    types: Sequence[int | None],
    *,
    fix_id: str = "alchemi",
    group: str = "all",
    skin: float | None = None,
    virial: bool = True,
    energies: bool = False,
    **options: Any,
) -> LammpsExternal:
    """Let a model act on the atoms of an instance of LAMMPS, by ``fix external``.

    Its energy and virial are part of LAMMPS' ``pe`` and ``press``. The box must be there; LAMMPS'
    own potentials act besides, ``pair_style zero`` if there is none.

    Parameters
    ----------
    lmp
        The ``lammps.lammps`` object, on one rank.
    model
        Path of a metatomic model, or one in memory.
    types
        An atomic number for each of LAMMPS' atom types; None for atoms that the model does not see.
    fix_id
        Of the fix that is made.
    group
        The model sees the atoms of this group only, and acts on them only.
    skin
        How far the bridge's list of pairs reaches beyond the model's cutoff, in LAMMPS' length
        unit; 1 Å by default. A new list is made when it may have been used up.
    virial
        Whether the virial is computed, in every step; without it, LAMMPS' pressure lacks the
        model's part.
    energies
        Whether the energy of each atom is handed over, for ``compute pe/atom``.
    **options
        Of :class:`~alchemi_bridge.provider.MetatomicForceProvider`, but ``units``.

    Returns
    -------
    LammpsExternal
        The model can be taken out again by its ``detach()``. An error of the model ends the run at
        its step, and is raised by the ``lmp.command(...)`` that ran.

    Raises
    ------
    ConfigurationError
        On several ranks, for other units than metal, real, si and electron, or if a group, a number
        of types or an option does not fit.
    SpeciesError
        If the model does not know a type.
    ModelError
        If the model is not usable.
    """
    if not hasattr(lmp, "set_fix_external_callback"):
        raise ConfigurationError(
            "lmp", expected="a lammps.lammps object", got=type(lmp).__name__, fix="pass that"
        )
    units = _units(lmp)
    numbers = _numbers(lmp, types)
    group_number = _group_number(lmp, group)
    if "units" in options:
        raise ConfigurationError(
            "units", expected="those of LAMMPS", got=repr(options["units"]), fix="leave it out"
        )
    if skin is None:
        skin = SKIN * conversion_factor("angstrom", units.length)
    provider = MetatomicForceProvider(model, units=units, **options)
    _require_known(provider, numbers)
    if energies and not provider.requirements.energies:
        raise ConfigurationError(
            "energies",
            expected="a model with an energy per atom",
            got="one with a total energy only",
            fix="leave energies=True out",
        )
    made = LammpsExternal(
        lmp,
        provider,
        numbers,
        fix_id=fix_id,
        group=group_number,
        search=Search(skin),
        virial=virial,
        energies=energies,
    )
    command(lmp, f"fix {fix_id} {group} external pf/callback 1 1")
    command(lmp, f"fix_modify {fix_id} energy yes virial {'yes' if virial else 'no'}")
    lmp.set_fix_external_callback(fix_id, made.callback)
    _raise_what_is_reported(lmp)
    return made


def _report(lmp: Any, error: BaseException) -> None:
    """End LAMMPS' run at this step, and let the command that started it raise an error.

    LAMMPS' own way to set one from outside, ``lammps_error``, ends the program if it is called
    during a run (22 Jul 2025). Any call of the library that fails sets one, too; this one quotes
    its argument.
    """
    lmp.force_timeout()
    lmp.bridge_error = error
    text = f"alchemi_bridge: {type(error).__name__}: {error}"
    lmp.lib.lammps_fix_external_set_energy_global(lmp.lmp, text.encode(), ctypes.c_double(0.0))


def _raise_what_is_reported(lmp: Any) -> None:
    """Let LAMMPS' Python object raise a reported error itself, with its type and traceback.

    It raises an Exception with LAMMPS' message otherwise, in which ours is a quotation.
    """
    if hasattr(lmp, "bridge_error"):
        return
    lmp.bridge_error = None

    class Reporting(type(lmp)):  # type: ignore[misc]
        """What ``lmp`` was, with its errors replaced by those that are reported."""

        bridge_error: BaseException | None

        @property
        def _lammps_exception(self) -> BaseException:
            said: BaseException = super()._lammps_exception  # forgets it, too
            error, self.bridge_error = self.bridge_error, None
            if error is None:
                return said
            # otherwise LAMMPS would end all further runs at once, too
            self.lib.lammps_command(self.lmp, b"timer timeout off")
            return error

    lmp.__class__ = Reporting


def _units(lmp: Any) -> Units:
    """LAMMPS' units, on one rank."""
    ranks = int(lmp.extract_setting("world_size"))
    if ranks != 1:
        raise ConfigurationError(
            "fix external",
            expected="LAMMPS on one rank: forces on atoms of other ranks can not be returned",
            got=f"{ranks} ranks",
            fix="use 'pair_style alchemi', or start LAMMPS without mpiexec",
        )
    name = lmp.extract_global("units")
    if name not in UNITS:
        raise ConfigurationError(
            "units of LAMMPS",
            expected=f"one of {', '.join(UNITS)}",
            got=repr(name),
            fix="choose another 'units' command; models know eV and Å",
        )
    return UNITS[name]


def _numbers(lmp: Any, types: Sequence[int | None]) -> np.ndarray:
    """(n_types + 1,) atomic numbers by LAMMPS' types, which start at 1; 0 for those not seen."""
    n_types = int(lmp.extract_setting("ntypes"))
    given = [0 if kind is None else kind for kind in types]
    valid = all(isinstance(kind, int | np.integer) and kind >= 0 for kind in given)
    if len(given) != n_types or not valid or not any(given):
        raise ConfigurationError(
            "types",
            expected=f"an atomic number or None for each of the {n_types} atom types of LAMMPS",
            got=repr(list(types)),
            fix="pass types=[18] if type 1 is argon; create the box first",
        )
    return np.array([0, *given], dtype=np.int32)


def _group_number(lmp: Any, group: str) -> int:
    """The number of a group, which is that of its bit in the masks of atoms."""
    groups = lmp.available_ids("group")
    if group not in groups:
        raise ConfigurationError(
            "group",
            expected=f"one of {', '.join(name for name in groups if name)}",
            got=repr(group),
            fix="define it by LAMMPS' 'group' command first",
        )
    return int(groups.index(group))


def _require_known(provider: MetatomicForceProvider, numbers: np.ndarray) -> None:
    known = provider.requirements.atomic_types
    unknown = sorted({int(number) for number in numbers if number > 0} - known)
    if unknown:
        raise SpeciesError(
            "types",
            expected=f"types that the model knows ({sorted(known)})",
            got=f"unknown types {unknown}",
            fix="pass None for atoms that the model shall not see",
        )


def _same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))
