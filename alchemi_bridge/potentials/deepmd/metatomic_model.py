# ruff: noqa: UP006, UP035, UP045  (TorchScript and metatomic compare against typing's classes)
"""se_e2_a as a metatomic model."""

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

#: Name in the metadata of exported models.
NAME = "deepmd-se_e2_a"
REFERENCES = {
    "architecture": [
        "L. Zhang, J. Han, H. Wang, W. A. Saidi, R. Car, W. E, Adv. Neural Inf. Process. Syst. 31 "
        "(2018), https://arxiv.org/abs/1805.09003",
    ],
    "implementation": [
        "mathematics of DeePMD-kit: J. Zeng et al., J. Chem. Phys. 159, 054801 (2023), "
        "https://doi.org/10.1063/5.0155600"
    ],
}


class SeE2AModel(torch.nn.Module):
    """The metatomic module around :class:`SeE2A`.

    Parameters
    ----------
    energies
        The model; its parameters are shared, not copied.
    numbers
        Atomic number of each of its types.
    """

    type_index: torch.Tensor

    def __init__(self, energies: SeE2A, numbers: List[int]) -> None:
        super().__init__()
        self.energies = energies
        # strict: the net is the costly part, and a pair of the skin costs as much as any other
        self.request = NeighborListOptions(cutoff=energies.rcut, full_list=True, strict=True)
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
            results["energy"] = no_energy(self.energies.energy_bias, sample_kind)
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
    energies: SeE2A,
    definition: Definition,
    numbers: Optional[Dict[str, int]] = None,
    origin: Optional[Dict[str, Any]] = None,
) -> AtomisticModel:
    """Wrap a model for any metatomic engine; ``save`` of the result writes the file.

    Parameters
    ----------
    energies
        The model; put into evaluation mode.
    definition
        Its settings, which go into the metadata.
    numbers
        Atomic numbers of types whose names are no chemical symbols, or of any type.
    origin
        Where the model comes from, for the metadata.

    Returns
    -------
    AtomisticModel
        Ångström and eV, float64 in and out whatever the precision inside.

    Raises
    ------
    ConfigurationError
        If a type is no element, or two are the same.
    """
    known = atomic_numbers(definition.type_map, numbers or {})
    return _options.to_model(
        SeE2AModel(energies, known),
        name=NAME,
        options={"model": definition.to_deepmd(), "types": known, **(origin or {})},
        types=known,
        interaction_range=definition.rcut,
        dtype="float64",
        metadata=ModelMetadata(
            name="DeePMD se_e2_a",
            description=(
                f"deep potential for {', '.join(definition.type_map)}, cutoff "
                f"{definition.rcut:g} angstrom"
            ),
            references=REFERENCES,
        ),
    )
