"""The model behind the provider itself, in any engine units: as an engine sees it."""

from __future__ import annotations

from typing import Any

import torch
from ase import Atoms

from alchemi_bridge import contract
from alchemi_bridge.cell import Cell
from alchemi_bridge.engines.ase_inputs import quantities
from alchemi_bridge.pairs import Search
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.units import Units, conversion_factor
from alchemi_bridge.verify.evaluation import Evaluation


class ProviderRoute:
    """Evaluates ASE structures through a :class:`MetatomicForceProvider`.

    Parameters
    ----------
    model
        As for the provider.
    units
        Units in which the provider is asked; results are converted back to Å and eV.
    options
        Further keywords of the provider.
    """

    def __init__(self, model: Any, units: Units, **options: Any) -> None:
        self.units = units
        self.provider = MetatomicForceProvider(
            model, units=units, uncertainty_threshold=None, **options
        )

    def evaluate(self, atoms: Atoms) -> Evaluation:
        """Energy, forces and (for periodic systems, also slabs) the virial; eV and Å."""
        device = self.provider.requirements.device
        length = conversion_factor("angstrom", self.units.length)
        energy = conversion_factor(self.units.energy, "eV")
        periodic = bool(atoms.pbc.any())

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        types = torch.as_tensor(atoms.numbers, dtype=torch.int32, device=device)
        inputs = quantities(atoms, self.provider.loaded.requested_inputs)
        self.provider.set_atoms(contract.Atoms(types, inputs=inputs))
        # no skin: every evaluation here is another structure
        self.provider.set_pairs(Search(0.0), Cell.of(atoms.cell.array * length, atoms.pbc))
        step = contract.Step(
            torch.as_tensor(atoms.positions * length, device=device), virial=periodic
        )
        out = contract.ForceBuffers(
            forces=zeros(len(atoms), 3), energy=zeros(1), virial=zeros(3, 3) if periodic else None
        )
        self.provider.compute(step, out).synchronize()
        return Evaluation(
            float(out.energy.item()) * energy,
            out.forces.cpu().numpy() * energy * length,
            out.virial.cpu().numpy() * energy if periodic else None,
        )
