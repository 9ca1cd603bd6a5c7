# ruff: noqa: UP006, UP035, UP045  (TorchScript reads typing's classes)
"""The TorchScript modules that GROMACS calls; :mod:`alchemi_bridge.engines.nnpot.export` writes them.

What GROMACS hands over, and what it takes, is in the docstrings of the two classes. Both give energy
*and* forces. GROMACS would also take the gradient of an energy alone, but stops at an energy without
one (no pair within the cutoff), and adds up in single precision; here gradients of pair vectors are
added up in double precision whatever the model's is.
"""

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

from alchemi_bridge.engines.nnpot.search import complete_cell, find_pairs
from alchemi_bridge.engines.nnpot.shifts import whole_shifts
from alchemi_bridge.engines.nnpot.trial import trial_atoms

Pairs = Tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class SearchingModule(torch.nn.Module):
    """Module for the inputs that 2025 and later have: it searches pairs by itself.

    Parameters
    ----------
    model
        The metatomic model.
    types
        Atomic numbers that it knows.
    devices
        Types of the devices that it runs on.
    length_unit
        The model's.
    cutoff, skin
        Largest cutoff, and how far the kept list reaches beyond, in ``length_unit``. The list is
        searched anew when an atom may have used half of the skin up, or the box changed. An atom
        that GROMACS puts back into the box has not moved.
    length_factor
        nm in ``length_unit``.
    energy_factor
        The model's energy unit in kJ/mol.
    requests
        Outputs to ask the model for.
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
    requests: Dict[str, ModelOutput]

    def __init__(
        self,
        model: AtomisticModel,
        *,
        types: List[int],
        devices: List[str],
        length_unit: str,
        cutoff: float,
        skin: float,
        length_factor: float,
        energy_factor: float,
        requests: Dict[str, ModelOutput],
        energy: str,
        force: str,
        connected: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.model = model
        self.types = types
        self.devices = devices
        self.length_unit = length_unit
        self.cutoff = cutoff
        self.cutoff_text = f"{cutoff / length_factor:g}"
        self.skin = skin
        self.length_factor = length_factor
        self.energy_factor = energy_factor
        self.requests = requests
        self.energy = energy
        self.force = force
        self.connected = connected
        self.dtype = dtype
        #: Searches since the file was loaded.
        self.searches = 0
        # the kept list, and what it was searched for
        none = torch.zeros(0, dtype=torch.int64)
        self.register_buffer("kept_first", none)
        self.register_buffer("kept_second", none)
        self.register_buffer("kept_shifts", none.reshape(0, 3))
        self.register_buffer("kept_positions", torch.zeros(0, 3, dtype=torch.float64))
        self.register_buffer("kept_cell", torch.zeros(3, 3, dtype=torch.float64))
        self.register_buffer("kept_pbc", torch.zeros(3, dtype=torch.bool))

    def forward(
        self,
        positions: torch.Tensor,
        numbers: torch.Tensor,
        box: Optional[torch.Tensor] = None,
        pbc: Optional[torch.Tensor] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Energy and forces of the atoms of ``nnpot-input-group``, for GROMACS 2025 and later.

        Parameters
        ----------
        positions
            ``atom-positions``, (N, 3) float32, nm, of the group alone; whole molecules or wrapped
            atoms. A gradient that GROMACS asks for is not needed.
        numbers
            ``atom-numbers``, (N,) int32.
        box, pbc
            ``box``, (3, 3) float32, nm, rows are the vectors, and ``pbc``, (3,) bool: all
            directions, or x and y (``pbc = xy``). GROMACS refuses to hand over ``pbc`` without
            periodicity: then leave both out of the mdp file.

        Returns
        -------
        energy
            () float64, kJ/mol.
        forces
            (N, 3) float64, kJ/mol/nm.
        """
        self.check_inputs(positions, numbers, box, pbc)
        trial = trial_atoms(positions, box)
        kinds = self.known_types(numbers, trial)
        x = positions.detach().to(torch.float64) * self.length_factor
        cell, periodic = self.cell_of(x, box, pbc)
        if trial >= 0:
            return self.evaluate_trial(trial, x, kinds, cell, periodic)
        x = self.search(x, cell, periodic)
        pairs = (self.kept_first, self.kept_second, self.kept_shifts)
        return self.evaluate(x, kinds, cell, periodic, pairs, False)

    def check_inputs(
        self,
        positions: torch.Tensor,
        numbers: torch.Tensor,
        box: Optional[torch.Tensor],
        pbc: Optional[torch.Tensor],
    ) -> None:
        """Raise ValueError where the inputs are not those that the mdp file should name."""
        n_atoms = positions.shape[0]
        good = len(positions.shape) == 2 and positions.is_floating_point()
        good = good and positions.shape[-1] == 3
        if not (good and len(numbers.shape) == 1 and numbers.shape[0] == n_atoms):
            raise ValueError(
                "alchemi-bridge: nnpot-model-input1 and 2: expected atom-positions (N, 3) and "
                + f"atom-numbers (N,), got {positions.shape} and {numbers.shape}; name the inputs "
                + "as alchemi-bridge export printed them"
            )
        if (box is None) != (pbc is None):
            raise ValueError(
                "alchemi-bridge: box and pbc: expected both or neither, got one of them; name both "
                + "among nnpot-model-input1 to 9, or neither for a run without periodicity"
            )
        if box is not None and pbc is not None:
            good = box.shape == [3, 3] and box.is_floating_point()
            if not (good and pbc.shape == [3] and pbc.dtype == torch.bool):
                raise ValueError(
                    "alchemi-bridge: box and pbc: expected (3, 3) floats and (3,) bools, got "
                    + f"{box.shape} and {pbc.shape}; name the inputs as alchemi-bridge export "
                    + "printed them"
                )
            if not bool(torch.isfinite(box).all()):
                raise ValueError(
                    "alchemi-bridge: box: expected finite numbers, got NaN or infinity; the "
                    + "simulation has blown up"
                )
        if positions.device.type not in self.devices:
            raise ValueError(
                f"alchemi-bridge: device: expected one of {self.devices}, which the model supports, "
                + f"got {positions.device.type}; set GMX_NN_DEVICE"
            )
        if not bool(torch.isfinite(positions).all()):
            raise ValueError(
                "alchemi-bridge: atom-positions: expected finite numbers, got NaN or infinity; the "
                + "simulation has blown up, try a smaller time step or another start"
            )

    def known_types(self, numbers: torch.Tensor, trial: int) -> torch.Tensor:
        """(N,) int32 types, or ValueError for those that the model lacks."""
        known = torch.tensor(self.types, dtype=numbers.dtype, device=numbers.device)
        foreign = ~torch.isin(numbers, known)
        if not bool(foreign.any()):
            return numbers.to(torch.int32)
        if trial == 1 and int(numbers[0]) == 1:
            # of 2025, which always asks for hydrogen
            return known[:1].to(torch.int32)
        found: List[int] = torch.unique(numbers[foreign].to(torch.int64)).tolist()
        advice = "leave these atoms out of nnpot-input-group, or take a model that was made for them"
        if trial >= 0:
            advice = "set nnpot-link-type to an element that the model knows (this is grompp's trial)"
        elif min(found) < 1:
            advice = "give the at.num of their atom types in the force field"
        raise ValueError(
            f"alchemi-bridge: atom-numbers: expected atomic numbers among {self.types}, which the "
            + f"model knows, got {found}; {advice}"
        )

    def cell_of(
        self, x: torch.Tensor, box: Optional[torch.Tensor], pbc: Optional[torch.Tensor]
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Cell (3, 3) in the model's unit, rows that are not periodic zero, and periodicity (3,)."""
        cell = torch.zeros(3, 3, dtype=x.dtype, device=x.device)
        periodic = torch.zeros(3, dtype=torch.bool, device=x.device)
        if box is not None and pbc is not None:
            cell = box.detach().to(x.dtype) * self.length_factor
            periodic = pbc
            cell = torch.where(periodic.unsqueeze(1), cell, torch.zeros_like(cell))
            volume = float(torch.linalg.det(complete_cell(cell, periodic)).abs())
            if not volume > 0.0:
                raise ValueError(
                    "alchemi-bridge: box: expected three independent vectors, got one without "
                    + "volume; leave box and pbc out of the mdp file for a run without periodicity"
                )
        return cell, periodic

    def search(self, x: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor) -> torch.Tensor:
        """See to it that the kept list holds for these positions (N, 3).

        Returns them without the hops into the box and out of it since the search.
        """
        same = self.kept_positions.shape == x.shape and torch.equal(self.kept_cell, cell)
        if same and torch.equal(self.kept_pbc, pbc) and self.searches > 0:
            moved = x - self.kept_positions
            hops = torch.round(moved @ torch.linalg.inv(complete_cell(cell, pbc))) @ cell
            moved = moved - hops
            if 4.0 * float((moved * moved).sum(dim=1).max()) < self.skin * self.skin:
                return x - hops
        if self.cutoff > 0.0:
            pairs = find_pairs(x, cell, pbc, self.cutoff + self.skin)
            self.kept_first, self.kept_second, self.kept_shifts = pairs
        self.kept_positions = x
        self.kept_cell = cell
        self.kept_pbc = pbc
        self.searches += 1
        return x

    def evaluate_trial(
        self, trial: int, x: torch.Tensor, kinds: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Whether the model can be called, told by the first few atoms."""
        few = x[:trial]
        none = torch.zeros(0, dtype=torch.int64, device=x.device)
        pairs = (none, none, none.reshape(0, 1).expand(0, 3))
        if self.cutoff > 0.0:
            pairs = find_pairs(few, cell, pbc, self.cutoff)
        energy, found = self.evaluate(few, kinds[:trial], cell, pbc, pairs, True)
        forces = torch.zeros_like(x)
        forces[:trial] = found
        return energy, forces

    def evaluate(
        self,
        x: torch.Tensor,
        kinds: torch.Tensor,
        cell: torch.Tensor,
        pbc: torch.Tensor,
        pairs: Pairs,
        trial: bool,
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
        trial
            Whether results may be infinite or NaN.

        Returns
        -------
        energy, forces
            () and (N, 3) float64, kJ/mol and kJ/mol/nm.
        """
        first, second, shifts = pairs
        vectors = x[second] - x[first] + shifts.to(x.dtype) @ cell
        squares = (vectors * vectors).sum(dim=1)
        leaf = x.to(self.dtype).clone().requires_grad_(True)
        system = System(kinds, leaf, cell.to(self.dtype), pbc)
        leaves = [leaf]
        firsts: List[torch.Tensor] = []
        seconds: List[torch.Tensor] = []
        for request in self.model.requested_neighbor_lists():
            cutoff: float = request.cutoff
            # trial inputs have atoms in one place
            near = torch.nonzero((squares < cutoff * cutoff) & (squares > 0.0)).flatten()
            i, j, s, v = first[near], second[near], shifts[near], vectors[near]
            if request.full_list:
                i, j = torch.cat([i, j]), torch.cat([j, i])
                s, v = torch.cat([s, -s]), torch.cat([v, -v])
            values = v.to(self.dtype).detach().clone().requires_grad_(not self.connected)
            samples = torch.cat([i.unsqueeze(1), j.unsqueeze(1), s], dim=1).to(torch.int32)
            block = TensorBlock(
                values=values.reshape(-1, 3, 1),
                samples=Labels(
                    ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"],
                    samples,
                    assume_unique=True,
                ),
                components=[Labels("xyz", torch.arange(3, device=x.device).reshape(3, 1))],
                properties=Labels("distance", torch.zeros(1, 1, dtype=torch.int32, device=x.device)),
            )
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
            block = outputs[self.force].block()
            rows = block.samples.column("atom").to(torch.int64)
            forces = forces.index_add(0, rows, block.values.detach().reshape(-1, 3).to(x.dtype))
            # predictions need not add up to zero; what is left over would push the group
            forces = forces - forces.mean(dim=0)
        elif total.requires_grad:
            gradients = torch.autograd.grad([total], leaves, allow_unused=True)
            of_positions = gradients[0]
            if of_positions is not None:
                forces = forces - of_positions.to(x.dtype)
            for k in range(len(firsts)):
                of_vectors = gradients[k + 1]
                if of_vectors is not None:
                    push = of_vectors.to(x.dtype)
                    forces = forces.index_add(0, firsts[k], push)
                    forces = forces.index_add(0, seconds[k], push, alpha=-1.0)
        energy = total.detach().to(x.dtype) * self.energy_factor
        forces = forces * (self.energy_factor * self.length_factor)
        if not trial and not bool(torch.isfinite(energy) & torch.isfinite(forces).all()):
            raise ValueError(
                "alchemi-bridge: results of the model: expected finite numbers, got NaN or infinity; "
                + "look for atoms that are too close to each other"
            )
        return energy, forces


class PairsModule(SearchingModule):
    """Module for GROMACS 2026 and later, which also hands over its own pair list.

    Parameters are those of :class:`SearchingModule`.

    GROMACS' list holds the pairs of the group that were closer than ``nnpot-pair-cutoff`` at the last
    pair search; vectors are made and cut anew in every call. ``nnpot-pair-cutoff`` can not exceed
    ``rlist``, and ``grompp`` refuses an ``rlist`` of half of the box or more, so that the list has at
    most one image of a pair: with a larger cutoff, take the other module, which has no such limit.
    The first list is compared with an own search, so that a cutoff that is too short is an error.
    """

    def __init__(
        self,
        model: AtomisticModel,
        *,
        types: List[int],
        devices: List[str],
        length_unit: str,
        cutoff: float,
        skin: float,
        length_factor: float,
        energy_factor: float,
        requests: Dict[str, ModelOutput],
        energy: str,
        force: str,
        connected: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(
            model,
            types=types,
            devices=devices,
            length_unit=length_unit,
            cutoff=cutoff,
            skin=skin,
            length_factor=length_factor,
            energy_factor=energy_factor,
            requests=requests,
            energy=energy,
            force=force,
            connected=connected,
            dtype=dtype,
        )
        #: Lists that came, and those of them that could not be used.
        self.lists = 0
        self.refused = 0
        # the list that came last, and the whole numbers behind its shifts
        self.register_buffer("pairs_of_list", torch.zeros(0, 2, dtype=torch.int32))
        self.register_buffer("shifts_of_list", torch.zeros(0, 3))
        self.register_buffer("numbers_of_list", torch.zeros(0, 3, dtype=torch.int64))
        self.usable = False

    def forward(
        self,
        positions: torch.Tensor,
        numbers: torch.Tensor,
        atom_pairs: torch.Tensor,
        pair_shifts: torch.Tensor,
        box: Optional[torch.Tensor] = None,
        pbc: Optional[torch.Tensor] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Energy and forces of the atoms of ``nnpot-input-group``, for GROMACS 2026 and later.

        Parameters
        ----------
        positions, numbers, box, pbc
            As in :meth:`SearchingModule.forward`.
        atom_pairs
            ``atom-pairs``, (M, 2) int32, rows of ``positions``, each pair in one direction.
        pair_shifts
            ``pair-shifts``, (M, 3), nm, float32 or (GROMACS in double precision) float64, meant so
            that ``positions[first] - positions[second] + shift`` is the vector between them.

        Returns
        -------
        energy, forces
            As in :meth:`SearchingModule.forward`.
        """
        self.check_inputs(positions, numbers, box, pbc)
        self.check_pairs(positions.shape[0], atom_pairs, pair_shifts)
        trial = trial_atoms(positions, box)
        kinds = self.known_types(numbers, trial)
        x = positions.detach().to(torch.float64) * self.length_factor
        cell, periodic = self.cell_of(x, box, pbc)
        if trial >= 0:
            return self.evaluate_trial(trial, x, kinds, cell, periodic)
        if not self.is_last_list(atom_pairs, pair_shifts):
            self.take_list(x, cell, periodic, atom_pairs, pair_shifts, box)
        if self.usable:
            first, second = self.pairs_of_list[:, 0], self.pairs_of_list[:, 1]
            # d = x[first] - x[second] + n @ box is minus the vector from first to second
            pairs = (first.to(torch.int64), second.to(torch.int64), -self.numbers_of_list)
            return self.evaluate(x, kinds, cell, periodic, pairs, False)
        x = self.search(x, cell, periodic)
        pairs = (self.kept_first, self.kept_second, self.kept_shifts)
        return self.evaluate(x, kinds, cell, periodic, pairs, False)

    def check_pairs(self, n_atoms: int, pairs: torch.Tensor, shifts: torch.Tensor) -> None:
        """Raise ValueError where the pair list is none."""
        good = len(pairs.shape) == 2 and pairs.shape[-1] == 2 and not pairs.is_floating_point()
        good = good and shifts.is_floating_point()
        if not (good and shifts.shape == [pairs.shape[0], 3]):
            raise ValueError(
                "alchemi-bridge: nnpot-model-input3 and 4: expected atom-pairs (M, 2) and "
                + f"pair-shifts (M, 3), got {pairs.shape} and {shifts.shape}; name the inputs as "
                + "alchemi-bridge export printed them"
            )
        if len(pairs) > 0 and (int(pairs.min()) < 0 or int(pairs.max()) >= n_atoms):
            raise ValueError(
                f"alchemi-bridge: atom-pairs: expected rows of {n_atoms} atoms, got {int(pairs.min())} "
                + f"to {int(pairs.max())}; this is an error of GROMACS"
            )

    def is_last_list(self, pairs: torch.Tensor, shifts: torch.Tensor) -> bool:
        """Whether this list came in the last call, too."""
        same = self.lists > 0 and torch.equal(self.pairs_of_list, pairs)
        return same and self.shifts_of_list.dtype == shifts.dtype and torch.equal(
            self.shifts_of_list, shifts
        )

    def take_list(
        self,
        x: torch.Tensor,
        cell: torch.Tensor,
        pbc: torch.Tensor,
        pairs: torch.Tensor,
        shifts: torch.Tensor,
        box: Optional[torch.Tensor],
    ) -> None:
        """Solve for the whole numbers of a new list, and compare the first one with a search."""
        whole = torch.zeros_like(cell)
        if box is not None:
            whole = box.detach().to(x.dtype)
        self.numbers_of_list, self.usable = whole_shifts(shifts.to(x.dtype), whole, pbc)
        # a copy: the memory is GROMACS', and it writes its next list there
        self.pairs_of_list = pairs.clone()
        self.shifts_of_list = shifts.clone()
        self.lists += 1
        self.refused += 0 if self.usable else 1
        if self.lists == 1 and self.usable and self.cutoff > 0.0:
            there = self.count_within(
                x, cell, pairs[:, 0].to(torch.int64), pairs[:, 1].to(torch.int64), -self.numbers_of_list
            )
            first, second, number = find_pairs(x, cell, pbc, self.cutoff)
            expected = self.count_within(x, cell, first, second, number)
            if there != expected:
                raise ValueError(
                    f"alchemi-bridge: atom-pairs: expected the {expected} pairs of the group within "
                    + f"{self.cutoff_text} nm, got {there}; set nnpot-pair-cutoff "
                    + "above that, with a buffer for the way of the atoms between two pair searches, "
                    + "and for link atoms"
                )

    def count_within(
        self,
        x: torch.Tensor,
        cell: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        shifts: torch.Tensor,
    ) -> int:
        """Number of pairs within the cutoff."""
        vectors = x[second] - x[first] + shifts.to(x.dtype) @ cell
        squares = (vectors * vectors).sum(dim=1)
        return int(((squares < self.cutoff * self.cutoff) & (squares > 0.0)).sum())
