"""The parts of the pipeline that need no other rank: systems as bytes, topology, sinks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nvalchemi_parts import engine

nv = engine()

from nvalchemi.data import Batch  # noqa: E402
from nvalchemi.dynamics import HostMemory, NVTLangevin, NVTNoseHoover, ZarrData  # noqa: E402
from nvalchemi.dynamics import base as theirs  # noqa: E402
from nvalchemi_pipeline_parts import (  # noqa: E402
    DTYPES,
    Keeper,
    Silent,
    bits,
    contents,
    crystals,
    raw,
    rich_batch,
)

from alchemi_bridge.engines.nvalchemi_pipeline import (  # noqa: E402
    DistributedPipeline,
    ExactMemory,
    Visit,
    messages,
    read_zarr,
    table,
)
from alchemi_bridge.engines.nvalchemi_pipeline.portion import Portion, join  # noqa: E402
from alchemi_bridge.engines.nvalchemi_pipeline.sinks import Drain, changed, problem_of  # noqa: E402
from alchemi_bridge.engines.nvalchemi_pipeline.topology import (  # noqa: E402
    RankFacts,
    StageFacts,
    plan,
)
from alchemi_bridge.errors import ConfigurationError, InputError  # noqa: E402

CPU = torch.device("cpu")


# --- systems as bytes ---------------------------------------------------------------------------


def sent(portion: Portion) -> Portion:
    header, body = messages.encode(portion, CPU)
    assert messages.body_size(header) == len(body)
    return messages.decode(header, body, CPU)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 3), max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_bytes_are_exact(
    sizes: list[int], dtype: torch.dtype, shape: list[int], order: Any
) -> None:
    """Any order of any systems, sent and joined again, has the memory that it had."""
    random = np.random.default_rng(len(sizes))
    of_atoms = [bits(random, (n, *shape), dtype) for n in sizes]
    of_systems = [bits(random, (1, *shape), dtype) for _ in sizes]
    fields = {"atoms": {"a": torch.cat(of_atoms)}, "system": {"s": torch.cat(of_systems)}}
    whole = Portion({"atoms": sizes}, fields, CPU)
    systems = order.choices(range(len(sizes)), k=4)
    again = join([sent(whole.select(systems[:1])), sent(whole.select(systems[1:]))])
    assert again.kinds == whole.kinds
    assert again.counts == {"atoms": [sizes[k] for k in systems]}
    assert raw(again.fields["atoms"]["a"]) == b"".join(raw(of_atoms[k]) for k in systems)
    assert raw(again.fields["system"]["s"]) == b"".join(raw(of_systems[k]) for k in systems)


def test_batch_and_back() -> None:
    """By nvalchemi's own groups: levels, dtypes and memory are the same; keys name all fields."""
    batch = rich_batch(crystals(4))
    again = sent(Portion.of(batch)).batch()
    assert contents(again) == contents(batch)
    for level, group in batch._storage.groups.items():
        assert set(again._storage.groups[level].keys()) == set(group.keys())
    assert again.keys["node"] | again.keys["system"] == {name for name, _ in again}
    # nvalchemi takes unknown names for fields of systems, unless a batch says otherwise
    again.atom_int16 = again.atom_int16 + 1
    assert [name for name, _ in again].count("atom_int16") == 1


def test_empty_message() -> None:
    header, body = messages.encode(None, CPU)
    assert (messages.body_size(header), len(body)) == (0, 0)
    assert messages.decode(header, body, CPU) is None


def test_foreign_message() -> None:
    with pytest.raises(ConfigurationError, match="something else; run the same version"):
        messages.body_size(torch.zeros(3, dtype=torch.int64))


def edges(atoms: Any) -> Any:
    data = nv.atomic_data(atoms)
    n = len(atoms)
    data.add_edge_property("neighbor_list", torch.tensor([[k, (k + 1) % n] for k in range(n)]))
    return data


def test_neighbour_lists_stay_behind() -> None:
    batch = Batch.from_data_list([edges(atoms) for atoms in crystals(2)])
    batch["status"] = torch.ones((2, 1), dtype=torch.int64)
    batch["n_steps_counter_0"] = torch.ones((2, 1), dtype=torch.int64)
    found = Portion.of(batch)
    assert set(found.fields) == {"atoms", "system"}
    assert not {"status", "n_steps_counter_0"} & set(found.kinds)


def test_fields_of_edges_come_along() -> None:
    """With the list that they belong to, whose atoms are numbered anew."""
    data = [edges(atoms) for atoms in crystals(3)]
    for k, own in enumerate(data):
        own.add_edge_property("bond_order", torch.full((own.num_edges,), k, dtype=torch.int16))
    whole = Portion.of(Batch.from_data_list(data))
    again = join([sent(whole.select([2])), sent(whole.select([0]))]).batch()
    assert again.num_edges_list == [data[2].num_edges, data[0].num_edges]
    for found, own in zip(again.to_data_list(), (data[2], data[0]), strict=True):
        assert torch.equal(found.neighbor_list, own.neighbor_list)
        assert torch.equal(found.bond_order, own.bond_order)
        assert found.bond_order.dtype == torch.int16


def test_sparse_fields_are_refused() -> None:
    batch = nv.make_batch(crystals(1))
    batch._storage.groups["atoms"]._data = {"odd": torch.eye(4).to_sparse()}
    with pytest.raises(ConfigurationError, match="field 'odd' of the batch: expected a dense"):
        Portion.of(batch)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=6),
    limit=st.tuples(st.integers(0, 6), st.integers(0, 30), st.integers(0, 9)),
)
def test_what_fits_is_the_longest_beginning(
    sizes: list[tuple[int, int]], limit: tuple[int, int, int]
) -> None:
    def fits(n: int) -> bool:
        used = (n, sum(a for a, _ in sizes[:n]), sum(e for _, e in sizes[:n]))
        return all(one <= other for one, other in zip(used, limit, strict=True))

    assert messages.fitting(sizes, limit) == max(n for n in range(len(sizes) + 1) if fits(n))


# --- topology -----------------------------------------------------------------------------------

BUFFER = (2, 50, 0)


def world(**stages: dict[str, Any]) -> list[RankFacts]:
    """What all ranks say when each knows all stages ``r0=..., r1=...``."""
    known = {
        k: StageFacts("NVE", **{"buffer": BUFFER, **stages[f"r{k}"]}) for k in range(len(stages))
    }
    return [RankFacts(known) for _ in known]


@settings(deadline=None)
@given(
    order=st.permutations(range(6)),
    cuts=st.sets(st.integers(1, 5)),
    named=st.lists(st.sampled_from(["both", "sender", "receiver"]), min_size=6, max_size=6),
)
def test_chains_named_from_either_side(order: list[int], cuts: set[int], named: list[str]) -> None:
    """Any chains; each link is named by one stage or by both."""
    ends = [0, *sorted(cuts), 6]
    made = [order[a:b] for a, b in pairwise(ends)]
    stages: dict[int, dict[str, Any]] = {rank: {} for rank in order}
    for chain in made:
        stages[chain[0]]["prior"] = stages[chain[-1]]["next"] = None
        for one, other in pairwise(chain):
            if named[one] != "receiver":
                stages[one]["next"] = other
            if named[one] != "sender":
                stages[other]["prior"] = one
    places = plan(world(**{f"r{rank}": own for rank, own in stages.items()}))
    for chain in made:
        for k, rank in enumerate(chain):
            assert places[rank].prior == (chain[k - 1] if k else None)
            last = k + 1 == len(chain)
            assert places[rank].next == (None if last else chain[k + 1])
            assert places[rank].smallest == (None if last else BUFFER)


def test_by_order_of_the_ranks() -> None:
    places = plan(world(r0={}, r1={"next": None}, r2={}, r3={}))
    links = [(places[k].prior, places[k].next) for k in range(4)]
    assert links == [(None, 1), (0, None), (None, 3), (2, None)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"r0": {"next": 1}, "r1": {"prior": None}}, "a rank whose prior_rank is 0, got rank 1"),
        ({"r0": {"next": None}, "r1": {"prior": 0}}, "a rank whose next_rank is 1, got rank 0"),
        ({"r0": {"next": 2}, "r1": {"next": 2}, "r2": {}}, "prior_rank is"),
        ({"r0": {"next": 0, "prior": 0}}, "another one of the ranks"),
        ({"r0": {"next": 7}}, "another one of the ranks [0], got 7"),
        ({"r0": {"next": 1, "prior": 1}, "r1": {"next": 0, "prior": 0}}, "got a circle"),
        ({"r0": {"buffer": None}, "r1": {}}, "buffer_config of the stage of rank 0"),
        ({"r0": {}, "r1": {"buffer": (2, 51, 0)}}, "that of rank 0, (systems, nodes, edges)"),
        ({"r0": {"buffer": (0, 9, 9)}, "r1": {"buffer": (0, 9, 9)}}, "at least one system"),
    ],
)
def test_what_makes_no_chain(stages: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan(world(**stages))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("of", "facts", "message"),
    [
        (0, {"has_work": False}, "rank 0: expected a sampler or an active_batch"),
        (1, {"has_sampler": True}, "rank 1: expected no sampler, as it is not the first"),
        (1, {"has_sinks": False}, "rank 1: expected at least one sink"),
        (1, {"problem": "a tree"}, "stage of rank 1: expected one that can run, got a tree"),
    ],
)
def test_ends_of_a_chain(of: int, facts: dict[str, Any], message: str) -> None:
    said = world(r0={}, r1={})
    said[of] = RankFacts(said[of].stages, **facts)
    with pytest.raises(ConfigurationError) as caught:
        plan(said)
    assert message in str(caught.value)


def test_the_smallest_buffer_on_the_way() -> None:
    """A system must pass through all messages; stages that are not linked need no buffer."""
    places = plan(world(r0={}, r1={"next": None}, r2={"buffer": None, "next": None}))
    assert [places[k].smallest for k in range(3)] == [BUFFER, None, None]


# --- composition --------------------------------------------------------------------------------


def test_pipes() -> None:
    a, b, c, d = (Keeper() for _ in range(4))
    assert type(a | b) is theirs.DistributedPipeline
    ours = DistributedPipeline.of(a | b, init_method="file:///nowhere")
    assert isinstance(ours, theirs.DistributedPipeline)
    assert ours._dist_kwargs == {"backend": "gloo", "init_method": "file:///nowhere"}
    whole = ours | c
    assert whole._dist_kwargs == ours._dist_kwargs
    for joined in (whole | d, ours | (c | d), ours | DistributedPipeline({0: c, 1: d})):
        assert type(joined) is DistributedPipeline
        assert list(joined.stages.items()) == [(0, a), (1, b), (2, c), (3, d)]
    reflected = (a | b) | DistributedPipeline({4: c, 7: d}, synchronized=True)
    assert type(reflected) is DistributedPipeline
    assert list(reflected.stages.values()) == [a, b, c, d]
    assert reflected.synchronized
    # nvalchemi takes the right side for a stage
    assert list(DistributedPipeline.of(a | (b | c)).stages.values()) == [a, b, c]
    with pytest.raises(TypeError, match="unsupported operand"):
        ours | 3


def test_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    pipeline = DistributedPipeline({0: Keeper(), 1: Keeper()})
    with (
        pytest.raises(ConfigurationError, match="use `torchrun --nproc_per_node=2 SCRIPT`"),
        pipeline,
    ):
        pass


def test_mesh_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="each stage runs on one rank"):
        DistributedPipeline({0: Keeper()}, mesh=object())


# --- sinks --------------------------------------------------------------------------------------


def test_exact_memory() -> None:
    batch = rich_batch(crystals(3))
    sink = ExactMemory(4)
    sink.write(batch, mask=torch.tensor([True, False, True]))
    sink.write(batch, mask=torch.tensor([False, True, False]))
    whole = contents(batch)
    assert contents(sink.read()) == [whole[0], whole[2], whole[1]]
    batch.positions += 1.0  # copies are kept
    assert contents(sink.read())[0] == whole[0]
    with pytest.raises(ConfigurationError, match="room for 3 more systems, got 3 of 4"):
        sink.write(batch)
    assert len(sink) == 3
    sink.zero()
    with pytest.raises(ConfigurationError, match="got none; run the pipeline first"):
        sink.read()
    sink.write(nv.make_batch(crystals(1)))
    sink.write(rich_batch(crystals(1)))
    assert [own.num_graphs for own in sink.batches()] == [1, 1]
    with pytest.raises(ConfigurationError, match="2 kinds of systems; use batches"):
        sink.read()


@pytest.mark.parametrize("kind", [HostMemory, ZarrData])
def test_sinks_of_nvalchemi(kind: type) -> None:
    """They keep fields with the dtype of the positions, integers, and fields of one's own."""
    batch = nv.make_batch(crystals(1))
    batch.add_key("spin_of_atom", [torch.arange(4, dtype=torch.int16)], level="node")
    batch.add_key("label", [torch.tensor([[7]])], level="system")
    assert changed(kind, Portion.of(batch)) is None


def test_sinks_of_nvalchemi_that_would_convert() -> None:
    batch = nv.make_batch(crystals(1))
    batch.add_key("charge", [torch.ones(1, 1, dtype=torch.float32)], level="system")
    found = changed(HostMemory, Portion.of(batch))
    assert found == ("charge", "float32 (n_systems, 1)", "float64 (n_systems, 1)")
    batch.add_key("half", [torch.ones(1, 1, dtype=torch.bfloat16)], level="system")
    name, _, error = changed(ZarrData, Portion.of(batch))
    assert name == "(all)"
    assert "BFloat16" in error
    with pytest.raises(InputError, match="field 'charge' of system 5: expected a field that Host"):
        Drain([HostMemory(9)]).write(Portion.of(batch), [5])


def test_results_go_to_the_first_sink_with_room(tmp_path: Path) -> None:
    batch = nv.make_batch(crystals(6))
    batch.add_key("label", [torch.tensor([[k]]) for k in range(6)], level="system")
    portion = Portion.of(batch)
    sinks = [HostMemory(2), ZarrData(tmp_path / "store", 3), ExactMemory(2)]
    drain = Drain(sinks)
    names = drain.write(portion.select(range(4)), range(4))
    assert names == [*["sink 0 (HostMemory)"] * 2, *["sink 1 (ZarrData)"] * 2]
    names = drain.write(portion.select(range(4, 6)), [4, 5])
    assert names == ["sink 1 (ZarrData)", "sink 2 (ExactMemory)"]
    read = [sinks[0].read(), read_zarr(tmp_path / "store"), sinks[2].read()]
    kept = [own.positions for batch in read for own in batch.to_data_list()]
    assert [own.label.item() for batch in read for own in batch.to_data_list()] == [*range(6)]
    assert [raw(p) for p in kept] == [raw(torch.tensor(a.positions)) for a in crystals(6)]
    with pytest.raises(ConfigurationError, match="systems 7, got all full, 2 of 2, 3 of 3, 2 of 2"):
        drain.write(portion.select([0, 1]), [6, 7])


def test_gpu_buffers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from nvalchemi.dynamics.sinks import GPUBuffer

    buffer = GPUBuffer.__new__(GPUBuffer)  # it can only be made where there is a GPU
    assert "keeps float32 fields only" in str(problem_of([ExactMemory(), buffer]))
    assert problem_of([ExactMemory()]) is None


# --- journal ------------------------------------------------------------------------------------


def test_table() -> None:
    visits = [Visit(10, 3, 5, 1, "NVE", 2, "steps", "sink 0 (HostMemory)")]
    visits.append(Visit(10, 0, 3, 0, "FIRE", 3, "converged", "rank 1"))
    assert table(visits).splitlines() == [
        "system  entered  left  rank  stage  steps  reason     to",
        "    10        0     3     0  FIRE       3  converged  rank 1",
        "    10        3     5     1  NVE        2  steps      sink 0 (HostMemory)",
    ]


# --- nvalchemi's own way, which this is for -----------------------------------------------------


def test_what_batches_of_nvalchemi_lose() -> None:
    """If one of these fails, nvalchemi has got better, and the pipeline may become simpler."""
    one, other = nv.make_batch(crystals(1)), nv.make_batch(crystals(1))
    one.add_key("mine", [torch.ones(1, 1)], level="system")
    one.append(other)
    assert "mine" not in one
    narrow, wide = nv.make_batch(crystals(1), dtype=torch.float32), nv.make_batch(crystals(1))
    narrow.append(wide)
    assert narrow.positions.dtype == torch.float32


def test_what_integrators_of_nvalchemi_keep() -> None:
    """The same for state: sizes of new systems, and an index of those that were there before."""
    batch = nv.make_batch([crystals(1)[0], crystals(2)[1]])
    thermostat = NVTNoseHoover(Silent(), dt=1.0, temperature=40.0, thermostat_time=50.0)
    thermostat._init_state(batch)
    assert thermostat._state.nhc_ndof.tolist() == [12.0, 24.0]
    thermostat._sync_state_to_batch(torch.tensor([0]), 1, batch)
    assert thermostat._state.nhc_ndof.tolist() == [12.0, 18.0]
    langevin = NVTLangevin(Silent(), dt=1.0, temperature=40.0, friction=0.01)
    langevin._init_state(nv.make_batch([crystals(1)[0]] * 6))
    langevin._sync_state_to_batch(torch.tensor([0, 1]), 0, batch)
    langevin._sync_state_to_batch(torch.tensor([0, 1]), 1, batch)
    again = nv.make_batch([crystals(2)[1]] * 3)
    assert langevin._state.num_graphs == again.num_graphs
    assert int(langevin._get_batch_int32(again).max()) == 5
