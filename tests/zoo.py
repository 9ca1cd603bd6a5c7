"""Small metatomic models with one peculiarity each, for the tests of the bridge.

All are built on one pair potential. With a prefactor A and a cutoff rc, an atom's energy is

    e_i = 1/2 A sum_j s(r_ij),     s(r) = (1 - r^2 / rc^2)^3 for r < rc, else 0

summed over all requested neighbour lists; A = 1 eV, rc = 3 angstrom if not said otherwise.
``save(model, directory, name)`` writes a model to a file.

No ``from __future__ import annotations`` here: TorchScript reads the annotations, and
metatomic compares them with ``typing.List`` and the like.
"""
# ruff: noqa: UP006, UP035, UP045

import math
from typing import Dict, List, Optional, Tuple

import torch
from metatensor.torch import Labels, TensorMap
from metatomic.torch import AtomisticModel, ModelOutput, System
from zoo_parts import CUTOFF, TYPES, Outputs, Pairs, axis, make, save, switch, to_map

__all__ = ["CUTOFF", "TYPES", "save"]

CENTROID_K = 0.05  # eV/A^2
PRESSURE = 0.003  # eV/A^3
FIELD = (0.1, -0.2, 0.3)  # eV/A
COUPLING = 0.02  # factor of everything that is read from extra inputs
VARIANTS = {"": 1.0, "/pbe": 2.0, "/scan": 3.0}


# --- neighbour lists ----------------------------------------------------------------------------


def pair() -> AtomisticModel:
    """The plain pair potential: one full strict list, ``energy`` per atom."""
    return make(Pairs(), "pair")


SEVERAL = ((3.0, True, True), (4.5, False, True), (4.0, True, False))


def several_cutoffs() -> AtomisticModel:
    """Full strict at 3, half strict at 4.5, full and not strict at 4 angstrom."""
    return make(Pairs(SEVERAL), "several cutoffs", interaction_range=4.5)


def half_list() -> AtomisticModel:
    """The same energy as :func:`pair`, from a half list."""
    return make(Pairs(((CUTOFF, False, True),)), "half list")


def not_strict() -> AtomisticModel:
    """The same energy as :func:`pair`, from a list that may hold longer pairs."""
    return make(Pairs(((CUTOFF, True, False),)), "not strict")


class Jump(Pairs):
    def shape(self, vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
        return switch(vectors, cutoff) + 0.1


def jump_at_cutoff() -> AtomisticModel:
    """s(r) + 0.1 inside of the cutoff: the energy jumps by 0.1 eV for each pair."""
    return make(Jump(), "jump at cutoff")


# --- outputs ------------------------------------------------------------------------------------


def variants() -> AtomisticModel:
    """Default, ``/pbe`` and ``/scan`` with A = 1, 2, 3 for all four energy-like quantities.

    ``energy/...``, ``energy_uncertainty/...`` (A x 0.05 eV for each atom),
    ``non_conservative_force/...``, ``non_conservative_stress/...``.
    """
    kinds = {
        "energy_uncertainty": ("eV", "atom"),
        "non_conservative_force": ("eV/A", "atom"),
        "non_conservative_stress": ("eV/A^3", "system"),
    }
    prefactors = {"energy" + tail: scale for tail, scale in VARIANTS.items()}
    scales = {kind + tail: scale for kind in kinds for tail, scale in VARIANTS.items()}
    outputs = dict.fromkeys(prefactors, ("eV", "atom"))
    outputs.update({name: kinds[name.split("/")[0]] for name in scales})
    return make(Outputs(prefactors, scales), "variants", outputs)


def only_variants() -> AtomisticModel:
    """``energy/a`` (A = 1) and ``energy/b`` (A = 2), and no default."""
    prefactors = {"energy/a": 1.0, "energy/b": 2.0}
    return make(
        Pairs(prefactors=prefactors), "only variants", dict.fromkeys(prefactors, ("eV", "atom"))
    )


def non_conservative() -> AtomisticModel:
    """``non_conservative_force`` (atom) and ``non_conservative_stress`` (system), no gradients.

    f_i = 0.7 sum_j s(r_ij) r_ij + DRIFT, which does not add up to zero;
    stress = 0.01 sum_ij s(r_ij) r_ij r_ij^T, eV/A^3.
    """
    scales = {"non_conservative_force": 1.0, "non_conservative_stress": 1.0}
    outputs = {
        "energy": ("eV", "atom"),
        "non_conservative_force": ("eV/A", "atom"),
        "non_conservative_stress": ("eV/A^3", "system"),
    }
    return make(Outputs({"energy": 1.0}, scales), "non-conservative", outputs)


def ensemble() -> AtomisticModel:
    """``energy_ensemble`` (4 members, A = MEMBERS), ``energy_uncertainty`` (0.05 eV), per atom."""
    scales = {"energy_ensemble": 1.0, "energy_uncertainty": 1.0}
    outputs = dict.fromkeys(("energy", *scales), ("eV", "atom"))
    return make(Outputs({"energy": 1.0}, scales), "ensemble", outputs)


def uncertain(scale: float = 4.0) -> AtomisticModel:
    """``energy_uncertainty`` of 0.05 eV x ``scale`` for each atom: above usual thresholds."""
    outputs = dict.fromkeys(("energy", "energy_uncertainty"), ("eV", "atom"))
    return make(Outputs({"energy": 1.0}, {"energy_uncertainty": scale}), "uncertain", outputs)


def extra_outputs() -> AtomisticModel:
    """``zoo::coordination`` and ``zoo::dipole`` (vector), ``feature`` (2 numbers), all per atom.

    coordination_i = sum_j s; dipole_i = sum_j s(r_ij) r_ij;
    feature_i = (sum_j s, (sum_j s / 2)^2).
    """
    scales = {"zoo::coordination": 1.0, "zoo::dipole": 1.0, "feature": 1.0}
    outputs = {
        "energy": ("eV", "atom"),
        "zoo::coordination": ("", "atom"),
        "zoo::dipole": ("A", "atom"),
        "feature": ("", "atom"),
    }
    return make(Outputs({"energy": 1.0}, scales), "extra outputs", outputs)


def no_energy() -> AtomisticModel:
    """Nothing but ``feature``."""
    return make(Outputs({}, {"feature": 1.0}), "no energy", {"feature": ("", "atom")})


class PerSystem(Pairs):
    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        results: Dict[str, TensorMap] = {}
        if "energy" in outputs:
            if outputs["energy"].sample_kind == "atom":
                raise ValueError("zoo: no energies of atoms here")
            values = torch.cat([self.pair_sums(system) for system in systems]).reshape(-1, 1)
            results["energy"] = to_map(values, systems, selected_atoms, "system", [], "energy")
        return results


def per_system_only() -> AtomisticModel:
    """``energy`` for whole systems only."""
    return make(PerSystem(), "per system", {"energy": ("eV", "system")})


# --- extra inputs -------------------------------------------------------------------------------


class Inputs(Pairs):
    """Adds COUPLING times the sum of squares of every requested input to the energies.

    Values per atom count for their atom, values per system for each of its atoms.
    """

    inputs: Dict[str, ModelOutput]

    def __init__(self, inputs: Dict[str, Tuple[str, str]]):
        super().__init__()
        self.inputs = {
            name: ModelOutput(unit=unit, sample_kind=kind) for name, (unit, kind) in inputs.items()
        }
        self.coupling = COUPLING

    def requested_inputs(self) -> Dict[str, ModelOutput]:
        return self.inputs

    def extra_energy(self, system: System) -> torch.Tensor:
        n = len(system)
        total = torch.zeros(n, dtype=system.positions.dtype, device=system.device)
        for name in self.inputs.keys():  # noqa: SIM118 (TorchScript)
            values = system.get_data(name).block().values
            squares = (values * values).reshape(values.shape[0], -1).sum(dim=1)
            total = total + self.coupling * squares
        return total


INPUTS = {
    "charge": {"charge": ("e", "atom")},
    "mass_velocity": {"mass": ("u", "atom"), "velocity": ("A/fs", "atom")},
    "momentum": {"momentum": ("u*A/fs", "atom")},
    "charge_and_spin": {"charge": ("e", "system"), "spin_multiplicity": ("", "system")},
    "ase_array": {"ase::arrays::foo": ("", "atom")},
    "ase_info": {"ase::info::field": ("", "system")},
    "ase_tags": {"ase::tags": ("", "atom"), "ase::initial_magmoms": ("", "atom")},
}


def extra_inputs(which: str) -> AtomisticModel:
    """A model that requests the inputs ``INPUTS[which]`` (see there for units and sample kinds).

    Each atom's energy has 0.02 times the sum of the squares of its inputs on top.
    """
    return make(Inputs(INPUTS[which]), "inputs " + which)


def old_plural_names() -> AtomisticModel:
    """A model from before the names became singular.

    Exports ``energy`` and ``non_conservative_forces``; requests ``charges`` and ``momenta``, with
    the energy of :class:`Inputs`.
    """
    return make(
        OldNames({"charges": ("e", "atom"), "momenta": ("u*A/fs", "atom")}),
        "old names",
        {"energy": ("eV", "atom"), "non_conservative_forces": ("eV/A", "atom")},
    )


class OldNames(Inputs):
    def extra_output(
        self,
        name: str,
        output: ModelOutput,
        systems: List[System],
        selected_atoms: Optional[Labels],
    ) -> TensorMap:
        if name != "non_conservative_forces":
            raise ValueError("zoo: unknown output " + name)
        # 0.1 eV/A along x on every atom
        values = torch.cat([torch.zeros_like(s.positions) for s in systems]).unsqueeze(-1)
        values[:, 0] = 0.1
        xyz = axis("xyz", systems[0].device)
        return to_map(values, systems, selected_atoms, output.sample_kind, [xyz], name)


# --- what the energy reads ----------------------------------------------------------------------


class Centroid(Pairs):
    def __init__(self) -> None:
        super().__init__()
        self.k = CENTROID_K

    def extra_energy(self, system: System) -> torch.Tensor:
        arms = system.positions - system.positions.mean(dim=0, keepdim=True)
        return self.k * (arms * arms).sum(dim=1)


def reads_positions() -> AtomisticModel:
    """Adds 0.05 eV/A^2 |x_i - mean x|^2 to each atom, from the positions themselves."""
    return make(Centroid(), "reads positions", interaction_range=math.inf)


class Volume(Pairs):
    def __init__(self) -> None:
        super().__init__()
        self.pressure = PRESSURE

    def extra_energy(self, system: System) -> torch.Tensor:
        volume = torch.abs(torch.linalg.det(system.cell))
        return (self.pressure * volume / len(system)).expand(len(system))


def reads_cell() -> AtomisticModel:
    """Adds 0.003 eV/A^3 x volume, from the cell alone: the virial has p V on its diagonal."""
    return make(Volume(), "reads cell", interaction_range=math.inf)


class Field(Pairs):
    field: List[float]

    def __init__(self) -> None:
        super().__init__()
        self.field = list(FIELD)

    def extra_energy(self, system: System) -> torch.Tensor:
        x = system.positions
        return x @ torch.tensor(self.field, dtype=x.dtype, device=x.device)


def not_invariant() -> AtomisticModel:
    """Adds FIELD . x_i to each atom: neither translation nor rotation leaves the energy alone."""
    return make(Field(), "not invariant")


class Coulomb(Pairs):
    def extra_energy(self, system: System) -> torch.Tensor:
        x = system.positions
        arms = x.unsqueeze(0) - x.unsqueeze(1)
        return 0.5 / (1.0 + (arms * arms).sum(dim=2)).sqrt().sum(dim=1)


def infinite_range() -> AtomisticModel:
    """Adds 0.5 / sum_j sqrt(1 + r_ij^2) to each atom (all j, itself too, no images)."""
    return make(Coulomb(), "infinite range", interaction_range=math.inf)


class InnerGradient(Pairs):
    def __init__(self, of_pairs: bool):
        super().__init__()
        self.of_pairs = of_pairs

    def inner_force(self, system: System) -> torch.Tensor:
        options = self.options[0]
        block = system.get_neighbor_list(options)
        first = block.samples.column("first_atom").to(torch.int64)
        second = block.samples.column("second_atom").to(torch.int64)
        if self.of_pairs:
            vectors = block.values.squeeze(-1)
            if not vectors.requires_grad:
                vectors = vectors.detach().requires_grad_(True)
            leaf = vectors
        else:
            leaf = system.positions
            if not leaf.requires_grad:
                leaf = leaf.detach().requires_grad_(True)
            shifts = block.samples.values[:, 2:].to(leaf.dtype)
            vectors = leaf[second] - leaf[first] + shifts @ system.cell
        energy = 0.5 * self.shape(vectors, options.cutoff).sum()
        gradient = torch.autograd.grad([energy], [leaf], retain_graph=True)[0]
        if gradient is None:
            raise ValueError("zoo: the energy does not depend on the geometry")
        if self.of_pairs:
            zero = torch.zeros_like(system.positions)
            return zero.index_add(0, first, gradient).index_add(0, second, -gradient)
        return -gradient

    def extra_output(
        self,
        name: str,
        output: ModelOutput,
        systems: List[System],
        selected_atoms: Optional[Labels],
    ) -> TensorMap:
        if name != "zoo::inner_force":
            raise ValueError("zoo: unknown output " + name)
        values = torch.cat([self.inner_force(system) for system in systems]).unsqueeze(-1)
        xyz = axis("xyz", systems[0].device)
        return to_map(values, systems, selected_atoms, output.sample_kind, [xyz], "inner_force")


INNER = {"energy": ("eV", "atom"), "zoo::inner_force": ("eV/A", "atom")}


def internal_gradient() -> AtomisticModel:
    """``zoo::inner_force`` (atom): -dE/dx of the pair energy, by autograd within the model.

    Differentiates with respect to ``system.positions`` (or a copy, if they require no gradient),
    from which it makes the pair vectors anew. TorchScript can not switch gradients on, so they must
    not be switched off around the model.
    """
    return make(InnerGradient(False), "internal gradient", INNER)


def internal_pair_gradient() -> AtomisticModel:
    """As :func:`internal_gradient`, but with respect to the vectors in the neighbour list."""
    return make(InnerGradient(True), "internal gradient of pairs", INNER)


class Constant(torch.nn.Module):
    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels],
    ) -> Dict[str, TensorMap]:
        results: Dict[str, TensorMap] = {}
        if "energy" in outputs:
            types = torch.cat([system.types for system in systems])
            values = types.to(systems[0].positions.dtype).reshape(-1, 1)
            results["energy"] = to_map(
                values, systems, selected_atoms, outputs["energy"].sample_kind, [], "energy"
            )
        return results


def constant_energy() -> AtomisticModel:
    """1 eV x the atomic number of each atom; no pairs, and no gradient at all."""
    return make(Constant(), "constant", interaction_range=0.0)


# --- units, types, devices ----------------------------------------------------------------------


def float32() -> AtomisticModel:
    """:func:`pair` in single precision."""
    return make(Pairs(), "float32", dtype="float32")


def nm_units() -> AtomisticModel:
    """Lengths in nm, energies in kJ/mol: A = 50 kJ/mol, rc = 0.4 nm."""
    module = Pairs(((0.4, True, True),), {"energy": 50.0})
    outputs = {"energy": ("kJ/mol", "atom")}
    return make(module, "nm", outputs, interaction_range=0.4, length_unit="nm")


def cuda_only() -> AtomisticModel:
    """:func:`pair`, said to run on CUDA devices only."""
    return make(Pairs(), "cuda only", devices=("cuda",))


# --- misbehaviour -------------------------------------------------------------------------------


class Singular(Pairs):
    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold

    def shape(self, vectors: torch.Tensor, cutoff: float) -> torch.Tensor:
        r2 = (vectors * vectors).sum(dim=1)
        return switch(vectors, cutoff) * torch.where(r2 < self.threshold**2, math.nan, 1.0)


def nan_energy(threshold: float = 0.8) -> AtomisticModel:
    """:func:`pair`, but NaN for atoms with a neighbour closer than ``threshold`` (angstrom)."""
    return make(Singular(threshold), "NaN")


class Raises(Pairs):
    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def extra_energy(self, system: System) -> torch.Tensor:
        if len(system) > self.limit:
            raise ValueError("zoo: too many atoms")
        return torch.zeros(len(system), dtype=system.positions.dtype, device=system.device)


def raises(limit: int = 0) -> AtomisticModel:
    """Fails with "zoo: too many atoms" for systems of more than ``limit`` atoms."""
    return make(Raises(limit), "raises")


class Noisy(Pairs):
    def extra_energy(self, system: System) -> torch.Tensor:
        x = system.positions
        return 1e-3 * torch.rand(len(system), dtype=x.dtype, device=x.device)


def random() -> AtomisticModel:
    """Adds up to 1 meV of noise to each atom: never the same twice."""
    return make(Noisy(), "random")
