"""nvalchemi's inflight batching: systems come and go, each ends as if it had been alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import pytest
import torch
from nvalchemi_parts import QUIET, Structures, Watch, engine, hot

from alchemi_bridge.errors import ConfigurationError

nv = engine()

from nvalchemi.dynamics import (  # noqa: E402
    FIRE,
    NPT,
    NVE,
    ConvergenceHook,
    FusedStage,
    HostMemory,
    NVTLangevin,
    NVTNoseHoover,
    SizeAwareSampler,
)

ModelFile = Callable[..., Path]

pytestmark = QUIET

#: The same operations on the same numbers; sums over atoms may be taken in another order.
SAME = 1e-10

#: Of mixed sizes, and more than are in a batch.
REPEATS = [(1, 1, 1), (2, 1, 1), (2, 2, 1), (1, 1, 1), (3, 1, 1), (1, 2, 1), (2, 2, 2), (1, 1, 1)]


def structures(kelvin: float) -> list[ase.Atoms]:
    return [hot(repeat, kelvin, seed=k) for k, repeat in enumerate(REPEATS)]


def stages_of(name: str, model: Any) -> list[Any]:
    """Each ends by itself: by its forces, or after some steps."""
    fire = FIRE(model, dt=0.1, convergence_hook=ConvergenceHook.from_fmax(1e-3))
    common = {"dt": 2.0, "temperature": 60.0, "thermostat_time": 40.0, "n_steps": 15}
    if name == "FIRE":
        return [fire]
    if name == "FIRE, NVE":
        return [fire, NVE(model, dt=2.0, n_steps=15)]
    if name == "FIRE, NVTNoseHoover":
        return [fire, NVTNoseHoover(model, **common)]
    if name == "FIRE, triclinic":
        pressure = 0.005 * torch.eye(3, dtype=torch.float64)[None]
        options = {"pressure": pressure, "pressure_coupling": "triclinic", "barostat_time": 100.0}
        return [fire, NPT(model, **options, **common)]
    return [NPT(model, pressure=0.005, barostat_time=100.0, **common)]


@pytest.mark.parametrize(
    ("name", "neighbors"),
    [
        ("FIRE", "own"),
        ("FIRE, NVE", "own"),
        ("FIRE, NVE", "batch"),
        ("FIRE, NVTNoseHoover", "own"),
        ("NPT", "own"),
        ("FIRE, triclinic", "own"),
        ("FIRE, triclinic", "own, cells first"),
    ],
)
def test_every_system_as_if_alone(name: str, neighbors: str, model_file: ModelFile) -> None:
    """Every system once, and where it ends in a run of its own; batches of three change size."""
    stress = name in ("NPT", "FIRE, triclinic")
    neighbors, _, cells_first = neighbors.partition(", ")
    path = model_file("lennard-jones")
    model = nv.MetatomicModel(path, stress=stress, neighbors=neighbors)
    given = structures(20.0)
    data, sink = Structures(given, stress), HostMemory(capacity=20)
    fused = FusedStage(
        list(enumerate(stages_of(name, model))),
        sampler=SizeAwareSampler(data, max_batch_size=3),
        sinks=[sink],
    )
    hooks = [nv.SystemsHook(), *[nv.CellHook()] * stress]
    for hook in hooks[::-1] if cells_first else hooks:
        fused.register_hook(hook)
    for hook in model.make_neighbor_hooks():
        fused.register_hook(hook)
    with torch.compiler.set_stance("force_eager"):  # nvalchemi compiles its hook for 30 s
        assert fused.run(n_steps=3000) is None
    assert sorted(data.given) == list(range(len(given)))
    ended = sink.read()
    assert sorted(ended.system_id.flatten().tolist()) == list(range(len(given)))

    own = nv.MetatomicModel(path, stress=stress)
    for row, number in enumerate(ended.system_id.flatten().tolist()):
        atoms = given[data.given[number]]
        alone = nv.make_batch([atoms], stress=stress)
        for dynamics in stages_of(name, own):
            if isinstance(dynamics, NPT):
                dynamics.register_hook(nv.CellHook())
            nv.prime(dynamics, alone)
            dynamics.run(alone, n_steps=dynamics.n_steps or 1000)
        found = ended.index_select([row])
        assert found.num_nodes == len(atoms)
        for field in ("atomic_numbers", "positions", "velocities", "cell", "forces", "energy"):
            torch.testing.assert_close(
                found[field], alone[field], rtol=0, atol=SAME, msg=f"{field} of system {number}"
            )


def test_langevin_after_refill_by_as_many_atoms(model_file: ModelFile) -> None:
    """4 and 8 atoms make way for 12, and each has the parameters of its own system."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    given = [hot(repeat, 20.0, seed=1) for repeat in [(1, 1, 1), (2, 1, 1), (3, 1, 1)]]
    langevin = NVTLangevin(model, dt=2.0, temperature=30.0, friction=0.05, n_steps=4)
    fused = FusedStage(
        [(0, langevin)],
        sampler=SizeAwareSampler(Structures(given), max_atoms=12),
        sinks=[HostMemory(capacity=5)],
    )
    fused.register_hook(nv.SystemsHook())
    seen = []

    def look(batch: Any) -> None:
        same = torch.equal(langevin._batch_int32.long(), batch.batch_idx.long())
        seen.append((batch.num_nodes_list, same))

    fused.register_hook(Watch("AFTER_STEP", look))
    fused.run()
    assert seen == [([4, 8], True)] * 4 + [([12], True)] * 4


def test_parameters_of_each_system_can_not_be_refilled(model_file: ModelFile) -> None:
    """Nobody knows the temperature of the systems that come later."""
    model = nv.MetatomicModel(model_file("lennard-jones"))
    given = [hot((1, 1, 1), 20.0, seed=k) for k in range(4)]
    temperatures = torch.tensor([20.0, 40.0], dtype=torch.float64)
    dynamics = NVTNoseHoover(
        model, dt=2.0, temperature=temperatures, thermostat_time=40.0, n_steps=3
    )
    fused = FusedStage(
        [(0, dynamics)], sampler=SizeAwareSampler(Structures(given), max_batch_size=2)
    )
    fused.register_hook(nv.SystemsHook())
    with pytest.raises(ConfigurationError, match=r"parameters of NVTNoseHoover: .* each system"):
        fused.run()
