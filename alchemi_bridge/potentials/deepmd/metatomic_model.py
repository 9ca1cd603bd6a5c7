# ruff: noqa: UP006, UP035, UP045  (TorchScript and metatomic compare against typing's classes)
"""Atomic energies of DeePMD models as metatomic models."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Dict, List, Optional

import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)

from alchemi_bridge.potentials import _options
from alchemi_bridge.potentials._interface import (
    concatenated_types,
    energy_map,
    gather_pairs,
    no_energy,
)
from alchemi_bridge.potentials.deepmd.definition import Definition
from alchemi_bridge.potentials.deepmd.elements import atomic_numbers
from alchemi_bridge.potentials.deepmd.model import SeE2A

#: Where the kinds of models come from.
PAPERS = {
    "se_e2_a": "L. Zhang, J. Han, H. Wang, W. A. Saidi, R. Car, W. E, Adv. Neural Inf. Process. "
    "Syst. 31 (2018), https://arxiv.org/abs/1805.09003",
    "dpa1": "D. Zhang, H. Bi, F.-Z. Dai, W. Jiang, X. Liu, L. Zhang, H. Wang, npj Computational "
    "Materials 10, 94 (2024), https://doi.org/10.1038/s41524-024-01278-7",
    "dpa3": "D. Zhang, A. Peng, C. Cai, W. Li, Y. Zhou, et al. (2025), "
    "https://arxiv.org/abs/2506.01686",
}
SOFTWARE = (
    "mathematics of DeePMD-kit: J. Zeng et al., J. Chem. Phys. 159, 054801 (2023), "
    "https://doi.org/10.1063/5.0155600"
)


class DeePMDModel(torch.nn.Module):
    """The metatomic module around :class:`SeE2A`, or around what has its signature.

    Parameters
    ----------
    energies
        The model of atomic energies.
    rcut
        Its cutoff, Å.
    numbers
        Atomic number of each of its types.
    full_list
        Whether it wants every pair in both directions.
    """

    type_index: torch.Tensor
    empty: torch.Tensor

    def __init__(
        self, energies: torch.nn.Module, rcut: float, numbers: List[int], full_list: bool
    ) -> None:
        super().__init__()
        self.energies = energies
        # strict: the nets are the costly part, and a pair of the skin costs as much as any other
        self.request = NeighborListOptions(cutoff=rcut, full_list=full_list, strict=True)
        # carries dtype and device for a call without systems
        self.register_buffer("empty", torch.zeros(0, dtype=torch.float64))
        self.type_numbers = numbers
        index = torch.full((max(numbers) + 1,), -1, dtype=torch.int64)
        index[torch.tensor(numbers)] = torch.arange(len(numbers))
        self.register_buffer("type_index", index)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        """Return the one list that the model reads."""
        return [self.request]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        """Compute the energy; see :class:`metatomic.torch.ModelInterface`."""
        results: Dict[str, TensorMap] = {}
        if "energy" not in outputs:
            return results
        sample_kind = outputs["energy"].sample_kind
        if len(systems) == 0:
            results["energy"] = no_energy(self.empty, sample_kind)
            return results
        types = self.type_index.index_select(0, concatenated_types(systems))
        vectors, first, second = gather_pairs(systems, self.request)
        if selected_atoms is None:
            energies = self.energies(vectors, first, second, types)
        else:
            # a rank's halo atoms have no energy of their own: nothing is computed for them
            centers = selected_atoms.column("atom").to(torch.int64)
            if len(systems) > 1:
                offsets: List[int] = [0]
                for system in systems:
                    offsets.append(offsets[-1] + len(system))
                system_of = selected_atoms.column("system").to(torch.int64)
                centers = centers + torch.tensor(offsets, device=types.device)[system_of]
            selected = self.energies(vectors, first, second, types, centers)
            energies = torch.zeros(types.shape[0], dtype=selected.dtype, device=types.device)
            energies = energies.index_copy(0, centers, selected)
        results["energy"] = energy_map(energies, systems, sample_kind, selected_atoms)
        return results


def to_metatomic(
    energies: SeE2A, definition: Definition, numbers: Optional[Dict[str, int]] = None
) -> AtomisticModel:
    """Wrap a copy of a model for any metatomic engine; ``save`` of the result writes the file.

    Parameters
    ----------
    energies
        The model.
    definition
        Its settings, which go into the metadata.
    numbers
        Atomic numbers of types whose names are no chemical symbols, or of any type.

    Returns
    -------
    AtomisticModel
        On the CPU, in evaluation mode: Å and eV, float64 in and out whatever the precision inside.

    Raises
    ------
    ConfigurationError
        If a type is no element, or two are the same.
    """
    return wrap(
        copy.deepcopy(energies).cpu(),
        kind="se_e2_a",
        type_map=definition.type_map,
        rcut=definition.rcut,
        interaction_range=definition.rcut,
        full_list=False,
        numbers=numbers or {},
        options={"model": definition.to_deepmd()},
    )


def wrap(
    energies: torch.nn.Module,
    *,
    kind: str,
    type_map: Sequence[str],
    rcut: float,
    interaction_range: float,
    full_list: bool,
    numbers: Mapping[str, int],
    options: Dict[str, Any],
) -> AtomisticModel:
    """Wrap anything with the signature of :class:`SeE2A`; see :func:`to_metatomic`.

    Parameters
    ----------
    energies
        Taken as it is, not copied.
    kind
        A key of :data:`PAPERS`.
    type_map, numbers
        Names of the types, and atomic numbers of those that are no chemical symbols.
    rcut, interaction_range
        Cutoff, and distance at which atoms cease to influence each other, Å.
    full_list
        Whether ``energies`` wants every pair in both directions.
    options
        For the metadata: what the model was made from.
    """
    known = atomic_numbers(type_map, numbers)
    return _options.to_model(
        DeePMDModel(energies, rcut, known, full_list),
        name=f"deepmd-{kind}",
        options={**options, "types": known},
        types=known,
        interaction_range=interaction_range,
        dtype="float64",
        authors=(),  # those who trained it are not known here
        metadata=ModelMetadata(
            name=f"DeePMD {kind}",
            description=f"deep potential for {', '.join(type_map)}, cutoff {rcut:g} angstrom",
            references={"architecture": [PAPERS[kind]], "implementation": [SOFTWARE]},
        ),
    )
