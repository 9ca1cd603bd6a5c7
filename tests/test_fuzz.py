"""Two thousand bad inputs: nothing but a BridgeError, or a result that is right, may come out."""

from __future__ import annotations

import datetime
import functools
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
from feature_parts import Buffers, zoo_file
from fuzz_cases import (
    NUMBERS,
    Case,
    ListCase,
    anything,
    cases,
    device_text,
    list_cases,
    unit_text,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alchemi_bridge import (
    Atoms,
    BridgeCalculator,
    Cell,
    FullPairs,
    HalfPairs,
    LoadedModel,
    MetatomicForceProvider,
    Search,
    Step,
    Units,
    load_model,
    potentials,
)
from alchemi_bridge.contract import Quantity
from alchemi_bridge.errors import BridgeError, EvaluationError
from alchemi_bridge.parity.oracles.images import find_pairs
from alchemi_bridge.parity.oracles.lennard_jones import LennardJonesOracle

CUTOFF = 5.0
# Sums of up to a few hundred terms that cancel: rounding is relative to the sum of their sizes.
ROUNDING = 1e-12
# Coordinates of size x are known to about 1e-16 x, and r^-14 makes 14 times that of the slope.
COORDINATES = 1e-14
# Largest growth of the process: a list of MAX_NEIGHBORS for each of 12 atoms takes 0.5 GB.
MEMORY = 1.5 * 2**30  # bytes

#: Examples of each test; their sum is 2000.
EXAMPLES = {"steps": 900, "lists": 400, "options": 300, "ase": 200, "files": 200}
LONGER = 10  # times as many in the slow profile

seen: Counter[str] = Counter()


def profile(name: str, times: int = 1) -> settings:
    return settings(
        max_examples=EXAMPLES[name] * times,
        derandomize=True,
        database=None,
        deadline=datetime.timedelta(seconds=20),  # a hang; machines are busy at times
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.fixture(scope="module", autouse=True)
def _memory() -> Iterator[None]:
    model()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MEMORY


@functools.cache
def model_path() -> Path:
    folder = Path(zoo_file("pair")).parent
    return potentials.export("lennard-jones", folder / "fuzz-lj.pt", cutoff=CUTOFF)


@functools.cache
def model() -> LoadedModel:
    return load_model(model_path())


@functools.cache
def oracle() -> LennardJonesOracle:
    return LennardJonesOracle(cutoff=CUTOFF)


def test_count() -> None:
    assert sum(EXAMPLES.values()) == 2000


# --- steps --------------------------------------------------------------------------------------


def check_step(case: Case) -> None:
    provider = MetatomicForceProvider(model())
    n_atoms = len(case.types)
    buffers = Buffers(n_atoms, start=3.0)
    try:
        cell = Cell.of(case.cell, case.pbc)
        provider.set_atoms(Atoms(case.types, subset=case.subset, selected=case.selected))
        provider.set_pairs(Search(case.skin), cell)
        step = Step(positions=case.positions, virial=True, energies=True)
        provider.compute(step, buffers.all)
    except BridgeError as error:
        seen[type(error).__name__] += 1
        assert buffers.untouched()
        return
    seen["result"] += 1
    for name in ("energy", "forces", "virial", "energies"):
        assert np.isfinite(buffers.numpy(name)).all()
    _compare(case, cell, buffers)


def _compare(case: Case, cell: Cell, buffers: Buffers) -> None:
    """Against brute force, where that is affordable."""
    if not cell.heights.min() > 1.0 or case.selected is not None:
        return
    chosen = np.arange(len(case.types)) if case.subset is None else case.subset
    positions = np.asarray(case.positions, dtype=np.float64)[chosen]
    atoms = ase.Atoms(case.types[chosen], positions=positions, cell=cell.vectors, pbc=cell.pbc)
    expected = oracle().evaluate(atoms)
    pairs = find_pairs(atoms, CUTOFF)
    with np.errstate(all="raise"):
        u = np.array([4 * 0.014 * ((3.65 / r) ** 12 + (3.65 / r) ** 6) for r in pairs.lengths])
    largest = np.abs(positions).max(initial=1.0) + np.abs(cell.vectors).max()
    slope = (12 * u / pairs.lengths).sum()
    curvature = (156 * u / pairs.lengths**2).sum()
    seen["compared"] += 1
    seen["pairs"] += len(pairs.lengths)
    energy = ROUNDING * (u.sum() + 3.0) + COORDINATES * largest * slope
    force = ROUNDING * (slope + 3.0) + COORDINATES * largest * curvature
    forces = np.zeros((len(case.types), 3))
    energies = np.zeros(len(case.types))
    forces[chosen], energies[chosen] = expected.forces, expected.energies
    assert abs(buffers.energy[0] - expected.energy) <= energy
    assert np.abs(buffers.energies - energies).max(initial=0.0) <= energy
    assert np.abs(buffers.forces - forces).max(initial=0.0) <= force
    assert np.abs(buffers.virial - expected.virial).max() <= CUTOFF * force


def test_steps() -> None:
    seen.clear()
    profile("steps")(given(cases())(check_step))()
    # this is no exercise in refusing: many of the cases are right, and are compared
    assert seen["compared"] > 100
    assert seen["pairs"] > 1000
    wanted = ("CellError", "NonFiniteError", "OverlapError", "SpeciesError", "ShapeError")
    for name in (*wanted, "DtypeError", "ConfigurationError", "InputError", "BufferAccessError"):
        assert seen[name] > 0, name


@pytest.mark.slow
@profile("steps", LONGER)
@given(cases())
def test_steps_longer(case: Case) -> None:
    check_step(case)


# --- pair lists ---------------------------------------------------------------------------------


def check_list(case: ListCase) -> None:
    provider = MetatomicForceProvider(model())
    n_atoms = len(case.positions)
    buffers = Buffers(n_atoms, start=3.0)
    kind = FullPairs if case.full else HalfPairs
    try:
        pairs = kind(case.first, case.second, case.shifts, case.reach)
        provider.set_atoms(Atoms(np.full(n_atoms, NUMBERS[0])))
        provider.set_pairs(pairs, Cell.of(case.cell))
        provider.compute(Step(positions=case.positions), buffers.all)
    except BridgeError as error:
        seen["list " + type(error).__name__] += 1
        assert buffers.untouched()
        return
    seen["list result"] += 1
    # the engine's list is taken at its word: the energy is that of the pairs in it
    shifts = 0.0 if case.shifts is None else case.shifts @ case.cell
    vectors = case.positions[case.second] - case.positions[case.first] + shifts
    lengths = np.linalg.norm(vectors, axis=1)
    inside = lengths < CUTOFF
    share = 0.5 if case.full else 1.0
    found = [_two_atoms(r) for r in lengths[inside]]
    expected = share * sum(energy for energy, _ in found)
    sizes = sum(size for _, size in found)
    assert abs(buffers.energy[0] - expected) <= ROUNDING * (sizes + 3.0) * 100


def _two_atoms(r: float) -> tuple[float, float]:
    dimer = ase.Atoms([NUMBERS[0]] * 2, positions=[[0.0, 0.0, 0.0], [0.0, 0.0, r]])
    energy = oracle().evaluate(dimer).energy
    return energy, abs(energy) * (1.0 + 12.0 / r)


@profile("lists")
@given(list_cases())
def test_lists(case: ListCase) -> None:
    check_list(case)


@pytest.mark.slow
@profile("lists", LONGER)
@given(list_cases())
def test_lists_longer(case: ListCase) -> None:
    check_list(case)


# --- options ------------------------------------------------------------------------------------


@functools.cache
def zoo_model(name: str) -> LoadedModel:
    return load_model(zoo_file(name))


OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "device": st.one_of(device_text(), anything()),
    "units": st.one_of(anything(), st.tuples(unit_text(), unit_text())),
    "variants": st.one_of(
        anything(),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["energy", "energy_uncertainty", "non_conservative_forces"]),
                st.text(max_size=5),
            ),
            st.one_of(st.sampled_from(["pbe", "scan", "", None]), anything()),
            max_size=3,
        ),
    ),
    "non_conservative": st.one_of(st.sampled_from(["forces", "stress"]), anything()),
    "uncertainty_threshold": anything(),
    "extra_outputs": st.one_of(anything(), st.lists(st.one_of(st.text(), anything()), max_size=2)),
    "gradient": st.one_of(st.sampled_from(["leaves", "strain"]), anything()),
    "sha256": anything(),
    "inputs": st.dictionaries(
        st.sampled_from(["charge", "mass"]),
        st.builds(Quantity, anything(), st.one_of(unit_text(), anything())),
    ),
}


def check_options(given_options: dict[str, Any], name: str) -> None:
    options = dict(given_options)
    inputs = options.pop("inputs", {})
    try:
        if isinstance(options.get("units"), tuple):
            options["units"] = Units(*options["units"])
        source = zoo_file(name) if "device" in options else zoo_model(name)
        provider = MetatomicForceProvider(source, **options)
        provider.set_atoms(Atoms(np.array([18, 18]), inputs=inputs))
        provider.set_pairs(Search(0.1), Cell.open())
        positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        buffers = Buffers(2)
        provider.compute(Step(positions=positions), buffers.all)
        assert np.isfinite(buffers.forces).all()
        seen["options result"] += 1
    except BridgeError as error:
        seen["options " + type(error).__name__] += 1


option_sets = st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=2, unique=True)
options_strategy = option_sets.flatmap(
    lambda names: st.fixed_dictionaries({name: OPTIONS[name] for name in names})
)


@pytest.mark.filterwarnings("ignore::alchemi_bridge.uncertainty.UncertaintyWarning")
@profile("options")
@given(options_strategy, st.sampled_from(["variants", "extra_outputs"]))
def test_options(options: dict[str, Any], name: str) -> None:
    check_options(options, name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::alchemi_bridge.uncertainty.UncertaintyWarning")
@profile("options", LONGER)
@given(options_strategy, st.sampled_from(["variants", "extra_outputs"]))
def test_options_longer(options: dict[str, Any], name: str) -> None:
    check_options(options, name)


# --- ASE ----------------------------------------------------------------------------------------


@functools.cache
def calculator() -> BridgeCalculator:
    """One for all examples: what one leaves behind must not reach the next."""
    return BridgeCalculator(zoo_file("extra_inputs", "charge_and_spin"))


INFO = st.dictionaries(
    st.sampled_from(["charge", "spin", "spin_multiplicity", "other"]), anything(), max_size=2
)


def check_ase(case: Case, info: dict[str, Any], name: str) -> None:
    try:
        atoms = ase.Atoms(case.types, case.positions, cell=case.cell, pbc=case.pbc)
    except (TypeError, ValueError, OverflowError, RuntimeError, KeyError, Warning):
        return  # ASE itself refuses these
    atoms.numbers[atoms.numbers == 36] = 14
    atoms.info.update(info)
    found = []
    for calc in (calculator(), BridgeCalculator(zoo_model_in_memory())):
        try:
            found.append(np.asarray(calc.get_property(name, atoms)))
        except BridgeError as error:
            seen["ase " + type(error).__name__] += 1
            found.append(type(error))
            assert calc.results == {}
    used, fresh = found
    if isinstance(fresh, type):
        assert used is fresh
    else:
        seen["ase result"] += 1
        assert np.isfinite(fresh).all()
        np.testing.assert_allclose(used, fresh, rtol=1e-9, atol=1e-9)


@functools.cache
def zoo_model_in_memory() -> Any:
    return load_model(zoo_file("extra_inputs", "charge_and_spin"))


ASE_CASE = (cases(), INFO, st.sampled_from(["energy", "forces", "stress", "energies"]))


@profile("ase")
@given(*ASE_CASE)
def test_ase(case: Case, info: dict[str, Any], name: str) -> None:
    check_ase(case, info, name)


@pytest.mark.slow
@profile("ase", LONGER)
@given(*ASE_CASE)
def test_ase_longer(case: Case, info: dict[str, Any], name: str) -> None:
    check_ase(case, info, name)


# --- model files --------------------------------------------------------------------------------


@functools.cache
def file_bytes() -> bytes:
    return model_path().read_bytes()


def damaged_files() -> st.SearchStrategy[bytes]:
    data = file_bytes()
    size = len(data)

    def flip(places: list[tuple[int, int]]) -> bytes:
        changed = bytearray(data)
        for place, bit in places:
            changed[place] ^= 1 << bit
        return bytes(changed)

    # the directory at the end is what a reader looks at first
    place = st.one_of(st.integers(0, size - 1), st.integers(size - 2000, size - 1))
    return st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=60).map(lambda tail: b"PK\x03\x04" + tail),
        st.integers(0, size).map(lambda n: data[:n]),
        st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=3).map(flip),
        st.tuples(place, st.binary(min_size=1, max_size=9)).map(
            lambda cut: data[: cut[0]] + cut[1] + data[cut[0] :]
        ),
    )


def check_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        path.write_bytes(data)
        try:
            loaded = load_model(path)
        except BridgeError as error:
            seen["file " + type(error).__name__] += 1
            return
    # dates and the like are not covered by any checksum; the model is what it was
    seen["file result"] += 1
    assert loaded.cutoff == CUTOFF


@profile("files")
@given(st.deferred(damaged_files))
def test_files(data: bytes) -> None:
    check_file(data)


@pytest.mark.slow
@profile("files", LONGER)
@given(st.deferred(damaged_files))
def test_files_longer(data: bytes) -> None:
    check_file(data)


def _rewritten(change: Callable[[str, bytes], bytes]) -> bytes:
    """The model file with changed records and right checksums: torch gets to see these."""
    with tempfile.TemporaryFile() as target:
        with zipfile.ZipFile(model_path()) as old, zipfile.ZipFile(target, "w") as new:
            for info in old.infolist():
                new.writestr(info.filename, change(info.filename, old.read(info)))
        target.seek(0)
        return target.read()


def _crafted(folder: Path, per_record: int) -> list[Path]:
    """Files with one record flipped, cut off, emptied or doubled."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(model_path()) as archive:
        names = [i.filename for i in archive.infolist() if i.file_size]
    paths = []
    for name, number in itertools.product(names, range(per_record)):

        def change(record: str, data: bytes, name: str = name, number: int = number) -> bytes:
            if record != name:
                return data
            if number == 0:
                return b""
            if number == 1:
                return data[: len(data) // 2]
            if number == 2:
                return data + data
            changed = bytearray(data)
            changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            return bytes(changed)

        paths.append(folder / f"{len(paths)}.pt")
        paths[-1].write_bytes(_rewritten(change))
    return paths


LOADER = """
import sys
import warnings
import numpy as np
from alchemi_bridge import Atoms, Cell, ForceBuffers, MetatomicForceProvider, Search, Step
from alchemi_bridge.errors import BridgeError
warnings.simplefilter("ignore")  # "exported with another version": the record was changed
for path in sys.argv[1:]:
    print("?", path, flush=True)
    try:
        provider = MetatomicForceProvider(path)
        provider.set_atoms(Atoms(np.array([18, 36])))
        provider.set_pairs(Search(0.1), Cell.open())
        out = ForceBuffers(energy=np.zeros(1), forces=np.zeros((2, 3)))
        positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
        provider.compute(Step(positions=positions), out)
        assert np.isfinite(out.forces).all()
        print("result", flush=True)
    except BridgeError as error:
        print(type(error).__name__, flush=True)
"""


def check_crafted(folder: Path, per_record: int) -> Counter[str]:
    """In a process of their own, since what they may do to torch is a crash."""
    left = [str(path) for path in _crafted(folder, per_record)]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *left],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    outcomes = Counter(line for line in done.stdout.splitlines() if not line.startswith("?"))
    assert sum(outcomes.values()) == len(left)
    assert EvaluationError.__name__ not in outcomes or outcomes["result"]
    return outcomes


def test_crafted_files(tmp_path: Path) -> None:
    outcomes = check_crafted(tmp_path, 5)
    assert outcomes["ModelLoadError"] > 10


@pytest.mark.slow
def test_crafted_files_longer(tmp_path: Path) -> None:
    check_crafted(tmp_path, 60)
