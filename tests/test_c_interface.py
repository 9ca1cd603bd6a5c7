"""The function table as a C caller uses it: layout, pair lists, results."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase
import c_callers as c
import cluster_parts
import numpy as np
import pytest
import torch
import zoo
from c_callers import BOX, NAMES, cluster, evaluated, in_python
from engine_lists import CUTOFF, KINDS, argon
from kernel_parts import needs_compiler

from alchemi_bridge import (
    Atoms,
    Cell,
    ForceBuffers,
    MetatomicForceProvider,
    Search,
    Step,
    Units,
)
from alchemi_bridge.compiling import require_compiler
from alchemi_bridge.engines import plugins
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface import table as table_module
from alchemi_bridge.pairs.row_pointers import RowPointers

ENUMS = {
    "AB_OK": 0,
    "AB_ERROR_INPUT": c.INPUT,
    "AB_ERROR_PAIRS": c.PAIRS,
    "AB_ERROR_STALE": c.STALE,
    "AB_ERROR_MODEL": c.MODEL,
    "AB_ERROR_CONFIGURATION": c.CONFIGURATION,
    "AB_ERROR_PROTOCOL": c.PROTOCOL,
    "AB_ERROR_VERSION": c.VERSION,
    "AB_ERROR_INTERNAL": c.INTERNAL,
    "AB_ABSENT": 0,
    "AB_FLOAT32": structs.NUMBER_OF_DTYPE[torch.float32],
    "AB_FLOAT64": structs.NUMBER_OF_DTYPE[torch.float64],
    "AB_INT32": structs.NUMBER_OF_DTYPE[torch.int32],
    "AB_INT64": structs.NUMBER_OF_DTYPE[torch.int64],
    "AB_HOST": structs.HOST,
    "AB_CUDA": structs.CUDA,
    "AB_LOG_INFO": structs.INFO,
    "AB_LOG_WARNING": structs.WARNING,
    "AB_PAIRS_SEARCH": structs.SEARCH,
    "AB_PAIRS_HALF": structs.HALF,
    "AB_PAIRS_FULL": structs.FULL,
    "AB_PAIRS_GHOSTS": structs.GHOSTS,
    "AB_PAIRS_MATRIX": structs.MATRIX,
    "AB_PAIRS_CLUSTERS": structs.CLUSTERS,
    "ALCHEMI_BRIDGE_VERSION": structs.VERSION,
}

#: Sums of a few hundred terms of order 0.01 eV/Å in float64, in another order.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}

# --- layout --------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c++", "c++11")])
def test_layout_is_that_of_the_header(language: str, standard: str, tmp_path: Path) -> None:
    """Sizes, offsets and numbers; the compiler knows nothing of this side."""
    header = (plugins.folder() / plugins.HEADER).read_text()
    lines = []
    wanted = {}
    for name, kind in structs.STRUCTURES.items():
        assert f"}} {name};" in header
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        wanted[name] = ctypes.sizeof(kind)
        for field, *_ in kind._fields_:
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));')
            wanted[f"{name}.{field}"] = getattr(kind, field).offset
            member = f"sizeof((({name} *)0)->{field})"
            lines.append(f'printf("{name}.{field}.size %zu\\n", {member});')
            wanted[f"{name}.{field}.size"] = getattr(kind, field).size
    for name, value in ENUMS.items():
        lines.append(f'printf("{name} %d\\n", (int){name});')
        wanted[name] = value
    suffix = "c" if language == "c" else "cpp"
    source, program = tmp_path / f"layout.{suffix}", tmp_path / "layout"
    body = "\n".join(lines)
    source.write_text(
        f'#include "alchemi_bridge.h"\n#include <stdio.h>\nint main(void) {{ {body} return 0; }}\n'
    )
    include = f"-I{(plugins.folder() / plugins.HEADER).parent}"
    flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-std={standard}", "-x", language]
    subprocess.run(
        [require_compiler(), *flags, include, str(source), "-o", str(program)], check=True
    )
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in (line.split() for line in printed.splitlines())}
    assert found == wanted


def test_every_number_of_the_header_is_checked() -> None:
    header = (plugins.folder() / plugins.HEADER).read_text()
    enums = [part.split("}")[0] for part in header.split("enum ")[1:] if "{" in part.split(";")[0]]
    words = {word for part in enums for word in part.replace(",", " ").split()}
    assert {word for word in words if word.startswith("AB_")} <= set(ENUMS)
    assert len(ENUMS) == 25


def test_sizes_are_whole_words() -> None:
    """What :mod:`alchemi_bridge.engines.interface.reading` takes for granted."""
    for kind in structs.STRUCTURES.values():
        assert ctypes.sizeof(kind) % 8 == 0


# --- pair lists ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def atoms() -> ase.Atoms:
    return argon()


def with_pointers(pairs: Any) -> Any:
    """Rows of a ghost list, each at an address of its own; LAMMPS' way."""
    starts, neighbors = pairs.starts, pairs.neighbors
    rows = [neighbors[a:b].copy() for a, b in pairwise(starts)]
    table = np.array([row.ctypes.data for row in rows], dtype=np.int64)
    fields = {**vars(pairs), "starts": None, "counts": np.diff(starts).astype(np.int32)}
    found = type(pairs)(**{**fields, "neighbors": RowPointers(table.ctypes.data)})
    object.__setattr__(found, "newton", None)
    ROWS.append((table, rows))
    return found


#: Memory that must stay.
ROWS: list[Any] = []


def of_kind(kind: str, atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
    if kind == "search":
        return Search(1.0), atoms.positions
    pairs, positions = KINDS[kind.removesuffix(" by pointers")](atoms)
    if kind.endswith("by pointers"):
        pairs = with_pointers(pairs)
    return ([pairs] if kind == "clusters" else pairs), positions


@pytest.mark.parametrize("kind", ["search", *KINDS, "ghosts by pointers"])
def test_results_are_those_of_the_python_class(
    kind: str, atoms: ase.Atoms, model_file: Callable[..., Path]
) -> None:
    """Bit by bit those of the same list, and up to rounding those of a search."""
    model, cell = model_file("lennard-jones", cutoff=CUTOFF), atoms.cell.array
    pairs, positions = of_kind(kind, atoms)
    types = np.asarray(atoms.numbers, dtype=np.int32)
    wanted = []
    for given in (pairs, Search(1.0)):
        provider = MetatomicForceProvider(model, device="cpu", tuning=False)
        provider.set_atoms(Atoms(types))
        provider.set_pairs(given, Cell.of(cell))
        wanted.append(provider)
    rng = np.random.default_rng(3)
    with c.Engine(model, {"device": "cpu"}) as engine:
        engine.set_atoms(types)
        engine.set_pairs(pairs, cell)
        for _ in range(3):
            moved = positions + rng.normal(scale=0.02, size=positions.shape)
            out = c.buffers(len(moved), *NAMES)
            engine.compute(moved, cell, out)
            same, searched = (in_python(provider, moved, cell) for provider in wanted)
            for name in NAMES:
                np.testing.assert_array_equal(out[name], same[name], err_msg=name)
                np.testing.assert_allclose(out[name], searched[name], **TOLERANCE, err_msg=name)
            assert np.abs(out["forces"]).max() > 1e-3


@pytest.mark.parametrize("rank", [0, 1])
def test_local_and_non_local_clusters(rank: int, model_file: Callable[..., Path]) -> None:
    """Lists that GROMACS built on two ranks, in its units."""
    files = [
        cluster_parts.golden(f"argon216-dd2-rank{rank}-{kind}") for kind in ("local", "nonlocal")
    ]
    units = Units("nm", "kJ/mol")
    model, cell = model_file("lennard-jones", cutoff=9.0), files[0].box
    pairs = [file.pairs(1.0) for file in files]
    positions = files[0].positions
    positions[np.isnan(positions)] = files[1].positions[np.isnan(positions)]
    types = np.full(len(positions), 18)
    provider = MetatomicForceProvider(model, device="cpu", units=units, tuning=False)
    provider.set_atoms(Atoms(types))
    provider.set_pairs(pairs, Cell.of(cell))
    expected = in_python(provider, positions, cell)
    with c.Engine(model, {"device": "cpu"}, length_unit=b"nm", energy_unit=b"kJ/mol") as engine:
        engine.set_atoms(types)
        energies = []
        for given in (pairs[:1], pairs):
            engine.set_pairs(given, cell)
            out = c.buffers(len(positions), *NAMES)
            engine.compute(positions, cell, out)
            energies.append(out["energy"][0])
    for name in NAMES:
        np.testing.assert_allclose(out[name], expected[name], rtol=1e-11, atol=1e-11, err_msg=name)
    assert abs(energies[0] - energies[1]) > 1.0


def test_clusters_as_gromacs_keeps_them(model_file: Callable[..., Path]) -> None:
    """Masks and j clusters in one array of structures, coordinates with a fourth number."""
    file = cluster_parts.golden("argon216")
    groups = np.zeros((len(file.arrays["cj"]), 8), dtype=np.int32)
    groups[:, :4] = file.arrays["cj"]
    groups[:, [4, 6]] = file.arrays["imask"].view(np.int32)
    groups[:, [5, 7]] = file.arrays["excl_ind"]
    x = np.full((len(file.arrays["x"]), 4), 77.0, dtype=np.float32)
    x[:, :3] = file.arrays["x"]
    packed = file.pairs(
        1.0,
        cj=groups[:, :4],
        imask=groups[:, 4::2],
        excl_ind=groups[:, 5::2],
        excl=file.arrays["excl"].view(np.int32),
        x=x,
    )
    results = []
    options = {"length_unit": b"nm", "energy_unit": b"kJ/mol"}
    for pairs in (file.pairs(1.0), packed):
        with c.Engine(model_file("lennard-jones", cutoff=9.0), {"device": "cpu"}, **options) as e:
            e.set_atoms(np.full(file.n_atoms, 18))
            e.set_pairs([pairs], file.box)
            out = c.buffers(file.n_atoms)
            e.compute(file.positions, file.box, out)
            results.append(out)
    for name, values in results[0].items():
        np.testing.assert_array_equal(values, results[1][name])
    assert results[0]["energy"][0] < -100.0


# --- memory --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save(zoo.pair(), tmp_path_factory.mktemp("zoo"), "pair")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_precision_and_strides_and_adding(dtype: type, pair_model: Path) -> None:
    positions = cluster().astype(dtype)
    n = len(positions)
    with c.Engine(pair_model, {"device": "cpu"}) as engine:
        engine.set_atoms(np.full(n, 6))
        plain = evaluated(engine, positions.astype(np.float64), *NAMES)
        rows = np.full((n, 4), 77.0, dtype=dtype)
        rows[:, :3] = positions
        wide = np.full((n, 5), 3.0, dtype=dtype)
        tensor = np.full((n, 3, 6), -2.0, dtype=dtype)
        out = {
            "forces": wide[:, :3],
            "energy": np.full(1, 5.0, dtype=dtype),
            "virial": np.full((3, 3), 1.0, dtype=dtype).T,
            "energies": np.full((n, 2), 1.0, dtype=dtype)[:, 1],
            "virials": tensor[:, :, ::2],
        }
        before = {name: values.copy() for name, values in out.items()}
        engine.compute(rows[:, :3], BOX, out)
    digits = 1e-6 if dtype == np.float32 else 1e-14
    for name, values in out.items():
        np.testing.assert_allclose(
            values, before[name] + plain[name], rtol=10 * digits, atol=10 * digits, err_msg=name
        )
    assert (rows[:, 3] == 77.0).all()
    assert (wide[:, 3:] == 3.0).all()
    assert (tensor[:, :, 1::2] == -2.0).all()


def test_only_what_has_a_buffer_is_computed(pair_model: Path) -> None:
    positions = cluster()
    with c.Engine(pair_model, {"device": "cpu"}) as engine:
        engine.set_atoms(np.full(len(positions), 6))
        whole = evaluated(engine, positions, *NAMES)
        for name in NAMES:
            out = c.buffers(len(positions), name)
            engine.compute(positions, BOX, out)
            np.testing.assert_allclose(out[name], whole[name], **TOLERANCE)
        engine.compute(positions, BOX, {})


def test_subset_and_selected(pair_model: Path) -> None:
    """The atoms that the model sees, and among them those whose energy counts."""
    positions = cluster()
    types = np.full(len(positions), 6)
    types[[0, 5]] = 99  # nothing that the model knows
    seen = np.flatnonzero(types == 6)
    provider = MetatomicForceProvider(pair_model, device="cpu", tuning=False)
    provider.set_atoms(Atoms(types, subset=seen, selected=seen[:4]))
    provider.set_pairs(Search(0.5), Cell.of(BOX))
    expected = in_python(provider, positions, BOX)
    with c.Engine(pair_model, {"device": "cpu"}) as engine:
        engine.set_atoms(types, subset=seen.astype(np.int32), selected=seen[:4])
        out = evaluated(engine, positions, *NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(out[name], expected[name])
    assert (out["forces"][[0, 5]] == 0.0).all()
    assert np.count_nonzero(out["energies"]) <= 4


def test_cells(pair_model: Path) -> None:
    """No cell, and one that is periodic in a plane only."""
    positions = cluster()
    for pbc in [(False,) * 3, (True, True, False)]:
        cell = np.where(np.array(pbc)[:, None], BOX, 0.0)
        provider = MetatomicForceProvider(pair_model, device="cpu", tuning=False)
        provider.set_atoms(Atoms(np.full(len(positions), 6)))
        provider.set_pairs(Search(0.5), Cell.of(cell, pbc))
        expected = c.buffers(len(positions))
        step = Step(positions, Cell.of(cell, pbc), virial=True)
        provider.compute(step, ForceBuffers(**expected)).synchronize()
        with c.Engine(pair_model, {"device": "cpu"}) as engine:
            engine.set_atoms(np.full(len(positions), 6))
            engine.set_pairs(Search(0.5), cell, pbc)
            out = c.buffers(len(positions))
            engine.compute(positions, cell, out, pbc)
        for name, values in out.items():
            np.testing.assert_array_equal(values, expected[name])


def test_what_was_handed_over_may_be_used_again(pair_model: Path) -> None:
    positions, types = cluster(), np.full(12, 6)
    with c.Engine(pair_model, {"device": "cpu"}) as engine:
        engine.set_atoms(types)
        pairs = c.pairs_like(Search(0.5), BOX)
        engine.set_pairs(pairs, BOX)
        types[:] = -1
        ctypes.memset(ctypes.addressof(pairs), 255, ctypes.sizeof(pairs))
        out = c.buffers(12)
        engine.compute(positions, BOX, out)
        assert np.isfinite(out["forces"]).all()
        # the same description, other coordinates: the view is used again
        again = c.buffers(12)
        positions[0] += 0.1
        engine.compute(positions, BOX, again)
        assert np.abs(again["forces"] - out["forces"]).max() > 1e-6


# --- host memory, and a provider elsewhere -------------------------------------------------------


class Elsewhere:
    """A session whose device is called by another name, so that all host memory is staged."""

    def __init__(self, engine: c.Engine) -> None:
        self.session = table_module._sessions[engine.handle.value]
        self.session.device = torch.device("cpu", 0)
        assert self.session.device != torch.device("cpu")


@pytest.mark.parametrize("kind", ["half", "ghosts", "ghosts by pointers", "matrix", "clusters"])
def test_host_memory_is_staged(
    kind: str, atoms: ase.Atoms, model_file: Callable[..., Path]
) -> None:
    model, cell = model_file("lennard-jones", cutoff=CUTOFF), atoms.cell.array
    pairs, positions = of_kind(kind, atoms)
    found = []
    for staged in (False, True):
        with c.Engine(model, {"device": "cpu"}) as engine:
            engine.set_atoms(np.asarray(atoms.numbers))
            if staged:
                Elsewhere(engine)
            engine.set_pairs(pairs, cell)
            out = c.buffers(len(positions), *NAMES, dtype=np.float32)
            for values in out.values():
                values += 1.0
            engine.compute(positions, cell, out)
            engine.compute(positions, cell, out)
            found.append(out)
    for name in NAMES:
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-6, err_msg=name)
    assert np.abs(found[0]["forces"] - 1.0).max() > 1e-3


def test_nothing_is_added_if_a_staged_buffer_can_not_hold_it(pair_model: Path) -> None:
    """Results come one by one then: all buffers are looked at before."""
    positions = cluster()
    with c.Engine(pair_model, {"device": "cpu"}) as engine:
        engine.set_atoms(np.full(12, 6))
        engine.set_pairs(Search(0.5), BOX)
        Elsewhere(engine)
        out = c.buffers(12, "forces", "energy")
        one = np.zeros((3, 3))
        for bad in (np.broadcast_to(one[:1], (3, 3)), one[:2], np.zeros((3, 3), dtype=np.int64)):
            with pytest.raises(c.Failure) as caught:
                engine.compute(positions, BOX, {**out, "virial": bad})
            assert caught.value.code == c.INPUT
            assert not out["forces"].any()
            assert not out["energy"].any()
