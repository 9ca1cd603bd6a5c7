"""Structures in LAMMPS against the oracles; a program of its own, because of MPI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms

from alchemi_bridge.engines.lammps_box import LammpsBox
from alchemi_bridge.errors import BridgeError
from alchemi_bridge.parity import oracles, structures

LJ = {18: (0.01042332, 3.40), 36: (0.01404340, 3.65)}
SKEWED = 1.4 * np.array([[9.0, 1.0, 2.0], [14.0, 11.0, -1.0], [-8.0, 3.0, 12.0]])

opened = 0


def pair(kinds: Sequence[int]) -> list[str]:
    """Lennard-Jones with a continuous force, as the oracle's default."""
    global opened
    opened += 1
    lines = ["pair_style lj/smooth/linear 8.5"]
    for i, a in enumerate(kinds, start=1):
        for j, b in enumerate(kinds[i - 1 :], start=i):
            (e_a, s_a), (e_b, s_b) = LJ[a], LJ[b]
            lines.append(f"pair_coeff {i} {j} {(e_a * e_b) ** 0.5!r} {0.5 * (s_a + s_b)!r}")
    return lines


def agree(box: LammpsBox, atoms: Atoms) -> None:
    known = oracles.build("lennard-jones").evaluate(atoms)
    found = box.evaluate(atoms)
    assert found.virial is not None
    assert found.energies is not None
    assert abs(found.energy - known.energy) <= 1e-12 * abs(known.energy)
    np.testing.assert_allclose(found.forces, known.forces, atol=1e-12)
    np.testing.assert_allclose(found.virial, known.virial, atol=1e-11)
    np.testing.assert_allclose(found.energies, known.energies, atol=1e-13)


def mixed(seed: int, n_atoms: int = 20) -> Atoms:
    return structures.random_packing(SKEWED, ["Ar", "Kr"], n_atoms, core=3.2, seed=seed)


def every_cell(box: LammpsBox) -> None:
    """All periodic directions, both hands, atoms anywhere."""
    rng = np.random.default_rng(0)
    for flags in np.ndindex(2, 2, 2):
        atoms = mixed(1)
        atoms.pbc = flags
        agree(box, atoms)
        atoms.positions += (rng.integers(-4, 5, (len(atoms), 3)) * flags) @ atoms.cell.array
        agree(box, atoms)
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
        atoms.pbc = atoms.pbc[[1, 0, 2]]
        agree(box, atoms)


def one_after_the_other(box: LammpsBox) -> None:
    """Moved far and a little, other atoms, another cell: the instance is kept where it can be."""
    atoms = mixed(2)
    agree(box, atoms)
    before = opened
    for number in range(3):
        agree(box, structures.stepped(atoms, number))
    moved = atoms.copy()
    moved.positions += [30.0, -50.0, 7.0]
    agree(box, moved)
    moved.positions += moved.cell.array.sum(axis=0)
    agree(box, moved)
    agree(box, mixed(3, n_atoms=12))
    only = mixed(4)
    only.numbers[:] = 36
    agree(box, only)
    straight = structures.liquid_argon()
    agree(box, straight)
    agree(box, atoms)
    assert opened == before
    atoms.pbc = (True, True, False)
    agree(box, atoms)
    assert opened == before + 1
    # far beyond the room that it had
    atoms.positions[3] += 40.0 * np.cross(*atoms.cell.array[:2]) / 200.0
    agree(box, atoms)
    assert opened == before + 1
    agree(box, atoms)


def steps(box: LammpsBox) -> None:
    """Steps leave nothing behind, and count what they are given."""
    atoms = mixed(5)
    assert all(box.step(structures.stepped(atoms, number)) > 0.0 for number in range(5))
    assert box.lmp.extract_global("ntimestep") == 5
    last = structures.stepped(atoms, 4)
    known = oracles.build("lennard-jones").evaluate(last)
    assert abs(box.lmp.get_thermo("pe") - known.energy) < 1e-12
    agree(box, atoms)


def only_what_is_asked_for() -> None:
    """LAMMPS asks a potential for energies of atoms as soon as a compute for them exists."""
    with LammpsBox(lambda kinds: ["pair_style zero 5.0", "pair_coeff * *"]) as nothing:
        found = nothing.evaluate(mixed(7), virial=False, energies=False)
        assert found.virial is None
        assert found.energies is None
        computes = set(nothing.lmp.available_ids("compute"))
        assert not {name for name in computes if name.startswith("bridge")}
        assert nothing.evaluate(mixed(7)).energies is not None
        assert nothing.step(mixed(7)) > 0.0
        assert set(nothing.lmp.available_ids("compute")) == computes


def errors(box: LammpsBox) -> None:
    """LAMMPS' own words; and the next structure is computed."""
    wrong = LammpsBox(lambda kinds: ["pair_style nonsense"])
    with pytest.raises(BridgeError, match="nonsense"):
        wrong.evaluate(mixed(6))
    with pytest.raises(BridgeError, match="at least one atom"):
        box.evaluate(Atoms())
    agree(box, mixed(6))


if __name__ == "__main__":
    with LammpsBox(pair) as shared:
        for check in (every_cell, one_after_the_other, steps, errors):
            check(shared)
    only_what_is_asked_for()
    print("all right")
