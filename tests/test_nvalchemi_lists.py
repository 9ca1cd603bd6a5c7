"""Lists of nvalchemi's hook in dynamics: the numbers of the own search, or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nvalchemi_parts import QUIET, crystal, engine, hot

from alchemi_bridge.errors import BridgeError, PairListError
from alchemi_bridge.pairs import FullPairs

nv = engine()

from nvalchemi.dynamics import NPT, NVE, NVTLangevin  # noqa: E402
from nvalchemi.neighbors import compute_neighbors  # noqa: E402

ModelFile = Callable[..., Path]

pytestmark = QUIET

#: The same pairs in another order, through some hundred steps.
SAME = 1e-9


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """nvalchemi has torch compile its hook, for half a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


def structures() -> list[Any]:
    return [hot((k, 1, 1), 80.0, seed=k) for k in (1, 2, 3)]


@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_dynamics_as_with_the_own_search(skin: float, model_file: ModelFile) -> None:
    """Through rebuilds, also of atoms that leave the cell."""
    path, found = model_file("lennard-jones"), {}
    for neighbors in ("own", "batch"):
        model = nv.MetatomicModel(path, neighbors=neighbors, skin=skin)
        dynamics = NVE(model, dt=4.0, hooks=model.make_neighbor_hooks())
        batch = nv.make_batch(structures())
        batch.velocities += 0.01  # all drift, through the faces of the cells
        nv.prime(dynamics, batch)
        dynamics.run(batch, n_steps=150)
        found[neighbors] = batch
        assert model._geometry.searches > (3 if neighbors == "own" else 1)
    for name in ("positions", "forces", "energy"):
        torch.testing.assert_close(found["batch"][name], found["own"][name], rtol=0, atol=SAME)


def test_cells_that_change(model_file: ModelFile) -> None:
    """As long as the hook's lists are complete."""
    path, found = model_file("lennard-jones"), {}
    for neighbors in ("own", "batch"):
        model = nv.MetatomicModel(path, stress=True, neighbors=neighbors, skin=0.0)
        dynamics = NPT(
            model,
            dt=2.0,
            temperature=40.0,
            pressure=0.001,
            barostat_time=400.0,
            thermostat_time=100.0,
            hooks=[nv.CellHook(), *model.make_neighbor_hooks()],
        )
        batch = nv.make_batch(structures(), stress=True)
        nv.prime(dynamics, batch)
        before = batch.cell.clone()
        dynamics.run(batch, n_steps=60)
        assert float((batch.cell - before).abs().max()) > 0.01
        found[neighbors] = batch
    for name in ("positions", "cell", "forces", "energy"):
        torch.testing.assert_close(found["batch"][name], found["own"][name], rtol=0, atol=SAME)


@pytest.mark.parametrize(
    ("method", "shape"), [(None, [1.3, 1.3, 0.55]), ("cell_list", [1.2, 1.2, 0.7])]
)
def test_list_for_other_cells(
    method: str | None, shape: list[float], model_file: ModelFile
) -> None:
    """A batch of the same shape with flatter cells, as after a refill: the hook misses images."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch", skin=0.0)
    (hook,) = model.make_neighbor_hooks(neighbor_list_method=method)
    wide, flat = (crystal("lennard-jones", (1, 1, 1), seed=0) for _ in range(2))
    flat.set_cell(flat.cell.array * shape, scale_atoms=True)

    class Context:
        batch = nv.make_batch([wide])

    hook(Context, hook.stage)
    model(Context.batch)
    Context.batch = nv.make_batch([flat])
    hook(Context, hook.stage)
    with pytest.raises(PairListError, match=r"neighbor_list of system 0: .*\(neighbors='own'\)"):
        model(Context.batch)


def _argon(*repeats: int) -> list[Any]:
    return [crystal("lennard-jones", (n, 1, 1), seed=k) for k, n in enumerate(repeats)]


@pytest.mark.parametrize("skin", [0.0, 1.0])
def test_sizes_that_change_in_a_run(skin: float, model_file: ModelFile) -> None:
    """As many atoms and systems as before, in other cells: the hook keeps its layout."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch", skin=skin)
    dynamics = NVE(model, dt=1.0, hooks=model.make_neighbor_hooks())
    first, second = (nv.make_batch(_argon(*repeats)) for repeats in ((1, 7), (7, 1)))
    for batch in (first, second):
        nv.prime(dynamics, batch)  # the first list of either is complete
        if batch is first:
            dynamics.run(batch, n_steps=1)
    with pytest.raises(PairListError, match="neighbor_list of system 1: "):
        dynamics.run(second, n_steps=1)


@pytest.mark.parametrize("method", [None, "batch_naive", "batch_cell_list"])
def test_sizes_that_change_and_change_back(method: str | None, model_file: ModelFile) -> None:
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch", skin=0.0)
    (hook,) = model.make_neighbor_hooks(neighbor_list_method=method)

    class Context:
        batch = nv.make_batch(_argon(4, 4))

    hook(Context, hook.stage)
    model(Context.batch)
    for repeats in ((1, 7), (7, 1)):
        Context.batch = nv.make_batch(_argon(*repeats))
        hook(Context, hook.stage)
        with pytest.raises(PairListError, match=r"neighbor_list of system \d: "):
            model(Context.batch)


def test_first_list_of_a_batch(model_file: ModelFile) -> None:
    """It is believed no more than any other."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch", skin=0.0)
    batch = nv.make_batch(_argon(1, 2))
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    random = torch.Generator().manual_seed(0)
    batch.positions += 0.2 * torch.randn(batch.positions.shape, generator=random).double()
    with pytest.raises(PairListError, match=r"neighbor_list of system \d: .* without \d+ of them"):
        model(batch)
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    model(batch)


@pytest.mark.parametrize("model_name", ["lennard-jones", "stillinger-weber"])
def test_one_pair_is_missing(model_name: str, model_file: ModelFile) -> None:
    """In both directions, of half and of full lists, of atoms that were wrapped before."""
    model = nv.MetatomicModel(model_file(model_name), neighbors="batch", skin=0.0)
    batch = nv.make_batch([crystal(model_name, (k, 1, 1), k) for k in (1, 2)])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    model(batch)
    first, last = batch.num_nodes_list[0], batch.num_nodes - 1
    batch.positions[last] += batch.cell[1, 0]
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    model(batch)
    pairs, shifts = batch.neighbor_list, batch.neighbor_list_shifts
    vectors = batch.positions[pairs[:, 1]] - batch.positions[pairs[:, 0]]
    vectors += shifts.double() @ batch.cell[1]
    mine = (pairs == last).any(dim=1)
    lengths = torch.linalg.vector_norm(vectors, dim=1).where(mine, torch.inf)
    shortest = lengths <= lengths.min() * (1.0 + SAME)
    assert int(shortest.sum()) == 2
    keep = ~shortest
    systems = model._reader.systems(batch)
    given = FullPairs(pairs[keep, 0], pairs[keep, 1], shifts[keep], 100.0)
    with pytest.raises(PairListError, match=rf"of system 1: .* {last - first} "):
        model._evaluate(systems, given)


def _with(pairs: torch.Tensor, shifts: torch.Tensor, *rows: list[int]) -> tuple[Any, Any]:
    """The list with more rows ``[first, second, shift]``."""
    more = torch.tensor(rows, dtype=pairs.dtype)
    return torch.cat([pairs, more[:, :2]]), torch.cat([shifts, more[:, 2:].to(shifts.dtype)])


def _handed(batch: Any, pairs: torch.Tensor, shifts: torch.Tensor) -> SimpleNamespace:
    """A batch with another list, which nvalchemi's own may refuse to hold."""
    names = ("positions", "atomic_numbers", "cell", "pbc", "num_nodes_list")
    known = {name: getattr(batch, name) for name in names}
    return SimpleNamespace(**known, neighbor_list=pairs, neighbor_list_shifts=shifts)


#: What somebody may hand over, for systems of 4 and 8 atoms, and what is said of it.
WRONG = {
    "one dimension": (lambda p, s: (p[:, 0], s), r"of the batch: expected shape \(n_pairs, 2\)"),
    "three columns": (lambda p, s: (torch.cat([p, p[:, :1]], dim=1), s), r"got shape .* 3\);"),
    "transposed": (lambda p, s: (p.T, s), r"neighbor_list of the batch: .* not transposed"),
    "shifts of fewer": (lambda p, s: (p, s[1:]), r"shifts of the batch: expected shape \(\d+, 3\)"),
    "floats": (lambda p, s: (p.double(), s), r"of the batch: expected int32 or int64, got float64"),
    "no shifts": (lambda p, s: (p, None), "_shifts of the batch: .* system 0 is periodic"),
    "bool shifts": (lambda p, s: (p, s.bool()), "_shifts of the batch: .* got bool"),
    "vectors": (lambda p, s: (p, s + 0.4), r"_shifts of the batch: .* such as -?\d.[46]; "),
    "NaN": (lambda p, s: (p, s * torch.nan), "_shifts of the batch: .* such as nan; "),
    "padding": (lambda p, s: _with(p, s, [12, 12, 0, 0, 0]), "of the batch: expected atoms from 0"),
    "half padding": (lambda p, s: _with(p, s, [5, -1, 0, 0, 0]), "of system 1: .* 0 to 11"),
    "two systems": (
        lambda p, s: _with(p, s, [1, 5, 0, 0, 0], [5, 1, 0, 0, 0]),
        "of system 0: expected pairs of atoms of the same system, .* atom 5 of system 1",
    ),
    "itself": (lambda p, s: _with(p, s, [5, 5, 0, 0, 0]), "of system 1: .* paired with itself"),
    "twice": (
        lambda p, s: _with(p, s, [*p[-1].tolist(), *s[-1].tolist()]),
        "of system 1: expected every pair once",
    ),
    "half": (
        lambda p, s: (p[p[:, 0] < p[:, 1]], s[p[:, 0] < p[:, 1]]),
        r"of system 0: .* also \(j, i, -S\), .*half_list=False",
    ),
    "nothing": (lambda p, s: (p[:0], s[:0]), "of system 0: expected all pairs"),
}


@pytest.mark.parametrize("name", WRONG)
def test_lists_that_can_not_be_used(name: str, model_file: ModelFile) -> None:
    """The error says which system it is, and what a user of nvalchemi can do."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch", skin=0.0)
    batch = nv.make_batch(_argon(1, 2))
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    spoil, message = WRONG[name]
    pairs, shifts = spoil(batch.neighbor_list, batch.neighbor_list_shifts)
    with pytest.raises(BridgeError, match=message) as caught:
        model._evaluate(**model.adapt_input(_handed(batch, pairs, shifts)))
    assert "set_pairs" not in str(caught.value)
    assert "HalfPairs" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_shifts_of_other_dtypes(dtype: torch.dtype, model_file: ModelFile) -> None:
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch", skin=0.0)
    batch = nv.make_batch(_argon(1, 2))
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    expected = model(batch)["forces"]
    handed = _handed(batch, batch.neighbor_list, batch.neighbor_list_shifts.to(dtype))
    found = model._evaluate(**model.adapt_input(handed))["found"].forces
    torch.testing.assert_close(found, expected, rtol=0, atol=SAME)


def test_list_that_is_too_short(model_file: ModelFile) -> None:
    """What nvalchemi notes of it counts, not what the model would have had it make."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch")
    batch = nv.make_batch(_argon(1))
    compute_neighbors(
        batch, config=model.model_config.neighbor_config.model_copy(update={"cutoff": 4.0})
    )
    with pytest.raises(PairListError, match=r"at least the model's cutoff, .* got 4 ang"):
        model(batch)


def test_shifts_in_the_memory_of_those_before(model_file: ModelFile) -> None:
    """An atom is wrapped: the same pairs of atoms, other shifts in the same tensor."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch", skin=0.0)
    batch = nv.make_batch(_argon(1, 2))
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    before = model(batch)["forces"]
    batch.positions[5] += batch.cell[1, 0]
    first, second = (batch.neighbor_list == 5).T
    batch.neighbor_list_shifts[:, 0] += first.int() - second.int()
    torch.testing.assert_close(model(batch)["forces"], before, rtol=0, atol=SAME)


def test_list_that_nobody_renews(model_file: ModelFile) -> None:
    """A hook on a part of a fused stage is never called; nor does a list follow atoms or cells."""
    model = nv.MetatomicModel(model_file("lennard-jones"), neighbors="batch", skin=0.5)
    batch = nv.make_batch(structures())
    first = NVE(model, dt=4.0, hooks=model.make_neighbor_hooks(), n_steps=200)
    fused = first + NVTLangevin(model, dt=4.0, temperature=80.0, friction=0.01, n_steps=200)
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    with pytest.raises(PairListError, match="its parts"):
        fused.run(batch)

    batch = nv.make_batch(structures())
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    model(batch)
    batch.cell *= 0.97
    batch.positions *= 0.97
    with pytest.raises(PairListError, match=r"without \d+ of them"):
        model(batch)
