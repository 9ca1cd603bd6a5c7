"""One stage of the pipeline, while systems come and go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvalchemi_parts import engine

nv = engine()

from nvalchemi.dynamics import (  # noqa: E402
    FIRE,
    FIRE2,
    NPH,
    NPT,
    NVE,
    ConvergenceHook,
    NVTLangevin,
    NVTNoseHoover,
)
from nvalchemi.dynamics.base import DynamicsStage, FusedStage  # noqa: E402
from nvalchemi_pipeline_parts import (  # noqa: E402
    Keeper,
    Silent,
    contents,
    crystals,
    rich_batch,
    sampler,
)

from alchemi_bridge.engines.nvalchemi_pipeline.intake import Intake  # noqa: E402
from alchemi_bridge.engines.nvalchemi_pipeline.portion import Portion  # noqa: E402
from alchemi_bridge.engines.nvalchemi_pipeline.residents import NUMBER, SAMPLED, Residents  # noqa: E402
from alchemi_bridge.errors import ConfigurationError, InputError  # noqa: E402

#: Over 30 steps rounding grows to this at most; a wrong mass of a thermostat gives 1e-5 Å and more.
SAME_PATH = 1e-10  # Å

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)

VARIABLE = {"NPT", "NPH"}
DYNAMICS: dict[str, Callable[..., Any]] = {
    "NVE": lambda model, **o: NVE(model, dt=2.0, **o),
    "NVTNoseHoover": lambda model, **o: NVTNoseHoover(
        model, dt=2.0, temperature=40.0, thermostat_time=50.0, **o
    ),
    "NPT": lambda model, **o: NPT(
        model,
        dt=2.0,
        temperature=40.0,
        pressure=1e-4,
        barostat_time=300.0,
        thermostat_time=50.0,
        hooks=[nv.CellHook()],
        **o,
    ),
    "NPH": lambda model, **o: NPH(model, dt=2.0, pressure=1e-4, barostat_time=300.0, **o),
    "FIRE": lambda model, **o: FIRE(model, dt=0.1, **o),
    "FIRE2": lambda model, **o: FIRE2(model, dt=0.05, **o),
}


@pytest.mark.parametrize("name", sorted(DYNAMICS))
def test_systems_do_not_notice_each_other(name: str, model_file: Callable[..., Path]) -> None:
    """Each moves as it does alone, with its own number of degrees of freedom and masses."""
    stress = name in VARIABLE
    model = nv.MetatomicModel(model_file("lennard-jones"), stress=stress)
    structures = crystals(7, seed=3)
    alone = []
    for atoms in structures:
        batch = nv.make_batch([atoms], stress=stress)
        dynamics = DYNAMICS[name](model)
        nv.prime(dynamics, batch)
        dynamics.run(batch, n_steps=30)
        alone.append((batch.positions.numpy(), batch.velocities.numpy(), batch.cell[0].numpy()))
    stage = DYNAMICS[name](model, n_steps=30, max_batch_size=9, device_type="cpu")
    residents = Residents(stage, 0)
    waves = {0: structures[:2], 7: structures[2:3], 11: structures[3:6], 34: structures[6:]}
    for time in range(70):
        if time in waves:
            residents.enter(nv.make_batch(waves[time], stress=stress), time)
        residents.step()
    assert residents.moving == []
    found: dict[int, Any] = {}
    while residents.waiting:
        portion, owners = residents.take(None)
        assert all((own.steps, own.reason) == (30, "steps") for own in owners)
        for own in portion.batch().to_data_list():
            found[int(own.pipeline_id)] = own
    assert sorted(found) == list(range(7))
    for k, (positions, velocities, cell) in enumerate(alone):
        own = found[k]
        np.testing.assert_allclose(own.positions, positions, rtol=0, atol=SAME_PATH)
        np.testing.assert_allclose(own.velocities, velocities, rtol=0, atol=SAME_PATH)
        np.testing.assert_allclose(own.cell[0], cell, rtol=0, atol=SAME_PATH)


def test_index_of_langevin(model_file: Callable[..., Path]) -> None:
    """One system of 8 atoms comes for two of 4: the number of atoms is the same, systems are not.

    nvalchemi's index would then name a third system, of which there is no state.
    """
    model = nv.MetatomicModel(model_file("lennard-jones"))
    stage = NVTLangevin(
        model, dt=1.0, temperature=40.0, friction=0.01, n_steps=2, device_type="cpu"
    )
    residents = Residents(stage, 0)
    four, eight = crystals(12)[::3], crystals(12)[1::3]
    four = [atoms for atoms in four if len(atoms) == 4]
    residents.enter(nv.make_batch([four[0], four[1], eight[0]]), 0)
    residents.step()
    stage.n_steps = 1
    residents.moving[2].steps = -1  # it stays for another step
    residents.step()
    residents.enter(nv.make_batch(eight[1:2]), 2)
    batch = stage.active_batch
    assert batch.num_nodes_list == [8, 8]
    assert torch.equal(stage._get_batch_int32(batch), batch.batch_idx.int())
    residents.step()
    assert [own.reason for _, owners in residents.waiting for own in owners] == ["steps"] * 4


@pytest.mark.parametrize("registered", [False, True])
def test_fused_stages(registered: bool, model_file: Callable[..., Path]) -> None:
    """Relaxation and dynamics in one stage, where systems move as they would alone."""
    model = nv.MetatomicModel(model_file("lennard-jones"), stress=True)
    first = {"dt": 0.1, "convergence_hook": ConvergenceHook.from_fmax(1e-2)}
    then = {"dt": 2.0, "temperature": 40.0, "thermostat_time": 50.0}
    second = NVTNoseHoover(model, n_steps=14, device_type="cpu", **then)
    stage = FIRE(model, device_type="cpu", **first) + second
    if registered:
        stage.register_hook(nv.SystemsHook())
    residents = Residents(stage, 0)
    assert sum(isinstance(hook, nv.SystemsHook) for hook in stage.hooks) == 1
    for k, atoms in enumerate(crystals(4)):
        residents.enter(nv.make_batch([atoms]), k)
        assert "stress" in stage.active_batch
        residents.step()
    for _ in range(300):
        residents.step()
    assert residents.moving == []
    portion, owners = residents.take(None)
    assert [own.reason for own in owners] == ["steps"] * 4
    assert not {"status", "n_steps_counter_1"} & set(portion.kinds)
    ended = {int(own.pipeline_id): own for own in portion.batch().to_data_list()}
    steps = [own.steps for own in sorted(owners, key=lambda own: own.number)]
    for k, (atoms, n) in enumerate(zip(crystals(4), steps, strict=True)):
        alone = nv.make_batch([atoms])
        relaxation = FIRE(model, **first)
        nv.prime(relaxation, alone)
        relaxation.run(alone, n_steps=300)
        NVTNoseHoover(model, **then).run(alone, n_steps=14)
        assert relaxation.step_count + 14 == n
        for name in ("positions", "velocities"):
            found, expected = getattr(ended[k], name), getattr(alone, name)
            np.testing.assert_allclose(found, expected, rtol=0, atol=SAME_PATH)


@pytest.mark.slow
def test_lists_of_nvalchemi_follow(model_file: Callable[..., Path]) -> None:
    """One system is exchanged for another with the same atoms in another cell."""
    path = model_file("lennard-jones")
    model = nv.MetatomicModel(path, neighbors="batch", skin=0.5)
    stage = NVE(model, dt=0.1, n_steps=1, hooks=model.make_neighbor_hooks(), device_type="cpu")
    residents = Residents(stage, 0)
    wide, narrow = (crystals(1)[0] for _ in range(2))
    wide.set_cell(np.diag([20.0] * 3))
    found = []
    for k, atoms in enumerate((wide, narrow)):
        residents.enter(nv.make_batch([atoms]), k)
        found.append(stage.active_batch.energy.item())
        residents.step()
    own = nv.MetatomicModel(path)
    expected = [own(nv.make_batch([atoms]))["energy"].item() for atoms in (wide, narrow)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert abs(expected[0] - expected[1]) > 0.01


# --- coming and leaving -------------------------------------------------------------------------


def test_forces_are_those_of_the_stage() -> None:
    """Before its first step a system is evaluated by the model of its stage, and only then."""
    model = Silent()
    residents = Residents(Keeper(3, model=model), 0)
    residents.enter(nv.make_batch(crystals(2)), 0)
    residents.enter(nv.make_batch(crystals(3)), 0)
    assert model.seen == [2, 3]
    residents.step()
    assert model.seen == [2, 3, 5]


class Pushing(Silent):
    """Forces that name the model."""

    def __init__(self, force: float) -> None:
        super().__init__()
        self.force = force
        outputs = frozenset({"energy", "forces"})
        self.model_config = self.model_config.model_copy(update={"outputs": outputs})
        self.model_config.active_outputs = set(outputs)

    def forward(self, data: Any, **kwargs: Any) -> OrderedDict:
        super().forward(data)
        energy = data.positions.new_zeros((data.num_graphs, 1))
        return OrderedDict(energy=energy, forces=torch.full_like(data.positions, self.force))


def test_hooks_act_on_new_systems() -> None:
    class Bias:
        stage, frequency = DynamicsStage.AFTER_COMPUTE, 1

        def __call__(self, ctx: Any, stage: Any) -> None:
            ctx.batch.forces.add_(1.0)

    residents = Residents(Keeper(3, model=Pushing(4.0), hooks=[Bias()]), 0)
    residents.enter(nv.make_batch(crystals(1)), 0)
    assert bool((residents.stage.active_batch.forces == 5.0).all())


def test_those_that_wait_are_not_touched() -> None:
    """Bit for bit as they were, in order, while others move; and they count as present."""
    batch = rich_batch(crystals(5))
    before = contents(batch)
    residents = Residents(Keeper(1, max_batch_size=6), 0)
    residents.enter(batch, 0)
    residents.moving[1].steps = residents.moving[3].steps = -2
    residents.step()
    assert [own.number for own in residents.moving] == [1, 3]
    assert (residents.present, residents.room) == (5, 1)
    residents.step()
    residents.step()
    sizes = [len(atoms) for atoms in crystals(5)]
    taken = []
    for limit in ((9, sizes[0], 0), (1, 999, 0), (0, 999, 0), (9, 999, 0)):
        portion, owners = residents.take(limit)
        if portion is not None:
            taken += list(zip(contents(portion.batch(), (NUMBER, SAMPLED)), owners, strict=True))
    assert [own.number for _, own in taken] == [0, 2, 4, 1, 3]
    assert [own for own, _ in taken] == [before[k] for k in (0, 2, 4, 1, 3)]
    assert residents.present == 0


def test_other_fields() -> None:
    residents = Residents(Keeper(3), 2)
    residents.enter(nv.make_batch(crystals(1)), 0)
    other = nv.make_batch(crystals(1))
    other.add_key("mine", [torch.ones(1, 2, dtype=torch.int8)], level="system")
    with pytest.raises(InputError) as caught:
        residents.enter(other, 1)
    assert str(caught.value).startswith(
        "field 'mine' of system 2000000000001: expected none, as in the systems that are in the "
        "stage of rank 2, got int8 (n_systems, 2); give all systems of a pipeline the same"
    )
    narrow = nv.make_batch(crystals(1), dtype=torch.float32)
    with pytest.raises(InputError, match=r"field 'atomic_masses' .* expected float64 \(n_atoms,\)"):
        residents.enter(narrow, 1)


def test_too_large_for_the_messages() -> None:
    residents = Residents(Keeper(3), 0)
    with pytest.raises(InputError, match="system 1, which enters at rank 0: expected at most 7"):
        residents.enter(nv.make_batch(crystals(2)), 0, (5, 7, 0))
    assert residents.present == 0


def test_status_of_hooks() -> None:
    """A hook may end a system by nvalchemi's status, also in a plain stage."""

    class Ends:
        stage, frequency = DynamicsStage.AFTER_STEP, 1

        def __call__(self, ctx: Any, stage: Any) -> None:
            status = torch.zeros((ctx.batch.num_graphs, 1), dtype=torch.int64)
            ctx.batch["status"] = status + (ctx.batch[NUMBER] == 1)

    residents = Residents(Keeper(5, hooks=[Ends()]), 0)
    residents.enter(nv.make_batch(crystals(3)), 0)
    residents.step()
    assert [own.number for own in residents.moving] == [0, 2]
    residents.enter(nv.make_batch(crystals(1)), 1)
    assert residents.stage.active_batch.status.flatten().tolist() == [0, 0, 0]


# --- samplers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"max_atoms": 20}, {"max_atoms": 999, "max_edges": 41}])
def test_limits_of_the_sampler(limits: dict[str, int]) -> None:
    """Those that wait count, too; there are two edges for each atom."""
    stage = Keeper(1, max_batch_size=5, sampler=sampler(crystals(9), None, **limits))
    residents = Residents(stage, 0)
    intake = Intake(residents, None)
    seen, most = 0, 0
    for time in range(30):
        seen += intake.refill(time)
        assert residents.present <= 5
        most = max(most, residents.n_atoms)
        if "max_edges" in limits:
            assert residents.n_edges == 2 * residents.n_atoms
        residents.step()
        if time % 3 == 2:
            residents.take((2, 999, 0))
    assert 16 < most <= 20
    assert seen == 9
    assert intake.exhausted


def test_refill_frequency() -> None:
    stage = Keeper(9, max_batch_size=4, sampler=sampler(crystals(6), 2), refill_frequency=3)
    residents = Residents(stage, 0)
    intake = Intake(residents, None)
    assert intake.refill(1) == 2  # there was nothing to do
    stage.sampler._max_batch_size = 4
    assert [intake.refill(time) for time in (1, 2, 3, 4)] == [0, 0, 2, 0]
    stage.done = True  # no more, please
    residents.step()
    assert intake.exhausted


def test_data_set_with_other_fields() -> None:
    """nvalchemi takes the fields of the first system and drops those of the others."""
    made = sampler(crystals(2))
    made._dataset.data[0].add_system_property("label", torch.tensor([[1]]))
    intake = Intake(Residents(Keeper(1, sampler=made), 0), None)
    with pytest.raises(ConfigurationError, match="others of another dtype: label"):
        intake.refill(1)


def test_init_fn(model_file: Callable[..., Path]) -> None:
    """Of a fused stage: called for all new systems."""
    counts = []
    options = {"sampler": sampler(crystals(3), 2), "max_batch_size": 2, "device_type": "cpu"}
    stage = FusedStage(
        [(0, Keeper(1))], init_fn=lambda batch: counts.append(batch.num_graphs), **options
    )
    residents = Residents(stage, 0)
    intake = Intake(residents, None)
    for time in range(3):
        intake.refill(time)
        residents.step()
        residents.take(None)
    assert counts == [2, 1]


def test_batch_that_is_too_large() -> None:
    stage = Keeper(1, max_batch_size=2, active_batch=nv.make_batch(crystals(3)))
    with pytest.raises(ConfigurationError, match="at most max_batch_size=2 systems, got 3"):
        Intake(Residents(stage, 0), None).begin()


def test_number_is_given_anew() -> None:
    """To results of an earlier pipeline, too, whose batch is not changed."""
    batch = nv.make_batch(crystals(2))
    batch[NUMBER] = torch.tensor([[7], [7]])
    residents = Residents(Keeper(1), 3)
    residents.enter(batch, 0)
    assert residents.stage.active_batch[NUMBER].tolist() == [[3 * 10**12], [3 * 10**12 + 1]]
    assert batch[NUMBER].tolist() == [[7], [7]]
    assert len(Portion.of(residents.stage.active_batch)) == 2
