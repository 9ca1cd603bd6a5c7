"""Bad input to the provider gives a typed error: what was expected, what came, what to do.

After each error the provider goes on working, and nothing of a failed step is left in the engine's
buffers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from bad_files import refused
from feature_parts import Buffers, cell_of, crystal, prepare, run, step, zoo_file

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    FullPairs,
    HalfPairs,
    MetatomicForceProvider,
    Search,
    Step,
)
from alchemi_bridge import errors as e
from alchemi_bridge.batch import Structure, evaluate_structures
from alchemi_bridge.contract import Quantity
from alchemi_bridge.errors import BridgeError
from alchemi_bridge.model import Wanted
from alchemi_bridge.pairs.search import MAX_COORDINATE

# The same model on the same atoms: nothing but the order of sums may differ.
SAME = 1e-12

ModelFile = Callable[..., Path]


@pytest.fixture
def provider() -> MetatomicForceProvider:
    return MetatomicForceProvider(zoo_file("pair"))


@pytest.fixture
def ready(provider: MetatomicForceProvider) -> Iterator[MetatomicForceProvider]:
    """A provider with atoms and pairs, which must still work after the test."""
    atoms = crystal()
    before = run(provider, atoms)
    yield provider
    prepare(provider, atoms)
    after = step(provider, atoms)
    for name in ("energy", "forces", "virial", "energies"):
        np.testing.assert_allclose(after.numpy(name), before.numpy(name), rtol=SAME, atol=SAME)


# --- atoms --------------------------------------------------------------------------------------


def test_unknown_species(ready: MetatomicForceProvider) -> None:
    for number in (54, 0, -3, 119, 2**31 - 1, 2**32 + 18):
        with refused(e.SpeciesError, re.escape(f"unknown types [{number}]"), "18"):
            ready.set_atoms(Atoms(types=np.array([18, number])))
    # outside of what the model sees, every type is welcome
    ready.set_atoms(Atoms(types=np.array([18, 54, 18]), subset=np.array([0, 2])))


@pytest.mark.parametrize(
    ("types", "kind", "pattern"),
    [
        (np.array([18.0, 18.0]), e.DtypeError, "float64"),
        (np.array(["Ar"]), e.DtypeError, "U2"),
        (np.array([18], dtype=object), e.DtypeError, "object"),
        (np.array([18], dtype=np.int16), e.DtypeError, "int16"),
        (np.array([True]), e.DtypeError, "bool"),
        ([18, 18], e.DtypeError, "list"),
        (None, e.DtypeError, "NoneType"),
        (np.array([[18, 18]]), e.ShapeError, r"\(1, 2\)"),
        (np.array(18), e.ShapeError, r"\(\)"),
    ],
)
def test_types(
    ready: MetatomicForceProvider, types: Any, kind: type[BridgeError], pattern: str
) -> None:
    with refused(kind, "types", pattern):
        ready.set_atoms(Atoms(types=types))


@pytest.mark.parametrize("name", ["subset", "selected"])
@pytest.mark.parametrize(
    ("index", "kind"),
    [
        (np.array([0, 4]), e.ShapeError),
        (np.array([-1]), e.ShapeError),
        (np.array([1, 1]), e.ShapeError),
        (np.array([[0, 1]]), e.ShapeError),
        (np.array([True, False, True, True]), e.ShapeError),
        (np.array([0.0, 1.0]), e.ShapeError),
        ([0, 1], e.DtypeError),
        ("all", e.DtypeError),
    ],
)
def test_groups(
    ready: MetatomicForceProvider, name: str, index: Any, kind: type[BridgeError]
) -> None:
    with refused(kind, name):
        ready.set_atoms(Atoms(types=np.full(4, 18), **{name: index}))


def test_selected_outside_of_the_subset(ready: MetatomicForceProvider) -> None:
    with refused(e.ConfigurationError, "atoms of the subset"):
        ready.set_atoms(
            Atoms(types=np.full(4, 18), subset=np.array([0, 1]), selected=np.array([1, 2]))
        )


# --- positions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_positions_that_are_no_numbers(
    ready: MetatomicForceProvider, value: float, dtype: type
) -> None:
    atoms = crystal()
    prepare(ready, atoms)
    positions = atoms.positions.astype(dtype)
    positions[[1, 3], [0, 2]] = value
    buffers = Buffers(4, start=7.0)
    for _ in range(2):
        with refused(e.NonFiniteError, r"2 atoms \(1, 3\)"):
            ready.compute(Step(positions=positions), buffers.all)
    step(ready, atoms)  # the search of a good step
    with refused(e.NonFiniteError, r"2 atoms \(1, 3\)"):
        ready.compute(Step(positions=positions), buffers.all)
    assert buffers.untouched()


def test_bad_atoms_are_named_in_the_engines_indices(ready: MetatomicForceProvider) -> None:
    atoms = crystal()
    prepare(ready, atoms, subset=np.array([3, 1]))
    positions = atoms.positions.copy()
    positions[0] = np.nan  # not an atom of the model: nobody reads it
    step(ready, ase.Atoms(atoms, positions=positions), Buffers(4))
    positions[3] = np.nan
    with refused(e.NonFiniteError, r"1 atoms \(3\)"):
        ready.compute(Step(positions=positions), Buffers(4).all)
    positions = atoms.positions.copy()
    positions[1] = positions[3] + 1e-5
    with refused(e.OverlapError, "atoms (1 and 3|3 and 1):"):
        ready.compute(Step(positions=positions), Buffers(4).all)


def test_overlapping_atoms(ready: MetatomicForceProvider) -> None:
    atoms = crystal()
    prepare(ready, atoms)
    atoms.positions[2] = atoms.positions[0]
    buffers = Buffers(4, start=7.0)
    with refused(e.OverlapError, "atoms (0 and 2|2 and 0):", "0.001 angstrom"):
        step(ready, atoms, buffers)
    # wrapped by the engine since: the frame is that of the search
    atoms.positions[2] = atoms.positions[0] + atoms.cell.array[1]
    with refused(e.OverlapError, "atoms (0 and 2|2 and 0):", r"cell shift \(0, 0, 0\)"):
        step(ready, atoms, buffers)
    # the same point, one cell away
    prepare(ready, atoms)
    with refused(e.OverlapError, "atoms (0 and 2|2 and 0):", r"cell shift \(0, -?1, 0\)"):
        step(ready, atoms, buffers)
    assert buffers.untouched()
    # in a list that the engine made
    pairs = HalfPairs(np.array([0]), np.array([2]), None, 3.0)
    molecule_like = ase.Atoms("Ar4", positions=atoms.positions)
    molecule_like.positions[2] = molecule_like.positions[0]
    prepare(ready, molecule_like, pairs)
    with refused(e.OverlapError, "atoms (0 and 2|2 and 0):"):
        step(ready, molecule_like, buffers)
    assert buffers.untouched()


@pytest.mark.parametrize(
    ("positions", "kind", "pattern"),
    [
        (np.zeros((3, 3)), e.ShapeError, r"\(4, 3\).*\(3, 3\)"),
        (np.zeros((4, 4)), e.ShapeError, r"\(4, 3\).*\(4, 4\)"),
        (np.zeros(12), e.ShapeError, r"\(12,\)"),
        (np.zeros((4, 3), dtype=np.float16), e.DtypeError, "float16"),
        (np.zeros((4, 3), dtype=np.int64), e.DtypeError, "int64"),
        (np.zeros((4, 3), dtype=complex), e.DtypeError, "complex128"),
        (np.zeros((4, 3), dtype=object), e.DtypeError, "object"),
        (np.zeros((4, 3), dtype=">f8"), e.DtypeError, ">f8"),
        (torch.zeros((4, 3), dtype=torch.bfloat16), e.DtypeError, "bfloat16"),
        (torch.zeros((4, 3), device="meta"), e.DeviceMismatchError, "cpu.*meta"),
        (torch.zeros((4, 3)).to_sparse(), e.BufferAccessError, "dense"),
        (np.zeros((4, 6))[:, ::-2], e.BufferAccessError, "strides"),
        ([[0.0, 0.0, 0.0]] * 4, e.DtypeError, "list"),
        (None, e.DtypeError, "NoneType"),
    ],
)
def test_positions(
    ready: MetatomicForceProvider, positions: Any, kind: type[BridgeError], pattern: str
) -> None:
    buffers = Buffers(4, start=7.0)
    with refused(kind, "positions", pattern):
        ready.compute(Step(positions=positions), buffers.all)
    assert buffers.untouched()


@pytest.mark.parametrize("large", [2 * MAX_COORDINATE, 1e300, 1.7e308])
def test_lost_atoms(ready: MetatomicForceProvider, large: float) -> None:
    atoms = crystal()
    prepare(ready, atoms)
    atoms.positions[1, 0] = large
    with refused(e.InputError, "positions", "lost atoms"):
        step(ready, atoms)
    # the sum of these is no number, but each of them is: lost, not NaN
    atoms.positions[:2, 0] = 1.7e308
    with refused(e.InputError, "positions", "lost atoms", r"1\.7e\+308"):
        step(ready, atoms)
    # so they are in a second search
    atoms = crystal()
    step(ready, atoms)
    atoms.positions[:2, 0] = 1.7e308
    with refused(e.InputError, "positions", "lost atoms", r"1\.7e\+308"):
        step(ready, atoms)


# --- cells --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "pbc", "kind", "pattern"),
    [
        ([[4, 0, 0], [8, 0, 0], [0, 0, 4]], True, e.CellError, "plane"),
        ([[4, 0, 0], [4, 1e-7, 0], [0, 0, 4]], True, e.CellError, "plane"),
        ([[4, 0, 0], [0, 4, 0], [0, 0, 0]], True, e.CellError, "cell vector c.*zero vector"),
        (np.zeros((3, 3)), (False, True, False), e.CellError, "cell vector b"),
        ([4, 4, 1e-200], True, e.CellError, "cell vector c"),
        ([4, 4, 1e200], True, e.CellError, "at most"),
        ([4, 4, np.nan], True, e.NonFiniteError, "nan"),
        ([4, np.inf, 4], True, e.NonFiniteError, "inf"),
        ([4, 4], True, e.ShapeError, r"\(2,\)"),
        (np.eye(4), True, e.ShapeError, r"\(4, 4\)"),
        ("cubic", True, e.ShapeError, "cubic"),
        ([[1, 2, 3], [4, 5]], True, e.ShapeError, "list"),
        (np.eye(3) * 1j, True, e.DtypeError, "complex128"),
        ([10**400] * 3, True, e.ShapeError, "too large"),
        (None, True, e.ShapeError, r"\(\)"),
        ([4, 4, 4], (True, True), e.ShapeError, "one flag or three"),
        ([4, 4, 4], "xyz", e.ShapeError, "xyz"),
        ([4, 4, 4], [0, 1, 2], e.ShapeError, "2"),
        ([4, 4, 4], [[1], [2, 3]], e.ShapeError, "one flag or three"),
        ([4, 4, 4], None, e.ShapeError, "None"),
    ],
)
def test_cell(vectors: Any, pbc: Any, kind: type[BridgeError], pattern: str) -> None:
    with refused(kind, pattern):
        Cell.of(vectors, pbc)


def test_cell_of_another_kind(ready: MetatomicForceProvider) -> None:
    with refused(e.InputError, "Cell.of"):
        ready.set_pairs(Search(0.5), np.eye(3))  # type: ignore[arg-type]
    with refused(e.InputError, "Cell.of"):
        Step(positions=np.zeros((4, 3)), cell=np.eye(3))  # type: ignore[arg-type]


def test_periodic_directions_that_change(ready: MetatomicForceProvider) -> None:
    atoms = crystal()
    prepare(ready, atoms)
    atoms.pbc = (True, True, False)
    with refused(e.CellError, "periodic directions", "set_pairs"):
        step(ready, atoms)


def test_cell_too_small_for_the_cutoff(ready: MetatomicForceProvider) -> None:
    atoms = ase.Atoms("Ar", cell=[0.05] * 3, pbc=True)
    prepare(ready, atoms)
    with refused(e.CellError, "100000 for each atom"):
        step(ready, atoms)
    with refused(e.InputError, "reach"):
        prepare(ready, atoms, Search(1e30))
        step(ready, atoms)


# --- the order of calls, and buffers ------------------------------------------------------------


def test_calls_out_of_order(provider: MetatomicForceProvider) -> None:
    atoms = crystal()
    a_step, buffers = Step(positions=atoms.positions), Buffers(4, start=7.0)
    with refused(e.ProtocolError, "set_atoms to be called before"):
        provider.compute(a_step, buffers.all)
    with refused(e.ProtocolError, "set_atoms to be called before"):
        provider.set_pairs(Search(0.5), cell_of(atoms))
    with refused(e.ProtocolError, "call compute first"):
        _ = provider.results
    provider.set_atoms(Atoms(types=atoms.numbers))
    with refused(e.ProtocolError, "set_pairs to be called before"):
        provider.compute(a_step, buffers.all)
    # a list that was refused is no list
    with refused(e.PairListError, "range|indices"):
        provider.set_pairs(HalfPairs(np.array([0]), np.array([9]), None, 3.0), cell_of(atoms))
    with refused(e.ProtocolError, "set_pairs to be called before"):
        provider.compute(a_step, buffers.all)
    assert buffers.untouched()
    provider.set_pairs(Search(0.5), cell_of(atoms))
    provider.compute(a_step, buffers.all)
    # new atoms make the list invalid
    provider.set_atoms(Atoms(types=atoms.numbers))
    with refused(e.ProtocolError, "set_pairs to be called before"):
        provider.compute(a_step, buffers.all)


def test_results_of_a_failed_step(ready: MetatomicForceProvider) -> None:
    assert ready.results.energy is not None
    with refused(e.ShapeError):
        ready.compute(Step(positions=np.zeros((9, 3))), Buffers(4).all)
    with refused(e.ProtocolError, "a finished step"):
        _ = ready.results


@pytest.mark.parametrize("name", ["energy", "forces", "virial", "energies"])
def test_buffers(ready: MetatomicForceProvider, name: str) -> None:
    atoms = crystal()
    good = Buffers(4, start=7.0).tensors
    shape = tuple(good[name].shape)
    everything = {"virial": True, "energies": True}

    def attempt(memory: Any) -> None:
        ready.compute(
            Step(positions=atoms.positions, **everything), ForceBuffers(**{**good, name: memory})
        )

    with refused(e.ProtocolError, f"buffer '{name}'", f"ForceBuffers\\({name}=...\\)"):
        attempt(None)
    with refused(e.ShapeError, f"buffer '{name}'"):
        attempt(np.zeros((*shape, 2)))
    with refused(e.DtypeError, f"buffer '{name}'", "int64"):
        attempt(np.zeros(shape, dtype=np.int64))
    with refused(e.DtypeError, f"buffer '{name}'", "float16"):
        attempt(torch.zeros(shape, dtype=torch.float16))
    with refused(e.DtypeError, f"buffer '{name}'", "list"):
        attempt(np.zeros(shape).tolist())
    with refused(e.DeviceMismatchError, f"buffer '{name}'", "meta"):
        attempt(torch.zeros(shape, device="meta"))
    read_only = np.zeros(shape)
    read_only.flags.writeable = False
    with refused(e.BufferAccessError, f"buffer '{name}'", "read-only"):
        attempt(read_only)
    if name != "energy":
        with refused(e.BufferAccessError, f"buffer '{name}'", "memory of their own"):
            attempt(torch.zeros(1, dtype=torch.float64).expand(shape))
    for memory in good.values():
        assert bool((memory == 7.0).all())
    # what is not wanted needs no memory
    ready.compute(
        Step(positions=atoms.positions, **{**everything, name: False}),
        ForceBuffers(**{n: t for n, t in good.items() if n != name}),
    )


def test_overlapping_rows_of_a_buffer(ready: MetatomicForceProvider) -> None:
    rows = torch.zeros(16, dtype=torch.float64).as_strided((4, 3), (2, 1))
    with refused(e.BufferAccessError, r"strides \(2, 1\)"):
        ready.compute(
            Step(positions=crystal().positions), ForceBuffers(energy=np.zeros(1), forces=rows)
        )


# --- pair lists ---------------------------------------------------------------------------------


def test_list_too_short(ready: MetatomicForceProvider) -> None:
    with refused(e.PairListError, "reach", "3 angstrom", "2.9"):
        ready.set_pairs(
            HalfPairs(np.zeros(0, np.int32), np.zeros(0, np.int32), None, 2.9), Cell.open()
        )


def test_stale_list(ready: MetatomicForceProvider) -> None:
    atoms = ase.Atoms("Ar3", positions=[[0, 0, 0], [2, 0, 0], [9, 0, 0]])
    pairs = HalfPairs(np.array([0]), np.array([1]), None, 4.0)
    prepare(ready, atoms, pairs)
    step(ready, atoms)
    buffers = Buffers(3, start=7.0)
    atoms.positions[2, 0] -= 3.0
    with refused(e.StalePairsError, "at most 0.5 angstrom", "1.5", "set_pairs"):
        step(ready, atoms, buffers)
    atoms.positions[2, 0] = 1e308
    with refused(e.StalePairsError, "set_pairs"):
        step(ready, atoms, buffers)
    assert buffers.untouched()


@pytest.mark.parametrize("kind", [HalfPairs, FullPairs])
def test_pairs(ready: MetatomicForceProvider, kind: type) -> None:
    atoms = crystal()
    one, two, shift = np.array([0]), np.array([1]), np.zeros((1, 3), np.int32)

    def attempt(first: Any, second: Any, shifts: Any) -> None:
        ready.set_pairs(kind(first, second, shifts, 3.0), cell_of(atoms))

    for index in (-1, 4, 2**31 - 1):
        with refused(e.PairListError, "indices from 0 to 3", str(index)):
            attempt(one, np.array([index]), shift)
    with refused(e.PairListError, "paired with itself"):
        attempt(one, one, shift)
    with refused(e.PairListError, "cell shifts"):
        attempt(one, two, np.full((1, 3), 2**31 - 1, dtype=np.int32))
    with refused(e.ShapeError, "second atoms"):
        attempt(one, np.array([1, 2]), shift)
    with refused(e.ShapeError, "cell shifts"):
        attempt(one, two, np.zeros((1, 2), np.int32))
    with refused(e.DtypeError, "float64"):
        attempt(one, two, np.zeros((1, 3)))
    with refused(e.DtypeError, "first atoms"):
        attempt([0], two, shift)
    with refused(e.DeviceMismatchError, "meta"):
        attempt(torch.zeros(1, dtype=torch.int64, device="meta"), two, shift)
    # the list before is still in force
    step(ready, atoms)
    for pairs in (None, (one, two, shift), "search", Search):
        with refused(e.PairListError, "HalfPairs, FullPairs, .*ClusterPairs or Search"):
            ready.set_pairs(pairs, cell_of(atoms))  # type: ignore[arg-type]


def test_full_list_without_its_reverse(ready: MetatomicForceProvider) -> None:
    with refused(e.PairListError, "full pair list", "HalfPairs"):
        ready.set_pairs(FullPairs(np.array([0]), np.array([1]), None, 3.0), Cell.open())


# --- extra inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "kind", "pattern"),
    [
        (None, e.MissingInputError, "'charge'.*per atom.*in e"),
        (Quantity(np.zeros(3), "e"), e.ShapeError, r"\(4,\) or \(4, 3\).*\(3,\)"),
        (Quantity(np.zeros((4, 2)), "e"), e.ShapeError, r"\(4, 2\)"),
        (Quantity(1.0, "e"), e.ShapeError, r"\(\)"),
        (Quantity(np.array([0, np.nan, 0, 0]), "e"), e.NonFiniteError, "'charge'"),
        (Quantity(np.zeros(4, complex), "e"), e.DtypeError, "complex128"),
        (Quantity([0.0] * 4, "e"), e.DtypeError, "list"),
        (Quantity(np.zeros(4), "eV"), e.UnitError, "'eV' to 'e'"),
        (Quantity(np.zeros(4), "electrons"), e.UnitError, "electrons"),
        (Quantity(np.zeros(4), 5), e.UnitError, "5"),  # type: ignore[arg-type]
    ],
)
def test_inputs(quantity: Quantity | None, kind: type[BridgeError], pattern: str) -> None:
    provider = MetatomicForceProvider(zoo_file("extra_inputs", "charge"))
    atoms, buffers = crystal(), Buffers(4, start=7.0)
    given = {} if quantity is None else {"charge": quantity}
    prepare(provider, atoms, inputs=given)
    with refused(kind, pattern):
        step(provider, atoms, buffers)
    assert buffers.untouched()
    step(provider, atoms, inputs={"charge": Quantity(np.zeros(4), "e")})


def test_inputs_of_another_kind(ready: MetatomicForceProvider) -> None:
    for inputs in (None, [1.0], {"charge": np.zeros(4)}):
        with refused(e.InputError, "Quantity"):
            Atoms(types=np.array([18]), inputs=inputs)  # type: ignore[arg-type]
        with refused(e.InputError, "Quantity"):
            Step(positions=np.zeros((4, 3)), inputs=inputs)  # type: ignore[arg-type]


def test_system_input_beyond_floats() -> None:
    provider = MetatomicForceProvider(zoo_file("extra_inputs", "charge_and_spin"))
    atoms = crystal()
    prepare(provider, atoms)
    spin = {"spin_multiplicity": Quantity(1)}
    for value in (10**400, -(10**400), float("inf")):
        with refused(e.NonFiniteError, "'charge'"):
            step(provider, atoms, inputs={**spin, "charge": Quantity(value, "e")})
    step(provider, atoms, inputs={**spin, "charge": Quantity(1, "e")})


# --- several structures -------------------------------------------------------------------------


def test_batch(ready: MetatomicForceProvider) -> None:
    atoms = crystal()

    def structure(**changes: Any) -> Structure:
        good = {
            "types": np.asarray(atoms.numbers),
            "positions": atoms.positions,
            "cell": cell_of(atoms),
        }
        return Structure(**{**good, **changes})

    def attempt(**changes: Any) -> None:
        evaluate_structures(ready, [structure(), structure(**changes)], Wanted())

    positions = atoms.positions.copy()
    positions[2] = np.nan
    with refused(e.NonFiniteError, r"1 atoms \(2\)"):
        attempt(positions=positions)
    with refused(e.SpeciesError, str(2**32 + 18)):
        attempt(types=np.array([18, 18, 18, 2**32 + 18]))
    with refused(e.DtypeError, "types", "float64"):
        attempt(types=np.full(4, 18.7))
    with refused(e.ShapeError, "positions of system 1"):
        attempt(positions=np.zeros((3, 3)))
    with refused(e.ConfigurationError, "system 1", "at least one atom"):
        attempt(types=np.zeros(0, np.int64), positions=np.zeros((0, 3)))
    with refused(e.InputError, "Cell.of"):
        attempt(cell=np.eye(3))
    with refused(e.InputError, "Quantity"):
        attempt(inputs={"charge": 1.0})
    found, _ = evaluate_structures(ready, [structure(), structure()], Wanted())
    assert len(found) == 2
