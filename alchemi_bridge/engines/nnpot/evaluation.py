# ruff: noqa: UP006, UP035, UP045  (TorchScript reads typing's classes)
"""What both TorchScript modules for GROMACS share: units, checks, neighbour lists, forces.

They give energy *and* forces. GROMACS would also take the gradient of an energy alone, but stops at
an energy without one (no pair within the cutoff), and adds up in single precision. Here gradients
of pair vectors are added up in double precision, whatever the model's is.

Messages of errors follow :mod:`alchemi_bridge.errors`; TorchScript has no classes for them.
"""

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import torch
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import (
    AtomisticModel,
    ModelEvaluationOptions,
    ModelOutput,
    System,
    register_autograd_neighbors,
)

from alchemi_bridge.engines.nnpot.apart import require_apart
from alchemi_bridge.engines.nnpot.search import complete_cell, find_pairs
from alchemi_bridge.engines.nnpot.trial import trial_atoms

Pairs = Tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Facts:
    """What is known about a model when its file is written.

    Attributes
    ----------
    types
        Atomic numbers that it knows.
    devices
        Types of the devices that it runs on.
    length_unit
        Its own.
    cutoff
        Largest cutoff, in ``length_unit``; 0.0 without neighbour lists.
    skin
        How far a list that is kept reaches beyond, in ``length_unit``.
    closest
        Atoms closer than this sit on the same point, in ``length_unit``.
    length_factor, energy_factor
        nm in ``length_unit``; its energy unit in kJ/mol.
    requests
        Outputs to ask for.
    energy, force
        Names of its energy and, if not empty, of its non-conservative forces.
    connected
        Whether the model itself differentiates with respect to positions: then pair vectors hang on
        them in autograd's graph.
    dtype
        Its float type.
    """

    types: List[int]
    devices: List[str]
    length_unit: str
    cutoff: float
    skin: float
    closest: float
    length_factor: float
    energy_factor: float
    requests: Dict[str, ModelOutput]
    energy: str
    force: str
    connected: bool
    dtype: torch.dtype


class Evaluation(torch.nn.Module):
    """A metatomic model that is evaluated for pairs of atoms in GROMACS' units."""

    types: List[int]
    devices: List[str]
    requests: Dict[str, ModelOutput]

    def __init__(self, model: AtomisticModel, facts: Facts) -> None:
        super().__init__()
        self.model = model
        self.types = facts.types
        self.devices = facts.devices
        self.length_unit = facts.length_unit
        self.cutoff = facts.cutoff
        self.closest = facts.closest
        self.closest_text = f"{facts.closest / facts.length_factor:g} nm"
        self.length_factor = facts.length_factor
        self.energy_factor = facts.energy_factor
        self.requests = facts.requests
        self.energy = facts.energy
        self.force = facts.force
        self.connected = facts.connected
        self.dtype = facts.dtype

    def prepared(
        self,
        positions: torch.Tensor,
        numbers: torch.Tensor,
        box: Optional[torch.Tensor],
        pbc: Optional[torch.Tensor],
    ) -> Tuple[int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What both contracts hand over, checked.

        Returns
        -------
        trial
            See :func:`~alchemi_bridge.engines.nnpot.trial.trial_atoms`.
        positions, types, cell, pbc
            (N, 3) float64 and (3, 3), in the model's length unit, (N,) int32, and (3,) bool.
        """
        self.check_inputs(positions, numbers, box, pbc)
        trial = trial_atoms(positions, box)
        kinds = self.known_types(numbers, trial)
        x = positions.detach().to(torch.float64) * self.length_factor
        cell, periodic = self.cell_of(x, box, pbc)
        return trial, x, kinds, cell, periodic

    def check_inputs(
        self,
        positions: torch.Tensor,
        numbers: torch.Tensor,
        box: Optional[torch.Tensor],
        pbc: Optional[torch.Tensor],
    ) -> None:
        """Raise ValueError where the inputs are not those that the mdp file should name."""
        good = len(positions.shape) == 2 and positions.is_floating_point()
        good = good and positions.shape[-1] == 3 and list(numbers.shape) == [positions.shape[0]]
        if not good:
            raise ValueError(
                "alchemi-bridge: nnpot-model-input1 and 2: expected atom-positions (N, 3) and "
                + f"atom-numbers (N,), got {list(positions.shape)} and {list(numbers.shape)}; "
                + "name the inputs as alchemi-bridge export printed them"
            )
        if (box is None) != (pbc is None):
            raise ValueError(
                "alchemi-bridge: box and pbc: expected both or neither, got one of them; name both "
                + "among nnpot-model-input1 to 9, or neither for a run without periodicity"
            )
        if box is not None and pbc is not None:
            good = list(box.shape) == [3, 3] and box.is_floating_point()
            if not (good and list(pbc.shape) == [3] and pbc.dtype == torch.bool):
                raise ValueError(
                    "alchemi-bridge: box and pbc: expected (3, 3) floats and (3,) bools, got "
                    + f"{list(box.shape)} and {list(pbc.shape)}; name the inputs as alchemi-bridge "
                    + "export printed them"
                )
            if not bool(torch.isfinite(box).all()):
                raise ValueError(
                    "alchemi-bridge: box: expected finite numbers, got NaN or infinity; the "
                    + "simulation has blown up"
                )
        if positions.device.type not in self.devices:
            raise ValueError(
                f"alchemi-bridge: device: expected one of {self.devices}, which the model "
                + f"supports, got {positions.device.type}; set GMX_NN_DEVICE"
            )
        if not bool(torch.isfinite(positions).all()):
            raise ValueError(
                "alchemi-bridge: atom-positions: expected finite numbers, got NaN or infinity; the "
                + "simulation has blown up, try a smaller time step or another start"
            )

    def known_types(self, numbers: torch.Tensor, trial: int) -> torch.Tensor:
        """(N,) int32 types, or ValueError for those that the model lacks.

        ``trial`` is what :func:`~alchemi_bridge.engines.nnpot.trial.trial_atoms` said.
        """
        known = torch.tensor(self.types, dtype=numbers.dtype, device=numbers.device)
        foreign = ~torch.isin(numbers, known)
        if not bool(foreign.any()):
            return numbers.to(torch.int32)
        if trial == 1 and int(numbers[0]) == 1:
            # of 2025, which always asks for hydrogen
            return known[:1].to(torch.int32)
        found: List[int] = torch.unique(numbers[foreign].to(torch.int64)).tolist()
        advice = "leave these atoms out of nnpot-input-group, or take a model made for them"
        if trial >= 0:
            advice = "set nnpot-link-type to an element that the model knows (this is only a trial)"
        elif min(found) < 1:
            advice = "give the at.num of their atom types in the force field"
        raise ValueError(
            f"alchemi-bridge: atom-numbers: expected atomic numbers among {self.types}, which the "
            + f"model knows, got {found}; {advice}"
        )

    def cell_of(
        self, x: torch.Tensor, box: Optional[torch.Tensor], pbc: Optional[torch.Tensor]
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Cell (3, 3) in the model's unit, zero where not periodic, and periodicity (3,)."""
        cell = torch.zeros(3, 3, dtype=x.dtype, device=x.device)
        periodic = torch.zeros(3, dtype=torch.bool, device=x.device)
        if box is not None and pbc is not None:
            cell = box.detach().to(x.dtype) * self.length_factor
            periodic = pbc
            cell = torch.where(periodic.unsqueeze(1), cell, torch.zeros_like(cell))
            volume = float(torch.linalg.det(complete_cell(cell, periodic)).abs())
            if not volume > 0.0:
                raise ValueError(
                    "alchemi-bridge: box: expected three independent vectors, got a box without "
                    + "volume; leave box and pbc out of the mdp file for a run without periodicity"
                )
        return cell, periodic

    def evaluate_trial(
        self,
        trial: int,
        x: torch.Tensor,
        kinds: torch.Tensor,
        cell: torch.Tensor,
        pbc: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Whether the model can be called, told by the first ``trial`` atoms alone."""
        few = x[:trial]
        pairs = self.no_pairs(x)
        if self.cutoff > 0.0:
            pairs = find_pairs(few, cell, pbc, self.cutoff)
        # 2026.0 to 2026.3 put both atoms in one place
        first, second, shifts = pairs
        vectors = few[second] - few[first] + shifts.to(x.dtype) @ cell
        apart = torch.nonzero((vectors != 0.0).any(dim=1)).flatten()
        pairs = (first[apart], second[apart], shifts[apart])
        energy, found = self.evaluate(few, kinds[:trial], cell, pbc, pairs)
        forces = torch.zeros_like(x)
        forces[:trial] = found
        return energy, forces

    def no_pairs(self, x: torch.Tensor) -> Pairs:
        """An empty list."""
        none = torch.zeros(0, dtype=torch.int64, device=x.device)
        return none, none, torch.zeros(0, 3, dtype=torch.int64, device=x.device)

    def finite(
        self, results: Tuple[torch.Tensor, torch.Tensor]
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Energy and forces, or ValueError if they are no numbers."""
        energy, forces = results
        if not bool(torch.isfinite(energy) & torch.isfinite(forces).all()):
            raise ValueError(
                "alchemi-bridge: results of the model: expected finite numbers, got NaN or "
                + "infinity; look for atoms that are too close to each other"
            )
        return energy, forces

    def evaluate(
        self,
        x: torch.Tensor,
        kinds: torch.Tensor,
        cell: torch.Tensor,
        pbc: torch.Tensor,
        pairs: Pairs,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Run the model.

        Parameters
        ----------
        x
            (N, 3) float64 positions.
        kinds
            (N,) int32 types.
        cell, pbc
            (3, 3) float64, (3,) bool.
        pairs
            Candidates in one direction: first, second (P,) and shifts (P, 3), int64.

        Returns
        -------
        energy, forces
            () and (N, 3) float64, kJ/mol and kJ/mol/nm.

        Raises
        ------
        ValueError
            If two atoms sit on the same point.
        """
        first, second, shifts = pairs
        vectors = x[second] - x[first] + shifts.to(x.dtype) @ cell
        squares = (vectors * vectors).sum(dim=1)
        require_apart(first, second, squares, self.closest, self.closest_text, self.length_factor)
        leaf = x.to(self.dtype).clone().requires_grad_(True)
        system = System(kinds, leaf, cell.to(self.dtype), pbc)
        leaves = [leaf]
        firsts: List[torch.Tensor] = []
        seconds: List[torch.Tensor] = []
        for request in self.model.requested_neighbor_lists():
            cutoff: float = request.cutoff
            near = torch.nonzero(squares < cutoff * cutoff).flatten()
            i, j, s, v = first[near], second[near], shifts[near], vectors[near]
            if request.full_list:
                i, j = torch.cat([i, j]), torch.cat([j, i])
                s, v = torch.cat([s, -s]), torch.cat([v, -v])
            values = v.to(self.dtype).detach().clone().requires_grad_(not self.connected)
            block = self.block_of(i, j, s, values)
            if self.connected:
                register_autograd_neighbors(system, block, False)
            else:
                leaves.append(values)
                firsts.append(i)
                seconds.append(j)
            system.add_neighbor_list(request, block)
        options = ModelEvaluationOptions(
            length_unit=self.length_unit, outputs=self.requests, selected_atoms=None
        )
        outputs = self.model([system], options, False)
        total = outputs[self.energy].block().values.sum()
        forces = torch.zeros_like(x)
        if self.force != "":
            direct = outputs[self.force].block()
            rows = direct.samples.column("atom").to(torch.int64)
            forces.index_add_(0, rows, direct.values.detach().reshape(-1, 3).to(x.dtype))
            # predictions need not add up to zero; what is left over would push the group
            forces = forces - forces.mean(dim=0)
        elif total.requires_grad:
            gradients = torch.autograd.grad([total], leaves, allow_unused=True)
            of_positions = gradients[0]
            if of_positions is not None:
                forces -= of_positions.to(x.dtype)
            for k in range(len(firsts)):
                of_vectors = gradients[k + 1]
                if of_vectors is not None:
                    push = of_vectors.to(x.dtype)
                    forces.index_add_(0, firsts[k], push)
                    forces.index_add_(0, seconds[k], push, alpha=-1.0)
        energy = total.detach().to(x.dtype) * self.energy_factor
        return energy, forces * (self.energy_factor * self.length_factor)

    def block_of(
        self, i: torch.Tensor, j: torch.Tensor, shifts: torch.Tensor, values: torch.Tensor
    ) -> TensorBlock:
        """A neighbour list as metatomic has it."""
        samples = torch.cat([i.unsqueeze(1), j.unsqueeze(1), shifts], dim=1)
        zero = torch.zeros(1, 1, dtype=torch.int32, device=i.device)
        return TensorBlock(
            values=values.reshape(-1, 3, 1),
            samples=Labels(
                ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"],
                samples.to(torch.int32),
                assume_unique=True,
            ),
            components=[Labels("xyz", torch.arange(3, device=i.device).reshape(3, 1))],
            properties=Labels("distance", zero),
        )
