"""``mpiexec -n N python domain_edges.py``: unusual systems, wishes and mistakes, on every rank.

Each function is called on all ranks; rank 0 prints its name when it is done.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ase
import numpy as np
import pytest
import torch
import zoo
from domain_systems import argon_model, crystal, start, step
from mpi4py import MPI

from alchemi_bridge import DomainForceProvider, Units, potentials
from alchemi_bridge import errors as e
from alchemi_bridge.cell import Cell
from alchemi_bridge.contract import Atoms, ForceBuffers, Quantity, Step
from alchemi_bridge.domain import ReplicatedForceProvider, provider, world
from alchemi_bridge.domain.evaluator import DomainEvaluator
from alchemi_bridge.pairs import HalfPairs, Search
from alchemi_bridge.provider import MetatomicForceProvider

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size

#: eV and eV/Å: sums in another order, in float64.
CLOSE = 1e-10


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    """All ranks raise this, with these words."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.type is kind
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    assert COMM.allreduce(1) == SIZE


def same(found: Any, right: Any, close: float = CLOSE) -> None:
    np.testing.assert_allclose(found, right, rtol=0, atol=close)


def both(model: Any, atoms: ase.Atoms, **options: Any) -> tuple[Any, Any]:
    """Providers of all ranks, and of this one alone, ready for a step."""
    found = (
        ReplicatedForceProvider(model, COMM, tuning=False, **options),
        MetatomicForceProvider(model, tuning=False, **options),
    )
    for one in found:
        start(one, atoms)
    return found


def agree(model: Any, atoms: ase.Atoms, **options: Any) -> None:
    together, alone = both(model, atoms, **options)
    found, right = step(together, atoms), step(alone, atoms)
    same(found.energy, right.energy)
    same(found.forces, right.forces)
    same(found.virial, right.virial)
    same(found.energies, right.energies)


def shares(n_atoms: int) -> np.ndarray:
    """Rows of this rank: at random, so that halos are large and domains are none."""
    return np.flatnonzero(np.random.default_rng(5).integers(0, SIZE, n_atoms) == RANK)


# --- unusual systems ----------------------------------------------------------------------------


def one_atom() -> None:
    """Its neighbours are its own images, at most."""
    agree(argon_model(), ase.Atoms("Ar", cell=[3.9, 4.0, 4.1], pbc=True))
    agree(argon_model(), ase.Atoms("Ar"))


def no_atoms() -> None:
    """Neither here nor elsewhere."""
    agree(potentials.stillinger_weber(), ase.Atoms(cell=[9.0, 9.0, 9.0], pbc=True))


def fewer_atoms_than_ranks() -> None:
    """Some ranks have nothing, and take part."""
    agree(argon_model(), ase.Atoms("Ar2", [[0, 0, 0], [0.1, 3.5, 0]], cell=[7, 8, 9], pbc=True))
    agree(potentials.message_passing(), ase.Atoms("CO", [[0, 0, 0], [0.2, 1.1, 0]]))


def atoms_on_one_point_of_a_layer() -> None:
    """All in a plane."""
    rng = np.random.default_rng(1)
    flat = ase.Atoms("Ar12", np.c_[np.arange(12) * 3.7, 3.6 * rng.random(12), np.zeros(12)])
    agree(argon_model(), flat)


def leaving_the_box() -> None:
    """Between searches, by many cells; and out of an open side."""
    atoms = crystal("Ar", (2, 2, 3))
    atoms.pbc = (True, True, False)
    together, alone = both(argon_model(), atoms)
    rng = np.random.default_rng(2)
    for number in range(6):
        found, right = step(together, atoms), step(alone, atoms)
        same(found.forces, right.forces)
        same(found.energy, right.energy)
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
        atoms.positions[number] += [3.0 * atoms.cell[0, 0], -2.0 * atoms.cell[1, 1], 0.0]
        atoms.positions[7 + number, 2] += 1e4 if number == 3 else 1.0


def only_one_rank_has_atoms() -> None:
    """The engine's division is the engine's business."""
    atoms = crystal("Si", (2, 2, 2))
    alone = MetatomicForceProvider(potentials.stillinger_weber(), tuning=False)
    start(alone, atoms)
    together = DomainForceProvider(potentials.stillinger_weber(), COMM, tuning=False)
    mine = atoms if RANK == SIZE - 1 else atoms[:0]
    start(together, mine)
    found, right = step(together, mine), step(alone, atoms)
    same(found.energy, right.energy)
    same(found.virial, right.virial)
    same(found.forces, right.forces if len(mine) else 0.0)


def any_division() -> None:
    """Atoms of a rank anywhere."""
    atoms = crystal("Si", (3, 2, 2))
    net = potentials.message_passing()
    atoms.numbers[:] = np.random.default_rng(4).choice(net.capabilities().atomic_types, len(atoms))
    alone, rows = MetatomicForceProvider(net, tuning=False), shares(len(atoms))
    start(alone, atoms)
    together = DomainForceProvider(net, COMM, tuning=False)
    start(together, atoms[rows])
    found, right = step(together, atoms[rows]), step(alone, atoms)
    same(found.energy, right.energy)
    same(found.virial, right.virial)
    same(found.forces, right.forces[rows])
    same(found.energies, right.energies[rows])


# --- what the contract offers -------------------------------------------------------------------


def units_subset_and_selection() -> None:
    """Of an engine in nm and kJ/mol, with float32 arrays, and atoms that are not the model's."""
    atoms = crystal("Si", (2, 2, 2))
    rng = np.random.default_rng(8)
    subset = np.sort(rng.permutation(len(atoms))[:50])
    selected = np.sort(rng.permutation(subset)[:20])
    results = []
    for one in (
        ReplicatedForceProvider(potentials.stillinger_weber(), COMM, units=Units("nm", "kJ/mol")),
        MetatomicForceProvider(potentials.stillinger_weber(), units=Units("nm", "kJ/mol")),
    ):
        one.set_atoms(Atoms(np.full(len(atoms), 14), subset=subset, selected=selected))
        one.set_pairs(Search(0.05), Cell.of(atoms.cell.array / 10.0, atoms.pbc))
        forces = np.full((len(atoms), 3), 2.5, dtype=np.float32)
        energy, energies = np.full(1, 7.0), np.zeros(len(atoms))
        x = (atoms.positions / 10.0).astype(np.float32)
        one.compute(
            Step(x, energies=True), ForceBuffers(forces, energy, energies=energies)
        ).synchronize()
        results.append((forces, energy, energies))
    (forces, energy, energies), right = results
    # float32 of hundreds of kJ/mol/nm
    same(forces, right[0], 1e-3)
    same(energy, right[1], 1e-8)
    same(energies, right[2], 1e-8)
    assert np.count_nonzero(energies) == 20
    outside = np.setdiff1d(np.arange(len(atoms)), subset)
    assert (forces[outside] == 2.5).all()


def inputs_of_atoms_and_systems() -> None:
    """Values travel with their atoms."""
    atoms = crystal("Si", (2, 2, 2))
    rng = np.random.default_rng(9)
    per_atom = {"mass": Quantity(rng.random(len(atoms)), "u"),
                "velocity": Quantity(rng.random((len(atoms), 3)), "A/fs")}  # fmt: skip
    of_system = {"charge": Quantity(1.5, "e"), "spin_multiplicity": Quantity(2.0, "")}
    for name, given in (("mass_velocity", per_atom), ("charge_and_spin", of_system)):
        found = []
        for one in both(zoo.extra_inputs(name), atoms):
            forces, energy = np.zeros((len(atoms), 3)), np.zeros(1)
            out = ForceBuffers(forces, energy)
            one.compute(Step(atoms.positions.copy(), inputs=given), out).synchronize()
            found.append((forces, energy))
        same(found[0][0], found[1][0])
        same(found[0][1], found[1][1])
        # values really came in
        bare = step(both(zoo.pair(), atoms)[1], atoms).energy
        assert abs(found[0][1][0] - bare) > 0.1


def uncertainty_is_said_once() -> None:
    """By the first rank, with the atoms' own numbers."""
    atoms = crystal("Si", (2, 2, 2))
    together, alone = both(zoo.uncertain(), atoms)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(together, atoms)
    said = [str(w.message) for w in caught if "uncertain" in str(w.message)]
    assert len(said) == (1 if RANK == 0 else 0), said
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(alone, atoms)
    assert RANK > 0 or said == [str(w.message) for w in caught if "uncertain" in str(w.message)]
    same(together.results.uncertainty.numpy(), alone.results.uncertainty.numpy())


def forces_of_the_model_s_own() -> None:
    """Not conservative, or by a gradient that the model takes itself."""
    atoms = crystal("Si", (2, 2, 2))
    agree(zoo.non_conservative(), atoms)
    together, alone = both(zoo.non_conservative(), atoms, non_conservative="forces")
    found, right = [np.zeros((len(atoms), 3)) for _ in range(2)]
    for one, forces in ((together, found), (alone, right)):
        out = ForceBuffers(forces, np.zeros(1))
        one.compute(Step(atoms.positions.copy()), out).synchronize()
    same(found, right)
    same(found.sum(axis=0), 0.0)  # as the serial provider makes it
    agree(zoo.internal_pair_gradient(), atoms)


def float32_model() -> None:
    """Its halo travels in the model's precision, its sums in float64."""
    atoms = crystal("Si", (2, 2, 2))
    together, alone = both(zoo.float32(), atoms)
    found, right = step(together, atoms), step(alone, atoms)
    close = 1e-5 * float(np.sqrt(np.mean(right.forces**2)))  # the project's measure for float32
    same(found.forces, right.forces, close)


# --- what is refused ----------------------------------------------------------------------------


def models_that_need_everything() -> None:
    with refused(e.ConfigurationError, "infinite", "one rank"):
        DomainForceProvider(zoo.infinite_range(), COMM)
    alone = DomainForceProvider(zoo.infinite_range(), MPI.COMM_SELF)
    start(alone, crystal("Si", (1, 1, 1)))


def halos_that_are_too_narrow() -> None:
    """With both numbers, in the model's unit."""
    net = potentials.message_passing()
    wanted = net.capabilities().interaction_range
    with refused(e.ConfigurationError, f"{wanted:g}", "2 angstrom"):
        DomainForceProvider(net, COMM, halo=0.2, units=Units("nm", "eV"))
    wide = DomainForceProvider(net, COMM, halo=wanted + 1.0)
    assert wide._evaluator.range == wanted + 1.0


def outputs_that_do_not_add_up() -> None:
    with refused(e.ConfigurationError, "extra_outputs"):
        DomainForceProvider(zoo.extra_outputs(), COMM, extra_outputs=["zoo::dipole"])
    with refused(e.ConfigurationError, "stress"):
        DomainForceProvider(zoo.non_conservative(), COMM, non_conservative=True)


def mistakes_of_one_rank() -> None:
    """All ranks have the error, and whose it is; the next step is right."""
    atoms, unlucky = crystal("Si", (2, 2, 2)), SIZE - 1
    rows = shares(len(atoms))
    mine, bad = atoms[rows], unlucky == RANK
    together = DomainForceProvider(potentials.stillinger_weber(), COMM, tuning=False)
    who = "" if bad else f"rank {unlucky}: "
    with refused(e.ProtocolError, "set_atoms"):
        together.set_pairs(Search(1.0), Cell.of(atoms.cell.array))
    with refused(e.SpeciesError, who):
        together.set_atoms(Atoms(np.full(len(rows), 92 if bad else 14)))
    together.set_atoms(Atoms(np.full(len(rows), 14)))
    cell = Cell.of(atoms.cell.array)
    with refused(e.PairListError, who, "Search"):
        pairs = HalfPairs(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3), int), 5.0)
        together.set_pairs(pairs if bad else Search(1.0), cell)
    together.set_pairs(Search(1.0), cell)
    forces, energy = np.zeros((len(rows), 3)), np.zeros(1)
    out = ForceBuffers(forces, energy)
    with refused(e.ShapeError, who):
        x = mine.positions[: len(rows) - 1] if bad and len(rows) else mine.positions
        together.compute(Step(x.copy()), out)
    with refused(e.NonFiniteError, who):
        x = mine.positions.copy()
        x[0] = np.nan if bad else x[0]
        together.compute(Step(x), out)
    if SIZE > 1:
        with refused(e.ProtocolError, "cell"):
            other = Cell.of(atoms.cell.array * (1.01 if bad else 1.0))
            together.compute(Step(mine.positions.copy(), other), out)
    # finite, but not in a buffer of float32
    small = np.full((len(rows), 3), 1.0, dtype=np.float32 if bad else np.float64)
    with (
        refused(e.NonFiniteResultError, who, "float32"),
        mock.patch.object(together._delivery, "_factors", _large(together._delivery._factors)),
    ):
        together.compute(Step(mine.positions.copy()), ForceBuffers(small, energy))
    assert (small == 1.0).all()
    assert not forces.any()
    assert not energy.any()
    alone = MetatomicForceProvider(potentials.stillinger_weber(), tuning=False)
    start(alone, atoms)
    together.compute(Step(mine.positions.copy()), out).synchronize()
    same(forces, step(alone, atoms).forces[rows])


def _large(factors: dict[str, float]) -> dict[str, float]:
    return {name: 1e100 * factor for name, factor in factors.items()}


def positions_that_differ() -> None:
    """Every rank of a script must have the same."""
    atoms = crystal("Si", (2, 2, 2))
    together, _ = both(potentials.stillinger_weber(), atoms)
    step(together, atoms)
    if SIZE > 1:
        other = atoms.copy()
        other.positions[3, 1] += 1e-9 * RANK
        with refused(e.ProtocolError, "positions", "the same"):
            step(together, other)
    step(together, atoms)


def anything_that_differs() -> None:
    """Types, order, selection, cell and what is wanted must be the same on all ranks, too."""
    if SIZE == 1:
        return
    model, atoms = zoo.pair(), crystal("Ar", (2, 2, 2))
    together, _ = both(model, atoms)
    other = atoms.copy()
    if RANK == 1:
        other.positions[[3, 5]] = other.positions[[5, 3]]  # the same sum
    with refused(e.ProtocolError, "positions"):
        step(together, other)
    other = atoms.copy()
    other.set_cell(atoms.cell.array * (1.0 + 1e-12 * RANK))
    with refused(e.ProtocolError, "cell"):
        step(together, other)
    step(together, atoms)
    other.numbers[2] = 14 if RANK == 1 else 18
    start(together, other)
    with refused(e.ProtocolError, "types"):
        step(together, atoms)
    together.set_atoms(Atoms(np.full(len(atoms), 18), selected=np.array([RANK])))
    with refused(e.ProtocolError, "selections"):
        step(together, atoms)
    for kind in (ReplicatedForceProvider, DomainForceProvider):
        provider = kind(model, COMM, tuning=False)
        provider.set_atoms(Atoms(np.full(len(atoms), 18)))
        provider.set_pairs(Search(0.5 + 0.1 * RANK), Cell.of(atoms.cell.array))
        with refused(e.ProtocolError, "skin"):
            step(provider, atoms)
        start(provider, atoms)
        out = ForceBuffers(np.zeros((len(atoms), 3)), np.zeros(1), energies=np.zeros(len(atoms)))
        with refused(e.ProtocolError, "precision"):
            kinds = np.float32 if RANK == 0 else np.float64
            provider.compute(Step(atoms.positions.astype(kinds)), out)
        for name in ("forces", "energies"):
            with refused(e.ProtocolError, "wanted"):
                provider.compute(Step(atoms.positions.copy(), **{name: RANK == 0}), out)


def warnings_that_are_errors() -> None:
    """All ranks have them, before anything is added."""
    atoms = crystal("Si", (2, 2, 2))
    together, _ = both(zoo.uncertain(), atoms)
    out = ForceBuffers(np.zeros((len(atoms), 3)), np.zeros(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((UserWarning, e.RankFailedError), match="uncertain"):
            together.compute(Step(atoms.positions.copy()), out)
    assert not np.asarray(out.forces).any()
    assert not np.asarray(out.energy).any()


def communicators_that_come_and_go() -> None:
    """MPI gives the handle of one that was freed to the next, of other ranks."""
    for number in range(6):
        color = (RANK + number) // 2 if number % 2 else RANK % 2
        part = COMM.Split(color)
        found = world(part)
        assert MPI.Comm.Compare(found, part) == MPI.CONGRUENT
        assert world(found) is found
        part.Free()


def communicators() -> None:
    """What is none is refused; those of fewer ranks work by themselves."""
    for wrong in ("world", 3, [0, 1]):
        with refused(e.ConfigurationError, "comm"):
            world(wrong)
    assert world(None) is None
    assert world(False) is None
    assert (world("auto") is None) == (SIZE == 1)
    assert world(COMM) is world(COMM)
    half = COMM.Split(RANK % 2)
    atoms = crystal("Ar", (2, 2, 2), seed=RANK % 2)
    together = ReplicatedForceProvider(argon_model(), half, tuning=False)
    alone = MetatomicForceProvider(argon_model(), tuning=False)
    for one in (together, alone):
        start(one, atoms)
    same(step(together, atoms).forces, step(alone, atoms).forces)


# --- devices ------------------------------------------------------------------------------------


def devices_are_chosen_and_logged() -> None:
    """By the placement, told what to do if ranks share GPUs; an error of one is everybody's."""
    asked = []

    def place(*, sharing: str) -> Any:
        asked.append(sharing)
        if sharing == "error" and RANK == SIZE - 1:
            raise e.ConfigurationError("ranks", expected="a GPU each", got="fewer", fix="use fewer")
        return SimpleNamespace(device=torch.device("cpu"))

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    provider.LOGGER.addHandler(handler)
    provider.LOGGER.setLevel(logging.INFO)
    with mock.patch.object(provider, "place", place):
        DomainForceProvider(argon_model(), COMM, device="cuda", sharing="allow")
        with refused(e.ConfigurationError, "a GPU each"):
            DomainForceProvider(argon_model(), COMM, device="cuda", sharing="error")
    provider.LOGGER.removeHandler(handler)
    assert asked == ["allow", "error"]
    expected = [f"rank {rank} of {SIZE} computes on cpu" for rank in range(SIZE)]
    assert lines == (expected if RANK == 0 and SIZE > 1 else []), lines


def memory_that_mpi_takes() -> None:
    """The direct way gives the same, where there is one: on a host it is the only one."""
    from alchemi_bridge.domain.aware import check_against_host

    assert check_against_host(COMM, torch.device("cpu"))
    atoms = crystal("Si", (2, 2, 2))
    original = DomainEvaluator.__init__

    def direct(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **{**options, "direct": True})

    with mock.patch.object(DomainEvaluator, "__init__", direct):
        agree(potentials.stillinger_weber(), atoms)


CHECKS: tuple[Callable[[], None], ...] = (
    one_atom, no_atoms, fewer_atoms_than_ranks, atoms_on_one_point_of_a_layer, leaving_the_box,
    only_one_rank_has_atoms, any_division, units_subset_and_selection, inputs_of_atoms_and_systems,
    uncertainty_is_said_once, forces_of_the_model_s_own, float32_model, models_that_need_everything,
    halos_that_are_too_narrow, outputs_that_do_not_add_up, mistakes_of_one_rank,
    positions_that_differ, anything_that_differs, warnings_that_are_errors,
    communicators_that_come_and_go, communicators, devices_are_chosen_and_logged,
    memory_that_mpi_takes,
)  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    for check in CHECKS:
        if not sys.argv[1:] or check.__name__ in sys.argv[1:]:
            check()
            if RANK == 0:
                print("done:", check.__name__, flush=True)
