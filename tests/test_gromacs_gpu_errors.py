"""``plugins/gromacs``: what is refused is an exception that says why, and nothing was added."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import c_callers as c
import numpy as np
import pytest
import zoo
from cluster_parts import Golden, golden
from gromacs_engine import SCREW, Gromacs, driver
from kernel_parts import needs_compiler
from test_delivery import Late

from alchemi_bridge.compiling import require_compiler
from alchemi_bridge.engines import plugins
from alchemi_bridge.engines.interface import structs, table

pytestmark = needs_compiler


@pytest.fixture
def model(model_file: Callable[..., Path]) -> Path:
    return model_file("lennard-jones", cutoff=8.5)


@pytest.fixture
def file() -> Golden:
    return golden("argon216")


def added(run: Gromacs, file: Golden, positions: np.ndarray | None = None) -> np.ndarray:
    """Forces of a step."""
    forces = np.full((file.n_atoms, 3), 3.0, np.float32)
    try:
        run.step(file.positions if positions is None else positions, file.box, forces)
    except c.Failure:
        assert (forces == 3.0).all()
        raise
    assert (forces != 3.0).any()
    return forces - 3.0


def apart(file: Golden, way: float) -> np.ndarray:
    """Two atoms that moved in opposite directions: what all have in common does not count."""
    found = file.positions.copy()
    found[[7, 150], 0] += [way, -way]
    return found


def test_a_list_that_is_too_old(model: Path, file: Golden) -> None:
    """GROMACS' own buffer is statistical, and would let it pass."""
    far = apart(file, 0.06)
    with Gromacs(model, 216, buffer=0.1) as run:
        run.atoms(216)
        run.search(file)
        before = added(run, file)
        with c.refused(c.STALE, "nstlist", "rlist", "pairlistBuffer"):
            added(run, file, far)
        run.trace()
        assert run.collect()[0] == 0.0
        assert run.trace() == []
        # not so far, and the same list holds
        added(run, file, apart(file, 0.045))
        run.search(file)
        np.testing.assert_array_equal(added(run, file), before)


def swapped(positions: np.ndarray) -> np.ndarray:
    found = positions.copy()
    found[[3, 100]] = positions[[100, 3]]
    return found


def away(positions: np.ndarray) -> np.ndarray:
    found = positions.copy()
    found[7, 0] += 0.2
    return found


@pytest.mark.parametrize("change", [swapped, away])
def test_a_list_of_other_coordinates(
    change: Callable[[np.ndarray], np.ndarray], model: Path, file: Golden
) -> None:
    """In the first step, too: coordinates and their order are those of the search, or nearly."""
    with Gromacs(model, 216, buffer=0.1) as run:
        run.atoms(216)
        run.search(file)
        with c.refused(c.STALE, "displacements since the search"):
            added(run, file, change(file.positions))
        added(run, file)


def test_rlist_is_what_there_is_of_a_buffer(model: Path, file: Golden) -> None:
    """A buffer that rlist has no room for is cut."""
    with Gromacs(model, 216, buffer=0.5) as run:
        assert run.needs()[0] == pytest.approx(1.35)
        run.atoms(216)
        run.search(file)
        added(run, file)
        with c.refused(c.STALE):
            added(run, file, apart(file, 0.12))


def test_radius_in_float32(model_file: Callable[..., Path], file: Golden) -> None:
    """1.05 nm is a little less in GROMACS' memory, and not too little for a cutoff of that."""
    assert file.rlist < 1.05
    with Gromacs(model_file("lennard-jones", cutoff=10.5), 216, buffer=0.0) as run:
        run.atoms(216)
        run.search(file)
        added(run, file)


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (zoo.raises, c.MODEL, ("too many atoms",)),
        (lambda: zoo.nan_energy(2.0), c.MODEL, ("finite",)),
    ],
    ids=["raises", "NaN"],
)
def test_a_model_that_fails(make: Callable[[], Any], code: int, words: Any, tmp_path: Path) -> None:
    water = golden("water648")
    with Gromacs(zoo.save(make(), tmp_path, "fails"), 648, numbers=np.full(648, 6)) as run:
        run.atoms(648)
        run.search(water)
        with c.refused(code, "alchemi_bridge: ", *words):
            added(run, water)
        assert run.collect()[0] == 0.0


def device_finds(value: float) -> None:
    """The results of the last step, as a GPU has them: nobody has looked at them yet."""
    (session,) = table._sessions.values()
    session.provider._delivery._open = Late(value)


def test_the_device_finds_results_that_are_not_finite(model: Path, file: Golden) -> None:
    """Whoever asks first is told, once: for the energy, at the end, or in the next step."""

    def ask(run: Gromacs, how: str) -> None:
        {"energy": run.collect, "end": run.finish, "step": lambda: added(run, file)}[how]()

    with Gromacs(model, 216) as run:
        run.atoms(216)
        run.search(file)
        run.finish()  # nothing is wrong with steps that were not made
        before = added(run, file)
        for how in ("energy", "end", "step"):
            device_finds(np.nan)
            with c.refused(c.MODEL, "alchemi_bridge: forces of the model", "finite"):
                ask(run, how)
            assert run.collect()[0] == 0.0
            run.finish()
            np.testing.assert_array_equal(added(run, file), before)
            energy = run.collect()[0]
            assert energy < 0.0
        device_finds(1.0)
        run.finish()
        assert run.collect()[0] == energy


def with_one(name: str, place: Any, value: int) -> Callable[[Golden], Golden]:
    def change(file: Golden) -> Golden:
        array = file.arrays[name].copy()
        array[place] = value
        return Golden({**file.arrays, name: array})

    return change


LISTS: dict[str, tuple[Callable[[Golden], Golden], dict[str, Any], tuple[str, ...]]] = {
    "super-cluster": (with_one("sci", (2, 0), 4), {}, ("super-clusters",)),
    "shift": (with_one("sci", (2, 1), 45), {}, ("shift",)),
    "entries that end late": (with_one("sci", (-1, 3), 9999), {}, ("groups",)),
    "atom": (with_one("atom_index", 9, 216), {}, ("atom_index",)),
    "groups cut short": (lambda f: f, {"numPackedJClusters": 80}, ("groups",)),
    "entries cut short": (lambda f: f, {"numSci": 37}, ("groups",)),
    "no entries": (lambda f: f, {"numSci": 0}, ("groups",)),
    "slots cut short": (lambda f: f, {"atomIndicesSize": 128}, ("cluster",)),
    "no slots": (lambda f: f, {"atomIndicesSize": 0}, ("cluster",)),
    "rlist": (lambda f: f, {"rlistOuter": 0.8}, ("rlistOuter", "at least 0.85", "pairlistRange()")),
    "no rlist": (lambda f: f, {"rlistOuter": 0.0}, ("rlistOuter",)),
    "screw": (lambda f: f, {"pbcType": SCREW}, ("pbcType", "Xyz, XY or No")),
    "no local list": (lambda f: f, {"given": 0}, ("a local list",)),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_that_can_not_be(case: str, model: Path, file: Golden) -> None:
    """Refused at the search; there is no step with it, and the next list is as good as ever."""
    change, fields, words = LISTS[case]
    with Gromacs(model, 216) as run:
        run.atoms(216)
        run.search(file)
        before = added(run, file)
        with c.refused(c.PAIRS, *words):
            run.search(change(file), **fields)
        with c.refused(c.PROTOCOL, "reinitPairlist"):
            added(run, file)
        run.search(file)
        np.testing.assert_array_equal(added(run, file), before)


def test_calls_in_the_wrong_order(model: Path, file: Golden) -> None:
    with Gromacs(model, 216) as run:
        with c.refused(c.PROTOCOL, "launchForces", "reinitPairlist"):
            added(run, file)
        with c.refused(c.PROTOCOL, "reinitPairlist", "reinitAtoms"):
            run.search(file)
        run.atoms(216)
        with c.refused(c.PROTOCOL, "launchForces"):
            added(run, file)
        run.search(file)
        run.atoms(216)
        with c.refused(c.PROTOCOL, "launchForces"):
            added(run, file)


def test_steps_that_can_not_be(model: Path, file: Golden) -> None:
    with Gromacs(model, 216) as run:
        run.atoms(216)
        run.search(file)
        with c.refused(c.INPUT, "pbcType"):
            run.step(file.positions, file.box, pbc=SCREW)
        broken = file.positions.copy()
        broken[3, 1] = np.nan
        with c.refused(c.INPUT, "positions"):
            added(run, file, broken)
        added(run, file)


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        ((10, 11), ("11 home atoms",)),
        ((216, -1), ("-1 home atoms",)),
        ((217, 217), ("217 atoms", "for 216 atoms")),
        ((216, 216, np.arange(100)), ("100 indices",)),
        ((2, 2, [0, 216]), ("numbers below 216", "got 216")),
    ],
    ids=["more home atoms", "negative", "more than the system", "indices", "index"],
)
def test_atoms_that_can_not_be(atoms: Any, words: Any, model: Path) -> None:
    with Gromacs(model, 216) as run, c.refused(c.INPUT, *words):
        run.atoms(*atoms)


@pytest.mark.parametrize("atoms", [(217, 217), (216, 216, np.full(216, 40))])
def test_atoms_that_were_refused_are_not_forgotten(atoms: Any, model: Path, file: Golden) -> None:
    """No step goes on with the atoms before, or as if there were nothing to do."""
    numbers = np.full(216, 18)
    numbers[40] = 79  # which the model does not know, and does not see at first
    with Gromacs(model, 216, numbers=numbers) as run:
        names = np.where(np.arange(216) == 40, 41, np.arange(216))
        run.atoms(216, 216, names)
        run.search(file)
        before = added(run, file)
        with c.refused(c.INPUT):
            run.atoms(*atoms)
        with c.refused(c.PROTOCOL, "launchForces", "reinitPairlist"):
            added(run, file)
        with c.refused(c.PROTOCOL, "reinitPairlist", "reinitAtoms"):
            run.search(file)
        with c.refused(c.PROTOCOL, "launchForces"):
            added(run, file)
        run.atoms(216, 216, names)
        run.search(file)
        np.testing.assert_array_equal(added(run, file), before)


def test_types_that_the_model_does_not_know(model: Path, file: Golden) -> None:
    numbers = np.full(216, 18)
    numbers[40] = 79
    with Gromacs(model, 216, numbers=numbers) as run, c.refused(c.INPUT, "79"):
        run.atoms(216)
    # the same, where the model does not see it
    seen = np.delete(np.arange(216), 40)
    with Gromacs(model, 216, numbers=numbers, model_atoms=seen) as run:
        run.atoms(216)
        run.search(file)
        added(run, file)


def test_filler_particles(model: Path, file: Golden) -> None:
    """GROMACS may keep them among the atoms: without a global index, a slot or a place."""
    beyond = np.vstack([file.positions, np.full((4, 3), -1.0e6)])
    results = []
    for fillers in (0, 4):
        with Gromacs(model, 216) as run:
            run.atoms(216 + fillers, None, [*range(216), *[-1] * fillers])
            run.search(file)
            forces = np.full((216 + fillers, 3), 3.0, np.float32)
            run.step(beyond[: 216 + fillers], file.box, forces)
            results.append((run.collect()[0], forces))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1][:216])
    assert (results[1][1][216:] == 3.0).all()


def test_options_that_can_not_be(model: Path, tmp_path: Path) -> None:
    def opened(*, path: Path = model, **options: Any) -> None:
        Gromacs(path, 216, **options)

    with c.refused(c.CONFIGURATION, "pairlistBuffer"):
        opened(buffer=-0.1)
    with c.refused(c.CONFIGURATION, "pairlistBuffer"):
        opened(buffer=float("nan"))
    with c.refused(c.CONFIGURATION, "modelAtoms", "below 216"):
        opened(model_atoms=[3, 216])
    with c.refused(c.CONFIGURATION, "keyword 'device'", "once"):
        opened(keywords={"device": "cpu"})
    with c.refused(c.CONFIGURATION, "skin"):
        opened(keywords={"skin": "1"})
    with c.refused(c.MODEL, "nothing.pt"):
        opened(path=tmp_path / "nothing.pt")


def test_interface_stands_alone() -> None:
    """What is proposed to GROMACS needs nothing of the bridge."""
    header = plugins.folder() / "gromacs" / "igpuforceprovider.h"
    stand_ins = Path(__file__).parent / "gromacs_stand_ins"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{stand_ins}"]
    command = [require_compiler(), *flags, "-x", "c++", str(header)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "alchemi" not in header.read_text().split("#define")[1]


def test_code_for_a_gpu_compiles() -> None:
    """Here nobody can run it; see the tests on a device."""
    assert driver(cuda=True).driver_open


def test_libraries_that_can_not_be(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALCHEMI_BRIDGE_LIBRARY", raising=False)
    other = driver()._name
    for library, words in (
        ("", ("ALCHEMI_BRIDGE_LIBRARY", "alchemi-bridge plugin c")),
        (str(tmp_path / "no.so"), ("no.so", "can be opened")),
        (other, ("alchemi_bridge_functions", "got none")),
    ):
        with c.refused(c.INTERNAL, *words):
            Gromacs(model, 216, library=library)


def test_library_that_is_older(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table ends before what is called here."""
    monkeypatch.setattr(table.functions(), "struct_size", structs.Functions.finish.offset)
    with c.refused(c.INTERNAL, "as new as this program", "got an older one"):
        Gromacs(model, 216)


def test_library_of_the_environment(
    model: Path, file: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMI_BRIDGE_LIBRARY", str(plugins.shim()))
    with Gromacs(model, 216, library="") as run:
        run.atoms(216)
        run.search(file)
        added(run, file)
