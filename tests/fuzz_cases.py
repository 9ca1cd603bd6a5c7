"""Strategies for the fuzz tests: half plausible and half absurd, so that both ends are reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

#: Numbers at the edges of what floats can hold, and beyond.
WILD = (0.0, -0.0, 1e-5, 5e-324, 1e-310, 1e7, -1e7, 1.1e7, 1e12, 1e154, -1e300, 1e300)
WILD += (1.7976931348623157e308, float("nan"), float("inf"), float("-inf"))
DTYPES = ("float64", "float32", "float16", "int64", "int32", "complex128", "object", "U4", ">f8")
NUMBERS = (18, 36)


@dataclass(frozen=True)
class Case:
    """What an engine might hand over for one step."""

    types: Any
    positions: Any
    cell: Any
    pbc: Any
    skin: Any
    subset: Any
    selected: Any


def sometimes(draw: st.DrawFn, chance: int) -> bool:
    """True once in ``chance`` times."""
    return draw(st.integers(0, chance - 1)) == 0


def generator(draw: st.DrawFn) -> np.random.Generator:
    """Bulk numbers come from a seeded generator: drawing each by itself would take the time."""
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def converted(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return array.astype(dtype)


@st.composite
def types_arrays(draw: st.DrawFn, n_atoms: int) -> Any:
    types = generator(draw).choice(NUMBERS, n_atoms).astype(draw(st.sampled_from(["i4", "i8"])))
    if n_atoms and sometimes(draw, 8):
        types[draw(st.integers(0, n_atoms - 1))] = draw(
            st.sampled_from([0, -1, 119, 1000, 2**31 - 1, -(2**31), 17])
        )
    if sometimes(draw, 20):
        types = converted(types, draw(st.sampled_from(DTYPES)))
    return types


@st.composite
def position_arrays(draw: st.DrawFn, n_atoms: int) -> Any:
    rng = generator(draw)
    span = draw(st.sampled_from([8.0, 8.0, 12.0, 40.0, 1e3, 1e-4]))
    positions = rng.uniform(-0.5, 1.0, (n_atoms, 3)) * span
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2])) if n_atoms else 0):
        where = draw(st.integers(0, n_atoms - 1)), draw(st.integers(0, 2))
        positions[where] = draw(st.one_of(st.sampled_from(WILD), st.floats(width=64)))
    if n_atoms > 1 and sometimes(draw, 8):
        positions[0] = positions[-1]  # coincident
    layout = draw(st.sampled_from(["c", "c", "c", "f", "padded", "reversed", "broadcast", "read"]))
    if layout == "f":
        positions = np.asfortranarray(positions)
    elif layout == "padded":
        wide = np.full((n_atoms, 4), np.nan)
        wide[:, :3] = positions
        positions = wide[:, :3]
    elif layout == "reversed":
        positions = positions[::-1]
    elif layout == "broadcast" and n_atoms:
        positions = np.broadcast_to(positions[:1], (n_atoms, 3))
    elif layout == "read":
        positions.flags.writeable = False
    if sometimes(draw, 8):
        dtype = draw(st.sampled_from(DTYPES))
        positions = converted(positions, dtype)
    if sometimes(draw, 20):
        shapes = [(n_atoms, 2), (n_atoms + 1, 3), (3 * n_atoms,), (n_atoms, 3, 1), (0, 3), ()]
        positions = np.zeros(draw(st.sampled_from(shapes)))
    return positions


@st.composite
def cells(draw: st.DrawFn) -> tuple[Any, Any]:
    rng = generator(draw)
    pbc: Any = tuple(bool(b) for b in rng.integers(0, 2, 3))
    if sometimes(draw, 3):
        pbc = True
    kind = draw(st.sampled_from([*["box", "triclinic"] * 4, "left", "flat", "tiny", "huge", "odd"]))
    cell: Any = np.diag(rng.uniform(3.0, 14.0, 3))
    if kind in ("triclinic", "left", "flat"):
        cell = cell + rng.uniform(-2.0, 2.0, (3, 3))
    if kind == "left":
        cell = cell[[1, 0, 2]]
    elif kind == "flat":
        cell[2] = cell[0] + cell[1] + rng.normal(size=3) * 10.0 ** draw(st.integers(-12, 0))
    elif kind in ("tiny", "huge"):
        sign = -1 if kind == "tiny" else 1
        cell = cell * 10.0 ** (sign * draw(st.sampled_from([1, 2, 3, 6, 20, 100, 200, 300])))
    elif kind == "odd":
        cell[draw(st.integers(0, 2)), draw(st.integers(0, 2))] = draw(st.sampled_from(WILD))
    if sometimes(draw, 12):
        cell[draw(st.integers(0, 2))] = 0.0
    if sometimes(draw, 25):
        wrong = [None, "box", cell[:2], converted(cell, "c16"), [[1], [2, 3]], 7.0, {}]
        cell = draw(st.sampled_from(wrong))
    if sometimes(draw, 25):
        pbc = draw(st.sampled_from([None, "xyz", (True, False), [0, 1, 2], np.nan, [[1], [2, 3]]]))
    return cell, pbc


@st.composite
def groups(draw: st.DrawFn, n_atoms: int) -> Any:
    """A subset of atoms, or something that is none."""
    if not sometimes(draw, 4):
        return None
    if sometimes(draw, 4):
        return draw(
            st.sampled_from(
                [np.array([0, 0]), np.array([-1]), np.array([n_atoms]), np.array([0.5]), [0], "all"]
            )
        )
    size = draw(st.integers(0, n_atoms))
    return generator(draw).permutation(n_atoms)[:size]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_atoms = draw(st.integers(0, 12))
    cell, pbc = draw(cells())
    skin = 1.0
    if sometimes(draw, 6):
        skin = draw(st.one_of(st.sampled_from([*WILD, "1", None]), st.floats(0.0, 3.0)))
    return Case(
        types=draw(types_arrays(n_atoms)),
        positions=draw(position_arrays(n_atoms)),
        cell=cell,
        pbc=pbc,
        skin=skin,
        subset=draw(groups(n_atoms)),
        selected=draw(groups(n_atoms)) if sometimes(draw, 2) else None,
    )


@dataclass(frozen=True)
class ListCase:
    """Atoms in plausible places, and a pair list that may be anything."""

    positions: np.ndarray
    cell: np.ndarray
    full: bool
    first: Any
    second: Any
    shifts: Any
    reach: Any


@st.composite
def list_cases(draw: st.DrawFn) -> ListCase:
    rng = generator(draw)
    n_atoms = draw(st.integers(1, 12))
    n_pairs = draw(st.integers(0, 20))
    full = draw(st.booleans())
    integers = draw(st.sampled_from(["i4", "i8"]))
    first, second = (rng.integers(0, n_atoms, n_pairs).astype(integers) for _ in range(2))
    shifts: Any = rng.integers(-1, 2, (n_pairs, 3)).astype(integers)
    if full and not sometimes(draw, 4):
        keep = (first != second) | (shifts != 0).any(axis=1)
        first, second, shifts = first[keep], second[keep], shifts[keep]
        first, second = np.concatenate([first, second]), np.concatenate([second, first])
        shifts = np.concatenate([shifts, -shifts])
    if len(first) and sometimes(draw, 6):
        info = np.iinfo(integers)
        extremes = [n_atoms, -1, info.max, info.min]
        draw(st.sampled_from([first, second]))[0] = draw(st.sampled_from(extremes))
    if len(first) and sometimes(draw, 6):
        info = np.iinfo(integers)
        shifts[0, draw(st.integers(0, 2))] = draw(
            st.sampled_from([info.max, info.min, 2**30 - 1, 2**30, 1000])
        )
    if sometimes(draw, 8):
        shifts = draw(st.sampled_from([None, shifts[:, :2], shifts.astype(float), shifts.T, "0"]))
    if sometimes(draw, 20):
        first = draw(st.sampled_from([first[:1], first.astype(float), first[:, None], None]))
    reach = draw(st.sampled_from([6.0, 6.0, 6.0, 6.0, 5.0, 4.99, -1.0, *WILD, None]))
    return ListCase(
        positions=rng.uniform(0.0, 9.0, (n_atoms, 3)),
        cell=np.diag(rng.uniform(6.0, 9.0, 3)),
        full=full,
        first=first,
        second=second,
        shifts=shifts,
        reach=reach,
    )


def anything() -> st.SearchStrategy[Any]:
    """Values of all kinds, for options."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.floats(),
        st.text(max_size=12),
        st.binary(max_size=8),
        st.sampled_from([[], {}, (), [1], {"a": 1}, object(), 1j, np.ones(2), 10**400]),
    )


def unit_text() -> st.SearchStrategy[str]:
    """Strings that look like units, more or less."""
    words = "eV angstrom nm kJ mol Hartree u s * / ^ ( ) 2 -1 0 1e308 .5 Å K"
    part = st.sampled_from([*words.split(" "), " ", "\x00"])
    return st.lists(part, max_size=8).map("".join)


def device_text() -> st.SearchStrategy[str]:
    """Strings that look like devices, more or less."""
    kinds = st.sampled_from(["cpu", "cuda", "mps", "meta", "xla", "CPU", "", "gpu", "cpu "])
    index = st.sampled_from(["", ":", ":0", ":1", ":-1", ":256", ":99999999999999999999", ":x"])
    return st.tuples(kinds, index).map("".join)
