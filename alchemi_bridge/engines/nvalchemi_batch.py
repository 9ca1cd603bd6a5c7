"""Batches of nvalchemi: made from structures, made ready for dynamics, and read by the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ase
import numpy as np
import torch

from alchemi_bridge.batch import Cells, Systems, of_system
from alchemi_bridge.cell import Cell
from alchemi_bridge.device import DeviceBuffer
from alchemi_bridge.engines.nvalchemi_cells import require_right_cells
from alchemi_bridge.engines.nvalchemi_states import forget_states
from alchemi_bridge.engines.nvalchemi_version import require_tested
from alchemi_bridge.errors import (
    CellError,
    ConfigurationError,
    ShapeError,
)
from alchemi_bridge.pairs.candidates import INDEX_DTYPES
from alchemi_bridge.provider import FLOATS

require_tested()

# isort: split
from nvalchemi.data import AtomicData, Batch  # noqa: E402  (only versions that were tested)
from nvalchemi.neighbors import compute_neighbors  # noqa: E402


def atomic_data(
    atoms: ase.Atoms,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    stress: bool = False,
) -> AtomicData:
    """A structure of ASE as nvalchemi's, ready for dynamics.

    Other than ``AtomicData.from_atoms`` it takes the velocities along, always has a cell (a
    molecule too, or a batch that begins with one would drop the cells of all others), and has
    zeros for what the model writes: nvalchemi leaves out results that have no place.

    Parameters
    ----------
    atoms
        Masses in u, velocities in ASE's unit, sqrt(eV/u), which is nvalchemi's, too.
    dtype
        float32 or float64, of all its numbers.
    device
        Where it lives.
    stress
        Whether there is a place for the stress, which dynamics with a variable cell need.

    Raises
    ------
    CellError, NonFiniteError
        If the cell can not be used, or is left-handed.
    """
    cell = Cell.of(atoms.cell.array, atoms.pbc)
    _require_right_handed(cell.vectors, cell.pbc)
    # vectors that are not periodic mean nothing, but nvalchemi inverts the matrix
    rows = np.array(atoms.cell.array, dtype=np.float64)
    if not abs(np.linalg.det(rows)) > 0.0:
        rows = np.array(cell.completed)
        rows[2] *= np.sign(np.linalg.det(rows)) if not cell.pbc[2] else 1.0
    n_atoms = len(atoms)

    def tensor(values: Any, shape: tuple[int, ...]) -> torch.Tensor:
        array = np.array(values, dtype=np.float64).reshape(shape)
        return torch.tensor(array, dtype=dtype, device=device)

    zeros = {"forces": (n_atoms, 3), "energy": (1, 1), **({"stress": (1, 3, 3)} if stress else {})}
    return AtomicData(
        atomic_numbers=torch.tensor(np.array(atoms.numbers, dtype=np.int64), device=device),
        positions=tensor(atoms.positions, (n_atoms, 3)),
        atomic_masses=tensor(atoms.get_masses(), (n_atoms,)),
        velocities=tensor(atoms.get_velocities(), (n_atoms, 3)),
        cell=tensor(rows, (1, 3, 3)),
        pbc=torch.tensor(np.array(atoms.pbc).reshape(1, 3), device=device),
        **{name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in zeros.items()},
    )


def make_batch(
    structures: Iterable[ase.Atoms | AtomicData],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    stress: bool = False,
) -> Batch:
    """A batch of structures, with places for the results.

    Parameters
    ----------
    structures
        Of ASE, or nvalchemi's own, which must have the same fields: nvalchemi takes those of the
        first for all, and drops what the others have besides.
    dtype, device, stress
        See :func:`atomic_data`; ``dtype`` is for structures of ASE.

    Raises
    ------
    ConfigurationError
        If structures have different fields or no atoms, or there are none.
    InputError
        What :func:`atomic_data` raises, with the number of the system.
    """
    made: list[AtomicData] = []
    fields: Mapping[str, torch.dtype] = {}
    for k, structure in enumerate(structures):
        with of_system(k):
            if isinstance(structure, ase.Atoms):
                structure = atomic_data(structure, dtype=dtype, device=device, stress=stress)
        if not len(structure.positions):
            raise ConfigurationError(
                f"system {k}",
                expected="at least one atom",
                got="an empty system",
                fix="leave empty systems out of a batch",
            )
        found = _fields(structure)
        fields = fields or found
        if found != fields:
            other = sorted(dict(found.items() ^ fields.items()))
            raise ConfigurationError(
                f"fields of system {k}",
                expected=f"those of system 0 ({', '.join(sorted(fields))})",
                got=f"others, or others of another dtype: {', '.join(other)}",
                fix="give all systems the same fields",
            )
        made.append(structure)
    if not made:
        raise ConfigurationError(
            "structures", expected="at least one", got="none", fix="pass structures to evaluate"
        )
    return preallocate(Batch.from_data_list(made, device=device), stress=stress)


def _fields(data: AtomicData) -> dict[str, torch.dtype]:
    values = {name: getattr(data, name, None) for name in data.model_dump(exclude_none=True)}
    return {n: v.dtype for n, v in values.items() if isinstance(v, torch.Tensor)}


def preallocate(batch: Batch, *, stress: bool = False) -> Batch:
    """Give a batch places for energy, forces and, if wanted, stress; those that it has are kept.

    nvalchemi's dynamics write results into the batch only where they have a place there, and go on
    with the old forces where they have none.
    """
    n_systems, n_atoms = batch.num_graphs, batch.num_nodes
    zeros = batch.positions.new_zeros
    shapes: dict[str, tuple[int, ...]] = {"energy": (n_systems, 1), "forces": (n_atoms, 3)}
    if stress:
        shapes["stress"] = (n_systems, 3, 3)
    for name, shape in shapes.items():
        if getattr(batch, name, None) is None:
            batch[name] = zeros(shape)
    return batch


def prime(dynamics: Any, batch: Batch) -> Batch:
    """Make dynamics ready for a run with these systems.

    Computes the forces of the first step, which nvalchemi's ``run`` does not do by itself, and
    drops what thermostats, barostats and optimisers remember of an earlier run.

    Where the model takes its neighbours from the batch, they are searched first: hooks run in
    steps only.

    Parameters
    ----------
    dynamics
        Of nvalchemi. A ``FusedStage`` primes itself; for one this does no harm.
    batch
        Gets places for what the model computes, see :func:`preallocate`, and neighbours.

    Raises
    ------
    ConfigurationError
        For dynamics that move the cell wrongly in nvalchemi 0.2: ``FIREVariableCell``,
        ``NPT``, and ``NPH`` whose coupling is not isotropic, the latter two without a
        :class:`~alchemi_bridge.engines.nvalchemi.CellHook`.
    """
    require_right_cells(dynamics)
    forget_states(dynamics)
    outputs = dynamics.model.output_data()
    preallocate(batch, stress="stress" in outputs)
    config = dynamics.model.model_config.neighbor_config
    if config is not None:
        compute_neighbors(batch, config=config)
    dynamics.compute(batch)
    return batch


class BatchReader:
    """Reads batches for a model, and keeps the cells from one to the next.

    Parameters
    ----------
    device
        Where the model runs, and batches must be.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cells: tuple[np.ndarray, np.ndarray, Cells] | None = None

    def systems(self, batch: Batch) -> Systems:
        """The systems of a batch.

        Raises
        ------
        ShapeError, DtypeError, DeviceMismatchError
            If a field does not fit, or is there for some of the systems only.
        CellError, NonFiniteError
            If a cell can not be used or is left-handed, with the number of its system.
        """
        sizes = [int(size) for size in batch.num_nodes_list]
        n_atoms = sum(sizes)
        if not sizes or len(batch.positions) > n_atoms:
            raise ConfigurationError(
                "batch",
                expected="systems that fill it",
                got=f"{n_atoms} atoms of {len(sizes)} systems in room for {len(batch.positions)}",
                fix="evaluate batches of their own size, from make_batch or index_select; what "
                "nvalchemi 0.2 puts into a batch made by Batch.empty has lost its atomic numbers",
            )
        positions = DeviceBuffer.of(batch.positions.detach(), "positions of the batch").require(
            "positions of the batch", shape=(n_atoms, 3), dtypes=FLOATS, device=self.device
        )
        types = DeviceBuffer.of(batch.atomic_numbers, "atomic_numbers of the batch").require(
            "atomic_numbers of the batch", shape=(n_atoms,), dtypes=INDEX_DTYPES, device=self.device
        )
        return Systems(types, positions, self._cells_of(batch, len(sizes)), sizes)

    def _cells_of(self, batch: Batch, n_systems: int) -> Cells:
        cell, pbc = getattr(batch, "cell", None), getattr(batch, "pbc", None)
        if cell is None and pbc is None:
            vectors, flags = np.zeros((n_systems, 3, 3)), np.zeros((n_systems, 3), dtype=bool)
        elif cell is None or pbc is None:
            there, not_there = ("pbc", "cell") if cell is None else ("cell", "pbc")
            raise ConfigurationError(
                f"{not_there} of the batch",
                expected=f"{not_there} where there is {there}",
                got="none in any system",
                fix="make all systems with both, or with neither",
            )
        else:
            vectors = _rows(cell, "cell", (n_systems, 3, 3)).astype(np.float64)
            flags = _rows(pbc, "pbc", (n_systems, 3)).astype(bool)
        known = self._cells
        if known is not None and all(map(np.array_equal, known[:2], (vectors, flags))):
            return known[2]
        cells = Cells(vectors, flags)
        left = flags.all(axis=1) & (np.linalg.det(cells.vectors) < 0.0)
        for k in np.flatnonzero(left)[:1]:
            with of_system(int(k)):
                _require_right_handed(cells[int(k)].vectors, cells[int(k)].pbc)
        self._cells = (vectors.copy(), flags.copy(), cells)
        return cells


def _rows(values: torch.Tensor, name: str, shape: tuple[int, ...]) -> np.ndarray:
    found = tuple(values.shape)
    if found != shape:
        raise ShapeError(
            f"{name} of the batch",
            expected=f"shape {shape}, one for each system",
            got=f"shape {found}",
            fix="make all systems with the same fields; "
            "alchemi_bridge.engines.nvalchemi.make_batch says which one differs",
        )
    return np.asarray(values.detach().cpu().numpy())


def require_periodic(cells: Cells) -> None:
    """Raise :class:`CellError` for the first system that has no stress."""
    for k in np.flatnonzero(~cells.pbc.all(axis=1)):
        raise CellError(
            f"stress of system {k}",
            expected="a cell that is periodic in all three directions (stress = virial/volume)",
            got=f"pbc {cells.pbc[k].tolist()}",
            fix="evaluate such systems in a batch of their own, without stress",
        )


def _require_right_handed(vectors: np.ndarray, pbc: tuple[bool, bool, bool]) -> None:
    if not all(pbc) or np.linalg.det(vectors) > 0.0:
        return
    raise CellError(
        "cell",
        expected="right-handed vectors, as nvalchemi needs them",
        got=f"left-handed ones: {vectors.tolist()}",
        fix="exchange two vectors (and the cell shifts that belong to them), or reverse all three",
    )
