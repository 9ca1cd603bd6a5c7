"""What a C caller does wrong: a code, a message that helps, and nothing added anywhere."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import c_callers as c
import numpy as np
import pytest
from c_callers import BOX, N, opened, places, refused
from test_delivery import Late

from alchemi_bridge import ClusterPairs, FullPairs, HalfPairs, Search
from alchemi_bridge import errors as e
from alchemi_bridge.engines.interface import session as session_module
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface import table as table_module

Change = Callable[[Any], object]


@pytest.fixture
def engine(models: Callable[[str], Path]) -> Iterator[c.Engine]:
    """One that is ready for a step."""
    with c.Engine(models("pair"), {"device": "cpu"}) as found:
        found.set_atoms(np.full(N, 6))
        found.set_pairs(Search(0.5), BOX)
        yield found


# --- codes ---------------------------------------------------------------------------------------


def test_every_error_of_the_bridge_has_a_code() -> None:
    """All classes but those of several ranks and of ensembles: no provider raises them."""
    kinds = [k for k in vars(e).values() if isinstance(k, type) and issubclass(k, e.BridgeError)]
    without = {k for k in kinds if not issubclass(k, tuple(kind for kind, _ in structs.CODES))}
    ensembles = {e.WorkerDiedError, e.NotReadyError, e.NonFiniteStepError}
    assert without == {e.BridgeError, e.RankFailedError} | ensembles


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (e.ShapeError, c.INPUT),
        (e.OverlapError, c.INPUT),
        (e.PairListError, c.PAIRS),
        (e.StalePairsError, c.STALE),
        (e.UntrustedModelError, c.MODEL),
        (e.MissingInputError, c.MODEL),
        (e.ConfigurationError, c.CONFIGURATION),
        (e.UnitError, c.CONFIGURATION),
        (e.ProtocolError, c.PROTOCOL),
        (e.RankFailedError, c.INTERNAL),
    ],
)
def test_code_of_each_kind(
    kind: type[e.BridgeError], code: int, engine: c.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise kind("this", expected="one", got="another", fix="change it")

    monkeypatch.setattr(session_module.Session, "compute", fail)
    with refused(code, "this: expected one, got another; change it"):
        engine.compute(places(), BOX, c.buffers(N))


class Mute(Exception):
    """One that can not even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("torch says no"),
        KeyboardInterrupt(),
        SystemExit(3),
        MemoryError(),
        RecursionError("deep"),
        Mute(),
        e.ModelLoadError("file '\udcff.pt'", expected="one", got="none", fix="name it"),
        ValueError("not UTF-8: \udc80"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("function", ["open", "requirements", "set_atoms", "set_pairs", "compute"])
def test_nothing_else_crosses(
    error: BaseException, function: str, engine: c.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No exception is lost on the way: ctypes would print it and return AB_OK."""

    def fail(*_: object, **__: object) -> None:
        raise error

    calls = {
        "open": lambda: opened("model.pt"),
        "requirements": engine.requirements,
        "set_atoms": lambda: engine.set_atoms(np.full(N, 6)),
        "set_pairs": lambda: engine.set_pairs(Search(0.5), BOX),
        "compute": lambda: engine.compute(places(), BOX, c.buffers(N)),
    }
    where = {"open": "__init__", "requirements": "__init__"}
    if function == "requirements":
        monkeypatch.setattr(table_module, "_facts_of", fail)
    else:
        monkeypatch.setattr(session_module.Session, where.get(function, function), fail)
    with refused(c.MODEL if isinstance(error, e.BridgeError) else c.INTERNAL):
        calls[function]()
    assert c.message()


# --- versions and sizes --------------------------------------------------------------------------


def sizes(kind: type) -> list[int]:
    size = ctypes.sizeof(kind)
    return [0, 4, 7, 12, size - 4, size + 8, 2**31]


@pytest.mark.parametrize("name", ["Atoms", "Pairs", "Step", "Buffers", "Requirements", "Options"])
def test_wrong_sizes(name: str, engine: c.Engine) -> None:
    kind = getattr(structs, name)
    functions, handle = engine.functions, engine.handle
    step, out, other = c.sized(structs.Step), c.sized(structs.Buffers), ctypes.c_void_p()
    calls: dict[str, Callable[[Any], int]] = {
        "Atoms": lambda given: functions.set_atoms(handle, given),
        "Pairs": lambda given: functions.set_pairs(handle, given),
        "Step": lambda given: functions.compute(handle, given, out),
        "Buffers": lambda given: functions.compute(handle, step, given),
        "Requirements": lambda given: functions.requirements(handle, given),
        "Options": lambda given: functions.open(given, ctypes.byref(other)),
    }
    for size in sizes(kind):
        with refused(c.VERSION, "struct_size", str(size), "sizeof"):
            c.check(calls[name](kind(struct_size=size)))


@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
def test_wrong_version(version: int, models: Callable[[str], Path]) -> None:
    with refused(c.VERSION, f"got {version}", "header"):
        opened(models("pair"), version=version)


def prefix(whole: Any, size: int) -> Any:
    """An older, shorter structure, and beyond its end what must not be read."""
    memory = ctypes.create_string_buffer(b"\xff" * (ctypes.sizeof(whole) + 64))
    ctypes.memmove(memory, ctypes.addressof(whole), size)
    found = type(whole).from_buffer(memory)
    found.struct_size = size
    found.kept_too = (memory, whole)
    return found


def test_older_structures(engine: c.Engine, models: Callable[[str], Path]) -> None:
    """What they do not have yet is not given."""
    functions, handle = engine.functions, engine.handle
    atoms = c.sized(structs.Atoms, types=np.full(N, 6))
    c.check(functions.set_atoms(handle, prefix(atoms, structs.Atoms.subset.offset)))
    pairs = c.pairs_like(Search(0.5), BOX)
    c.check(functions.set_pairs(handle, prefix(pairs, structs.Pairs.first.offset)))
    step = c.sized(structs.Step, positions=places(), cell=BOX, periodic=[1, 1, 1])
    forces = c.buffers(N)
    out = c.sized(structs.Buffers, **forces)
    short = prefix(out, structs.Buffers.energy.offset)
    c.check(functions.compute(handle, prefix(step, structs.Step.inputs.offset), short))
    assert forces["forces"].any()
    assert not forces["energy"].any()
    needs = prefix(structs.Requirements(), structs.Requirements.energies.offset)
    c.check(functions.requirements(handle, needs))
    assert needs.pair_range == 3.0
    assert (needs.energies, needs.n_types) == (-1, -1)  # not written beyond the end
    options = c.sized(structs.Options, version=1, model=str(models("pair")).encode())
    other = ctypes.c_void_p()
    c.check(functions.open(prefix(options, structs.Options.keywords.offset), ctypes.byref(other)))
    functions.close(other)


def test_next_list_is_read_as_carefully(engine: c.Engine) -> None:
    words = np.zeros((0, 4), dtype=np.int32)
    masks = np.zeros((0, 2), dtype=np.int32)
    index = np.full(64, -1, dtype=np.int32)
    index[:N] = range(N)
    x = np.zeros((64, 3))
    x[:N] = places()
    pairs = ClusterPairs(words, words, masks, masks, np.zeros((1, 32), np.int32), index, x, 3.5)
    found = c.pairs_like([pairs, pairs], BOX)
    found.following.struct_size = 12
    with refused(c.VERSION, "next pair list"):
        engine.set_pairs(found, BOX)
    found.following.struct_size = ctypes.sizeof(structs.Pairs)
    found.following.kind = structs.SEARCH
    with refused(c.PAIRS, "next pair list"):
        engine.set_pairs(found, BOX)
    found.next = ctypes.addressof(found)
    with refused(c.PAIRS, "leads back to itself"):
        engine.set_pairs(found, BOX)
    search = c.pairs_like(Search(0.5), BOX)
    search.next = ctypes.addressof(search)
    with refused(c.PAIRS, "kind 0 with another one"):
        engine.set_pairs(search, BOX)


# --- null pointers, handles, order ---------------------------------------------------------------


def test_null_everywhere(engine: c.Engine, models: Callable[[str], Path]) -> None:
    functions, handle = engine.functions, engine.handle
    step, out = c.sized(structs.Step), c.sized(structs.Buffers)
    for call in (
        lambda: functions.open(None, ctypes.byref(ctypes.c_void_p())),
        lambda: functions.open(c.sized(structs.Options), None),
        lambda: functions.requirements(handle, None),
        lambda: functions.set_atoms(handle, None),
        lambda: functions.set_pairs(handle, None),
        lambda: functions.compute(handle, None, out),
        lambda: functions.compute(handle, step, None),
        lambda: functions.requirements(None, c.sized(structs.Requirements)),
        lambda: functions.set_atoms(None, c.sized(structs.Atoms)),
        lambda: functions.set_pairs(None, c.sized(structs.Pairs)),
        lambda: functions.compute(None, step, out),
        lambda: functions.finish(None),
    ):
        with refused(c.PROTOCOL, "NULL"):
            c.check(call())
    functions.close(None)
    with refused(c.CONFIGURATION, "model", "NULL"):
        c.Engine(None)
    with refused(c.PROTOCOL, "keywords"):
        opened(models("pair"), keywords=None, n_keywords=2)
    with refused(c.PROTOCOL, "keywords"):
        opened(models("pair"), n_keywords=-1)
    for words in ((None, b"cpu"), (b"device", None)):
        with refused(c.CONFIGURATION, "NULL"):
            opened(models("pair"), keywords=(ctypes.c_char_p * 2)(*words), n_keywords=1)
    for fields in ({"n_inputs": 1}, {"n_inputs": -1}):
        with refused(c.PROTOCOL, "inputs"):
            engine.set_atoms(np.full(N, 6), **fields)
        with refused(c.PROTOCOL, "inputs"):
            engine.compute(places(), BOX, c.buffers(N), **fields)
    nameless = c.inputs({"charge": (np.zeros(N), "e")})
    nameless["inputs"][0].name = None
    with refused(c.CONFIGURATION, "name of inputs[0]"):
        engine.set_atoms(np.full(N, 6), **nameless)


def test_handles(engine: c.Engine, models: Callable[[str], Path]) -> None:
    functions = engine.functions
    other = c.Engine(models("pair"), {"device": "cpu"})
    closed = other.handle.value
    other.close()
    other.close()
    for handle in (closed, 123456, ctypes.addressof(engine.handle)):
        with refused(c.PROTOCOL, "opened and not closed", f"{handle:#x}"):
            c.check(functions.set_atoms(handle, c.sized(structs.Atoms)))
        functions.close(handle)
    engine.compute(places(), BOX, c.buffers(N))  # not disturbed


def test_a_failed_open_gives_no_provider(tmp_path: Path) -> None:
    handle = ctypes.c_void_p(77)
    options = c.sized(structs.Options, version=1, model=str(tmp_path / "none.pt").encode())
    with refused(c.MODEL, "none.pt"):
        c.check(c.table().open(options, ctypes.byref(handle)))
    assert handle.value is None


def test_order(models: Callable[[str], Path]) -> None:
    with c.Engine(models("pair"), {"device": "cpu"}) as engine:
        out = c.buffers(N)
        with refused(c.PROTOCOL, "set_atoms"):
            engine.set_pairs(Search(0.5), BOX)
        with refused(c.PROTOCOL, "set_atoms"):
            engine.compute(places(), BOX, out)
        with refused(c.PROTOCOL, "types", "none"):
            engine.set_atoms(None)
        engine.set_atoms(np.full(N, 6))
        with refused(c.PROTOCOL, "set_pairs"):
            engine.compute(places(), BOX, out)
        engine.set_pairs(Search(0.5), BOX)
        with refused(c.PROTOCOL, "positions", "none"):
            engine.compute(None, BOX, out)
        engine.compute(places(), BOX, out)
        engine.set_atoms(np.full(N, 6))
        with refused(c.PROTOCOL, "set_pairs"):
            engine.compute(places(), BOX, out)


# --- arrays --------------------------------------------------------------------------------------


BAD_ARRAYS: dict[str, tuple[Change, str]] = {
    "no type": (lambda a: setattr(a, "dtype", 0), "AB_ABSENT"),
    "unknown type": (lambda a: setattr(a, "dtype", 9), "ab_dtype"),
    "negative type": (lambda a: setattr(a, "dtype", -1), "ab_dtype"),
    "integers": (lambda a: setattr(a, "dtype", 4), "float32 or float64"),
    "no address": (lambda a: setattr(a, "data", None), "null pointer"),
    "misaligned": (lambda a: setattr(a, "data", a.data + 4), "aligned"),
    "no axes": (lambda a: setattr(a, "ndim", 0), "ndim"),
    "four axes": (lambda a: setattr(a, "ndim", 4), "ndim"),
    "one axis": (lambda a: setattr(a, "ndim", 1), "shape"),
    "memory of nowhere": (lambda a: setattr(a, "memory", 7), "memory"),
    "negative extent": (lambda a: a.extent.__setitem__(0, -8), "non-negative"),
    "negative stride": (lambda a: a.stride.__setitem__(1, -1), "negative strides"),
    "too few rows": (lambda a: a.extent.__setitem__(0, N - 1), "n_atoms"),
    "no such device": (lambda a: (setattr(a, "memory", 1), setattr(a, "device", 63)), "cuda:63"),
}


@pytest.mark.parametrize("bad", BAD_ARRAYS)
@pytest.mark.parametrize("name", ["positions", "forces"])
def test_bad_arrays(name: str, bad: str, engine: c.Engine) -> None:
    change, words = BAD_ARRAYS[bad]
    out = c.buffers(N)
    step = c.sized(structs.Step, positions=places(), cell=BOX, periodic=[1, 1, 1])
    given = c.sized(structs.Buffers, **out)
    change(getattr(step if name == "positions" else given, name))
    with refused(c.INPUT, words):
        c.check(engine.functions.compute(engine.handle, step, given))
    assert not any(values.any() for values in out.values())


def test_unfinished_pair_lists(engine: c.Engine) -> None:
    """Kinds that do not exist, and lists without their arrays."""
    for kind in (-1, 6):
        pairs = c.pairs_like(Search(0.5), BOX)
        pairs.kind = kind
        with refused(c.PAIRS, "kind of pair list"):
            engine.set_pairs(pairs, BOX)
    for kind in range(1, 6):
        pairs = c.sized(structs.Pairs, kind=kind, reach=3.5, cell=BOX, periodic=[1, 1, 1])
        with pytest.raises(c.Failure) as caught:
            engine.set_pairs(pairs, BOX)
        assert caught.value.code in (c.INPUT, c.PAIRS, c.CONFIGURATION), (kind, caught.value)
    indices = np.array([0, N], dtype=np.int32)
    wrong = HalfPairs(indices, indices[::-1].copy(), np.zeros((2, 3), dtype=np.int32), 3.5)
    with refused(c.PAIRS, "indices from 0 to"):
        engine.set_pairs(wrong, BOX)
    with refused(c.INPUT, "cell"):
        engine.set_pairs(Search(0.5), np.zeros((3, 3)))


# --- nothing is added ----------------------------------------------------------------------------


def steps_that_fail() -> dict[str, tuple[int, Callable[[dict[str, Any]], object]]]:
    bad = places()
    bad[3, 1] = np.nan
    same = places()
    same[2] = same[5]
    return {
        "not finite": (c.INPUT, lambda given: given.update(positions=bad)),
        "overlap": (c.INPUT, lambda given: given.update(positions=same)),
        "cell": (c.INPUT, lambda given: given.update(cell=np.zeros((3, 3)))),
        "done": (c.INPUT, lambda given: given.update(done=4096)),
        "ready": (c.INPUT, lambda given: given.update(ready=4096)),
        "negative count": (c.PROTOCOL, lambda given: given.update(n_inputs=-3)),
    }


@pytest.mark.parametrize("name", steps_that_fail())
def test_nothing_is_added_by_a_step_that_fails(name: str, engine: c.Engine) -> None:
    code, change = steps_that_fail()[name]
    given: dict[str, Any] = {"positions": places(), "cell": BOX}
    change(given)
    out = {name: values + 3.0 for name, values in c.buffers(N).items()}
    with refused(code):
        engine.compute(given.pop("positions"), given.pop("cell"), out, **given)
    for values in out.values():
        assert (values == 3.0).all()
    engine.compute(places(), BOX, out)  # and the next one is right
    assert (out["forces"] != 3.0).any()


@pytest.mark.parametrize(("name", "code"), [("nan_energy", c.MODEL), ("raises", c.MODEL)])
def test_models_that_fail(name: str, code: int, models: Callable[[str], Path]) -> None:
    positions = np.array([[1.0, 1.0, 1.0], [1.6, 1.0, 1.0]])
    with c.Engine(models(name), {"device": "cpu"}) as engine:
        engine.set_atoms(np.full(2, 6))
        engine.set_pairs(Search(0.5), BOX)
        out = c.buffers(2)
        with refused(code):
            engine.compute(positions, BOX, out)
        assert not any(values.any() for values in out.values())


def test_what_the_device_finds_after_the_last_step(engine: c.Engine) -> None:
    """``finish`` says it once; on a host there is nothing to say."""
    engine.finish()
    engine.compute(places(), BOX, c.buffers(N))
    engine.finish()
    provider = table_module._sessions[engine.handle.value].provider
    provider._delivery._open = Late(float("nan"))
    with refused(c.MODEL, "forces of the model", "NaN"):
        engine.finish()
    engine.finish()
    engine.compute(places(), BOX, c.buffers(N))


def test_stale_list(models: Callable[[str], Path]) -> None:
    positions = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]])
    one = np.array([0, 1], dtype=np.int32)
    pairs = FullPairs(one, one[::-1].copy(), np.zeros((2, 3), dtype=np.int32), 3.5)
    with c.Engine(models("pair"), {"device": "cpu"}) as engine:
        engine.set_atoms(np.full(2, 6))
        engine.set_pairs(pairs, BOX)
        out = c.buffers(2)
        engine.compute(positions, BOX, out)
        before = out["forces"].copy()
        positions[1, 1] += 0.9
        with refused(c.STALE, "set_pairs"):
            engine.compute(positions, BOX, out)
        np.testing.assert_array_equal(out["forces"], before)


def test_inputs_twice(models: Callable[[str], Path], engine: c.Engine) -> None:
    given = c.inputs({"charge": (np.zeros(N), "e"), "mass": (np.zeros(N), "u")})
    given["inputs"][1].name = b"charge"
    with refused(c.INPUT, "'charge'", "twice"):
        engine.set_atoms(np.full(N, 6), **given)


def test_a_list_that_is_refused_changes_nothing(engine: c.Engine) -> None:
    before, after = c.buffers(N), c.buffers(N)
    engine.compute(places(), BOX, before)
    indices = np.array([0, N], dtype=np.int32)
    wrong = HalfPairs(indices, indices[::-1].copy(), np.zeros((2, 3), dtype=np.int32), 3.5)
    with refused(c.PAIRS):
        engine.set_pairs(wrong, BOX)
    engine.compute(places(), BOX, after)
    for name, values in after.items():
        np.testing.assert_allclose(values, before[name], rtol=1e-12, atol=1e-13)
