# ruff: noqa: UP006, UP035, UP045  (TorchScript and metatomic compare against typing's classes)
"""Reading pairs from metatomic systems and writing energies, in TorchScript.

Nothing here copies to the host: sizes come from shapes, and positions are never read, so that all
gradients flow through the values of the neighbour lists.
"""

from typing import List, Optional, Tuple

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import NeighborListOptions, System


def gather_pairs(
    systems: List[System], options: NeighborListOptions, needs_second: bool = True
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Concatenate the pairs of all systems, with atoms counted through.

    Parameters
    ----------
    systems
        At least one system, each holding the neighbour list that ``options`` asks for.
    options
        The request that the list was made for.
    needs_second
        Without it ``second`` is empty.

    Returns
    -------
    vectors, first, second
        (P, 3) vectors from the first to the second atom, in Å, with their graph, and (P,) int64
        indices into the concatenated atoms.
    """
    vectors: List[torch.Tensor] = []
    first: List[torch.Tensor] = []
    second: List[torch.Tensor] = []
    offset = 0
    for system in systems:
        neighbors = system.get_neighbor_list(options)
        vectors.append(neighbors.values.squeeze(-1))
        pairs = neighbors.samples.values
        index = pairs[:, 0].to(torch.int64)
        first.append(index if offset == 0 else index + offset)
        index = pairs[:, 1].to(torch.int64) if needs_second else index[:0]
        second.append(index if offset == 0 else index + offset)
        offset += len(system)
    if len(systems) == 1:
        return vectors[0], first[0], second[0]
    return torch.cat(vectors), torch.cat(first), torch.cat(second)


def concatenated_types(systems: List[System]) -> torch.Tensor:
    """Atomic numbers of all atoms of all systems, (N,) int64."""
    if len(systems) == 1:
        return systems[0].types.to(torch.int64)
    return torch.cat([system.types for system in systems]).to(torch.int64)


def _to_map(values: torch.Tensor, samples: Labels) -> TensorMap:
    zero = torch.zeros((1, 1), dtype=torch.int32, device=values.device)
    components: List[Labels] = []
    block = TensorBlock(
        values=values.reshape(-1, 1),
        samples=samples,
        components=components,
        properties=Labels(["energy"], zero, assume_unique=True),
    )
    return TensorMap(keys=Labels(["_"], zero, assume_unique=True), blocks=[block])


def _system_samples(indices: torch.Tensor) -> Labels:
    return Labels(["system"], indices.to(torch.int32).reshape(-1, 1), assume_unique=True)


def _all_atoms(energies: torch.Tensor, systems: List[System], sample_kind: str) -> TensorMap:
    device = energies.device
    sizes: List[int] = []
    for system in systems:
        sizes.append(len(system))
    if sample_kind == "atom":
        rows: List[torch.Tensor] = []
        for index, size in enumerate(sizes):
            atom = torch.arange(size, dtype=torch.int32, device=device)
            rows.append(torch.stack([torch.full_like(atom, index), atom], dim=1))
        samples = Labels(["system", "atom"], torch.cat(rows), assume_unique=True)
        return _to_map(energies, samples)
    # one sum per system and no index_add: the order of the additions is fixed on every device
    totals = torch.stack([part.sum() for part in energies.split(sizes)])
    return _to_map(totals, _system_samples(torch.arange(len(sizes), device=device)))


def _selected(
    energies: torch.Tensor, systems: List[System], sample_kind: str, selected_atoms: Labels
) -> TensorMap:
    system = selected_atoms.column("system").to(torch.int64)
    atom = selected_atoms.column("atom").to(torch.int64)
    if len(systems) > 1:
        offsets: List[int] = [0]
        for one in systems:
            offsets.append(offsets[-1] + len(one))
        atom = atom + torch.tensor(offsets, device=energies.device)[system]
    energies = energies.index_select(0, atom)
    if sample_kind == "atom":
        return _to_map(energies, selected_atoms)
    if len(systems) == 1:
        # metatomic wants a row only for systems that have selected atoms
        n_rows = min(1, selected_atoms.values.shape[0])
        rows = torch.arange(n_rows, device=energies.device)
        return _to_map(energies.sum().reshape(1)[:n_rows], _system_samples(rows))
    present = torch.unique(system)
    totals = torch.zeros(len(systems), dtype=energies.dtype, device=energies.device)
    totals = totals.index_add(0, system, energies).index_select(0, present)
    return _to_map(totals, _system_samples(present))


def energy_map(
    energies: torch.Tensor,
    systems: List[System],
    sample_kind: str,
    selected_atoms: Optional[Labels],
) -> TensorMap:
    """Pack per-atom energies into the map that metatomic expects for ``"energy"``.

    Parameters
    ----------
    energies
        (N,) energies of all atoms of all systems, in eV.
    systems
        The systems that the atoms belong to.
    sample_kind
        ``"atom"`` for one row per atom, anything else for one row per system.
    selected_atoms
        ``["system", "atom"]`` labels of the atoms to report or to sum; all atoms if None. Rows per
        atom come in the order of these labels.
    """
    if selected_atoms is None:
        return _all_atoms(energies, systems, sample_kind)
    return _selected(energies, systems, sample_kind, selected_atoms)


def no_energy(like: torch.Tensor, sample_kind: str) -> TensorMap:
    """Return the empty map for a call without systems, typed and placed as ``like``."""
    names = ["system", "atom"] if sample_kind == "atom" else ["system"]
    samples = torch.zeros((0, len(names)), dtype=torch.int32, device=like.device)
    values = torch.zeros(0, dtype=like.dtype, device=like.device)
    return _to_map(values, Labels(names, samples, assume_unique=True))
