"""Molecular dynamics by nvalchemi: all replicas in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np

from alchemi_bridge.engines import nvalchemi_version
from alchemi_bridge.ensembles.models import WorkerModel
from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator
from alchemi_bridge.ensembles.simulators.plan import Member, Plan, Recorded
from alchemi_bridge.ensembles.work import Parameters
from alchemi_bridge.errors import BridgeError

#: Random seeds of nvalchemi's kernels have 31 bits.
_SEEDS = 2**31 - 1


class NvalchemiSimulator(DynamicsSimulator):
    """Dynamics of all replicas in one batch, which one call of the model moves on.

    Only at constant volume. The energies are those of the batch, float64.
    """

    engine = "nvalchemi"
    ensembles = ("nvt-langevin", "nve")

    def unavailable(self) -> str | None:
        """Why nvalchemi can not be used, or ``None``."""
        return nvalchemi_version.missing()

    def simulate(
        self,
        model: WorkerModel,
        parameters: Parameters,
        starts: Sequence[ase.Atoms],
        plan: Plan,
        seeds: Sequence[int],
    ) -> list[Recorded]:
        """See :meth:`.DynamicsSimulator.simulate`."""
        from alchemi_bridge.engines import nvalchemi

        device = model.loaded.device
        batch = nvalchemi.make_batch(starts, device=device)
        dynamics = _dynamics(nvalchemi.MetatomicModel(model.loaded), plan, seeds[0])
        n_systems, n_atoms = len(starts), len(self.atoms)
        positions = np.empty((n_systems, plan.n_frames, n_atoms, 3))
        energies = np.empty((n_systems, plan.n_frames))
        done = 0
        try:
            nvalchemi.prime(dynamics, batch)
            if plan.equilibration:
                dynamics.run(batch, n_steps=plan.equilibration)
                done = plan.equilibration
            for k in range(plan.n_frames):
                dynamics.run(batch, n_steps=plan.every)
                done += plan.every
                positions[:, k] = _rows(batch.positions, n_systems)
                energies[:, k] = batch.energy.detach().cpu().numpy()[:, 0]
            if left := plan.steps % plan.every:
                dynamics.run(batch, n_steps=left)
        except BridgeError as error:
            where = f"after step {done} of {plan.equilibration + plan.steps}"
            raise self.went_wrong(where, error) from error
        ends = zip(
            _rows(batch.positions, n_systems), _rows(batch.velocities, n_systems), strict=True
        )
        recorded = []
        for k, ((x, v), atoms) in enumerate(zip(ends, starts, strict=True)):
            cell = atoms.cell.array.copy()
            cells = np.repeat(cell[None], plan.n_frames, axis=0)
            recorded.append(Recorded(positions[k], cells, energies[k], Member(x, v, cell)))
        return recorded


def _rows(values: Any, n_systems: int) -> np.ndarray:
    """(n_systems, n_atoms, 3) copy."""
    return np.array(values.detach().cpu().numpy()).reshape(n_systems, -1, 3)


def _dynamics(model: Any, plan: Plan, seed: int) -> Any:
    from nvalchemi.dynamics import NVE, NVTLangevin

    if plan.ensemble == "nve":
        return NVE(model, dt=plan.timestep)
    return NVTLangevin(
        model,
        dt=plan.timestep,
        temperature=plan.temperature,
        friction=plan.friction / 1000.0,  # 1/fs
        random_seed=seed % _SEEDS,
    )
