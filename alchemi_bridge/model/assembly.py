"""The systems of a batch as metatomic's objects, made in TorchScript.

Python spends some 70 µs on the calls for one system and its list, TorchScript less than 20. (No
postponed annotations here: TorchScript reads them.)
"""

from functools import lru_cache
from typing import Any

import torch
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import NeighborListOptions, System

from alchemi_bridge.neighbors.blocks import block_metadata


def _assemble(
    types: torch.Tensor,
    positions: torch.Tensor,
    cells: torch.Tensor,
    pbc: torch.Tensor,
    sizes: list[int],
    requests: list[NeighborListOptions],
    samples: list[torch.Tensor],
    vectors: list[torch.Tensor],
    counts: list[list[int]],
    components: Labels,
    properties: Labels,
) -> list[System]:
    names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
    each_types = torch.split_with_sizes(types, sizes)
    each_positions = torch.split_with_sizes(positions, sizes)
    each_cell = torch.unbind(cells)
    each_pbc = torch.unbind(pbc)
    systems: list[System] = []
    for k in range(len(sizes)):
        systems.append(System(each_types[k], each_positions[k], each_cell[k], each_pbc[k]))
    for m in range(len(requests)):
        each_samples = torch.split_with_sizes(samples[m], counts[m])
        each_vectors = torch.split_with_sizes(vectors[m], counts[m])
        for k in range(len(sizes)):
            rows = Labels(names, each_samples[k], assume_unique=True)
            block = TensorBlock(each_vectors[k], rows, [components], properties)
            systems[k].add_neighbor_list(requests[m], block)
    return systems


@lru_cache(maxsize=1)
def _compiled() -> Any:
    return torch.jit.script(_assemble)


def assemble_systems(
    types: torch.Tensor,
    positions: torch.Tensor,
    cells: torch.Tensor,
    pbc: torch.Tensor,
    sizes: list[int],
    requests: list[NeighborListOptions],
    samples: list[torch.Tensor],
    vectors: list[torch.Tensor],
    counts: list[list[int]],
) -> list[System]:
    """metatomic's systems with their neighbour lists; their tensors are views of the given ones.

    Parameters
    ----------
    types, positions, cells, pbc
        Of all systems: (n_atoms,) int32, (n_atoms, 3), (n_systems, 3, 3), (n_systems, 3) bool.
    sizes
        Number of atoms of each system.
    requests
        The model's.
    samples, vectors
        Per request, of all systems: (n_rows, 5) int32, the atoms numbered within their system, and
        (n_rows, 3, 1).
    counts
        Per request, the number of rows of each system.
    """
    components, properties = block_metadata(positions.device)
    made: list[System] = _compiled()(
        types,
        positions,
        cells,
        pbc,
        sizes,
        requests,
        samples,
        vectors,
        counts,
        components[0],
        properties,
    )
    return made
