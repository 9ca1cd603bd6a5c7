"""Molecular dynamics by ASE's integrators, with the bridge's calculator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.verlet import VelocityVerlet

from alchemi_bridge.engines.ase import BridgeCalculator
from alchemi_bridge.ensembles.models import WorkerModel
from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator
from alchemi_bridge.ensembles.simulators.plan import (
    BAROSTAT_STEPS,
    GPA,
    PER_PS,
    Member,
    Plan,
    Recorded,
)
from alchemi_bridge.ensembles.work import Parameters
from alchemi_bridge.errors import BridgeError


class AseSimulator(DynamicsSimulator):
    """Dynamics in this process: Langevin, velocity Verlet, or Langevin with a cell that breathes.

    Langevin dynamics leave the centre of mass free: all 3 N degrees of freedom have the
    temperature, also at constant pressure, so that systems of few atoms are sampled right. The
    energies are those that moved the atoms.

    Source of constant pressure: D. Quigley and M. I. J. Probert, J. Chem. Phys. 120, 11432 (2004),
    doi:10.1063/1.1755657.
    """

    engine = "ase"
    ensembles = ("nvt-langevin", "nve", "npt")

    def simulate(
        self,
        model: WorkerModel,
        parameters: Parameters,
        starts: Sequence[ase.Atoms],
        plan: Plan,
        seeds: Sequence[int],
    ) -> list[Recorded]:
        """See :meth:`.DynamicsSimulator.simulate`."""
        # a calculator of its own: values of the model that changed must not meet results of before
        calculator = BridgeCalculator(model.loaded, comm=None, uncertainty_threshold=None)
        return [
            self._one(calculator, atoms, plan, seed)
            for atoms, seed in zip(starts, seeds, strict=True)
        ]

    def _one(
        self, calculator: BridgeCalculator, atoms: ase.Atoms, plan: Plan, seed: int
    ) -> Recorded:
        atoms.calc = calculator
        positions = np.empty((plan.n_frames, len(atoms), 3))
        cells = np.empty((plan.n_frames, 3, 3))
        energies = np.empty(plan.n_frames)
        dynamics: Any = None
        try:
            # what overflows is found by the bridge in the next step
            with np.errstate(over="ignore", invalid="ignore"):
                dynamics = _dynamics(atoms, plan, seed)
                if plan.equilibration:
                    dynamics.run(plan.equilibration)
                for k in range(plan.n_frames):
                    dynamics.run(plan.every)
                    positions[k], cells[k] = atoms.positions, atoms.cell.array
                    energies[k] = atoms.get_potential_energy()
                if left := plan.steps % plan.every:
                    dynamics.run(left)
        except BridgeError as error:
            done = 0 if dynamics is None else dynamics.nsteps
            where = f"step {done} of {plan.equilibration + plan.steps}"
            raise self.went_wrong(where, error) from error
        return Recorded(positions, cells, energies, Member.of(atoms))


def _dynamics(atoms: ase.Atoms, plan: Plan, seed: int) -> Any:
    timestep = plan.timestep * units.fs
    if plan.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    if plan.ensemble == "nvt-langevin":
        return Langevin(
            atoms,
            timestep,
            temperature_K=plan.temperature,
            friction=plan.friction * PER_PS,
            fixcm=False,
            rng=np.random.default_rng(seed),
        )
    return _at_constant_pressure(atoms, plan, seed)


def _at_constant_pressure(atoms: ase.Atoms, plan: Plan, seed: int) -> LangevinBAOAB:
    assert plan.pressure is not None  # Plan.check has seen to it
    timestep = plan.timestep * units.fs
    period = BAROSTAT_STEPS * timestep
    thermal = units.kB * plan.temperature
    # of Martyna, Tobias and Klein, J. Chem. Phys. 101, 4177 (1994), doi:10.1063/1.467468
    mass = 3.0 * (len(atoms) + 1) * thermal * period**2
    random = np.random.default_rng(seed)
    dynamics = LangevinBAOAB(
        atoms,
        timestep,
        temperature_K=plan.temperature,
        externalstress=-plan.pressure * GPA,
        hydrostatic=True,
        T_tau=1.0 / (plan.friction * PER_PS),
        P_tau=period,
        P_mass=mass,
        rng=random,
    )
    # the cell moves from the first step on as it does later
    dynamics.p_eps = random.normal() * np.sqrt(thermal * mass)
    return dynamics
