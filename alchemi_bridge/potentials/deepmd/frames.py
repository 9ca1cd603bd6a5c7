"""Batches of frames: their pairs, and energies, forces and virials of a model for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alchemi_bridge.cell import Cell
from alchemi_bridge.errors import PairListError, ShapeError
from alchemi_bridge.pairs.search import find_pairs
from alchemi_bridge.potentials.deepmd.model import SeE2A


@dataclass(frozen=True, eq=False)
class FramePairs:
    """Pairs of F frames of N atoms each, every pair once.

    They depend on the frames alone, so that a data set needs to find them once.

    Attributes
    ----------
    n_frames, n_atoms
        F and N.
    first, second
        (P,) int64, atoms counted through all frames: atom i of frame f is ``f * N + i``.
    shifts
        (P, 3) float64 multiples of the rows of the cell that belong to the second atom.
    """

    n_frames: int
    n_atoms: int
    first: torch.Tensor
    second: torch.Tensor
    shifts: torch.Tensor

    def vectors(self, coordinates: torch.Tensor, cells: torch.Tensor | None) -> torch.Tensor:
        """(P, 3) vectors from the first to the second atoms, with their graph.

        Parameters
        ----------
        coordinates
            (F, N, 3) Å.
        cells
            (F, 3, 3) Å, rows are the vectors; None without periodic boundaries.
        """
        flat = coordinates.reshape(-1, 3)
        vectors = flat.index_select(0, self.second) - flat.index_select(0, self.first)
        if cells is None:
            return vectors
        frames = self.first // self.n_atoms
        shifts = self.shifts.to(flat.dtype).unsqueeze(1)
        return vectors + torch.matmul(shifts, cells.index_select(0, frames)).squeeze(1)

    def to(self, device: torch.device | str) -> FramePairs:
        """The same on another device."""
        moved = (tensor.to(device) for tensor in (self.first, self.second, self.shifts))
        return FramePairs(self.n_frames, self.n_atoms, *moved)


@dataclass(frozen=True, eq=False)
class FrameResults:
    """What a model says of F frames of N atoms.

    Attributes
    ----------
    energies
        (F,) eV.
    forces
        (F, N, 3) eV/Å.
    virials
        (F, 3, 3) dE/d(strain), eV. The virials in DeePMD's data have the opposite sign.
    """

    energies: torch.Tensor
    forces: torch.Tensor
    virials: torch.Tensor


def pairs_of_frames(
    coordinates: torch.Tensor, cells: torch.Tensor | None, cutoff: float
) -> FramePairs:
    """Find the pairs of every frame.

    Parameters
    ----------
    coordinates
        (F, N, 3) Å, on the CPU.
    cells
        (F, 3, 3) Å, periodic in all directions; None without periodic boundaries.
    cutoff
        Å.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    InputError, CellError
        As :func:`alchemi_bridge.pairs.search.find_pairs`.
    """
    _check_shape("coordinates", coordinates, ("F", "N", 3))
    n_frames, n_atoms = coordinates.shape[:2]
    if cells is not None:
        _check_shape("cells", cells, (n_frames, 3, 3))
    found = []
    for frame in range(n_frames):
        cell = Cell.open() if cells is None else Cell.of(np.asarray(cells[frame].detach()))
        rows = find_pairs(coordinates[frame].detach(), cell, cutoff)
        once = rows.canonical
        first, second = rows.first[once].long(), rows.second[once].long()
        found.append(FramePairs(1, n_atoms, first, second, rows.shifts[once].to(torch.float64)))
    return concatenate(found)


def pairs_of_lists(lists: torch.Tensor, shifts: torch.Tensor | None = None) -> FramePairs:
    """Pairs from padded neighbour lists.

    Parameters
    ----------
    lists
        (F, N, K) int64 neighbours of each atom, -1 where there is none. Every pair must be in the
        lists of both of its atoms.
    shifts
        (F, N, K, 3) cell shifts of the neighbours; zero if None.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    PairListError
        If an entry is no atom of the frame.
    """
    _check_shape("neighbour lists", lists, ("F", "N", "K"))
    n_frames, n_atoms, n_slots = lists.shape
    if shifts is not None:
        _check_shape("shifts of the neighbours", shifts, (n_frames, n_atoms, n_slots, 3))
    outside = (lists < -1) | (lists >= n_atoms)
    if bool(outside.any()):
        raise PairListError(
            "neighbour lists",
            expected=f"atoms from 0 to {n_atoms - 1}, or -1 for none",
            got=str(int(lists[outside][0])),
            fix="count the atoms of each frame from zero",
        )
    frame, atom, slot = (lists >= 0).nonzero().unbind(1)
    first = frame * n_atoms + atom
    second = frame * n_atoms + lists[frame, atom, slot]
    if shifts is None:
        chosen = torch.zeros((len(first), 3), dtype=torch.float64, device=lists.device)
    else:
        chosen = shifts[frame, atom, slot].to(torch.float64)
    # an atom and its own image: the shift whose first number that is not zero is positive
    sign = torch.sign(chosen)
    leading = 9.0 * sign[:, 0] + 3.0 * sign[:, 1] + sign[:, 2]
    once = (first < second) | ((first == second) & (leading > 0))
    if 2 * int(once.sum()) != len(first):
        raise PairListError(
            "neighbour lists",
            expected="every pair in the lists of both of its atoms",
            got=f"{int(once.sum())} pairs in {len(first)} entries",
            fix="make the lists full",
        )
    return FramePairs(n_frames, n_atoms, first[once], second[once], chosen[once])


def concatenate(parts: Sequence[FramePairs]) -> FramePairs:
    """Pairs of frames behind each other; all parts have the same number of atoms.

    Raises
    ------
    ShapeError
        If there is no part, or the numbers of atoms differ.
    """
    sizes = sorted({part.n_atoms for part in parts})
    if len(sizes) != 1:
        raise ShapeError(
            "batch of frames",
            expected="one or more frames with the same number of atoms",
            got=f"frames of {sizes} atoms",
            fix="put frames of different systems into different batches",
        )
    first, second = [], []
    offset = 0
    for part in parts:
        first.append(part.first + offset)
        second.append(part.second + offset)
        offset += part.n_frames * part.n_atoms
    return FramePairs(
        n_frames=sum(part.n_frames for part in parts),
        n_atoms=sizes[0],
        first=torch.cat(first),
        second=torch.cat(second),
        shifts=torch.cat([part.shifts for part in parts]),
    )


def evaluate(
    model: SeE2A,
    coordinates: torch.Tensor,
    cells: torch.Tensor | None,
    types: torch.Tensor,
    pairs: FramePairs,
    *,
    differentiable: bool = False,
) -> FrameResults:
    """Energies, forces and virials of a batch.

    Parameters
    ----------
    model
        May be wrapped for distributed training: it is called as a function.
    coordinates, cells
        (F, N, 3) and (F, 3, 3) or None, Å.
    types
        (N,) or (F, N) int64, places in the type map.
    pairs
        Of these frames, within the cutoff of the model.
    differentiable
        Keep the graph, so that losses of forces and virials can be differentiated with respect to
        the parameters.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    """
    n_frames, n_atoms = pairs.n_frames, pairs.n_atoms
    _check_shape("coordinates", coordinates, (n_frames, n_atoms, 3))
    if types.dim() == 1:
        types = types.expand(n_frames, -1)
    _check_shape("types", types, (n_frames, n_atoms))
    with torch.enable_grad():
        vectors = pairs.vectors(coordinates, cells).detach().requires_grad_(True)
        atomic = model(vectors, pairs.first, pairs.second, types.reshape(-1))
        energies = atomic.reshape(n_frames, n_atoms).sum(dim=1)
        # without any pair the energies do not depend on the (0, 3) vectors
        [gradient] = torch.autograd.grad(
            energies.sum(), [vectors], create_graph=differentiable, materialize_grads=True
        )
    forces = torch.zeros_like(coordinates).reshape(-1, 3)
    forces = forces.index_add(0, pairs.first, gradient)
    forces = forces.index_add(0, pairs.second, -gradient)
    outer = vectors.unsqueeze(2) * gradient.unsqueeze(1)
    virials = torch.zeros((n_frames, 3, 3), dtype=outer.dtype, device=outer.device)
    virials = virials.index_add(0, pairs.first // n_atoms, outer)
    results = FrameResults(energies, forces.reshape(n_frames, n_atoms, 3), virials)
    if differentiable:
        return results
    return FrameResults(energies.detach(), results.forces.detach(), virials.detach())


def _check_shape(name: str, tensor: torch.Tensor, shape: tuple[int | str, ...]) -> None:
    good = tensor.dim() == len(shape) and all(
        isinstance(wanted, str) or wanted == length
        for wanted, length in zip(shape, tensor.shape, strict=True)
    )
    if not good:
        raise ShapeError(
            name,
            expected=f"the shape ({', '.join(map(str, shape))})",
            got=str(tuple(tensor.shape)),
            fix="see FramePairs for the shapes of a batch",
        )
