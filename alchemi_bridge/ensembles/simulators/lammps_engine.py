"""Molecular dynamics by LAMMPS with ``pair_style alchemi``, in a process of its own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ase
import numpy as np
import torch

from alchemi_bridge.engines import lammps_library, lammps_plugin
from alchemi_bridge.ensembles.models import WorkerModel
from alchemi_bridge.ensembles.simulators.dynamics import DynamicsSimulator
from alchemi_bridge.ensembles.simulators.plan import Plan, Recorded
from alchemi_bridge.ensembles.work import Parameters
from alchemi_bridge.errors import BridgeError, ConfigurationError, first_line
from alchemi_bridge.parity.remote import Worker, worker


class LammpsSimulator(DynamicsSimulator):
    """Dynamics in LAMMPS: ``fix langevin``, ``fix nve``, or ``fix npt`` (isotropic).

    LAMMPS runs in a process of its own, one for each worker, and reads the model from a file: with
    parameters, from one that is written for the task. The energies are not LAMMPS': the frames are
    evaluated again, by the bridge, in full precision.

    At constant pressure the centre of mass stays at rest, unlike with ASE: for very few atoms the
    ensemble is another one, by the order of 1/N.

    Atoms of one element must have one mass. Directions that are not periodic get walls of vacuum
    of 10 Å; atoms that leave it are lost, and the simulation with them.
    """

    engine = "lammps"
    ensembles = ("nvt-langevin", "nve", "npt")

    def __post_init__(self) -> None:
        super().__post_init__()
        for number in np.unique(self.atoms.numbers):
            masses = np.unique(self.atoms.get_masses()[self.atoms.numbers == number])
            if len(masses) > 1:
                raise ConfigurationError(
                    f"masses of simulator '{self.name}'",
                    expected="one for each element, as LAMMPS has them",
                    got=f"{len(masses)} for the atomic number {number}",
                    fix="choose the engine 'ase'",
                )

    def unavailable(self) -> str | None:
        """Why there is no LAMMPS with the pair style here, or ``None``."""
        why = lammps_library.missing()
        if why is None:
            try:
                lammps_plugin.build()
            except BridgeError as error:
                why = first_line(error)
        return why

    def simulate(
        self,
        model: WorkerModel,
        parameters: Parameters,
        starts: Sequence[ase.Atoms],
        plan: Plan,
        seeds: Sequence[int],
    ) -> list[Recorded]:
        """See :meth:`.DynamicsSimulator.simulate`."""
        process = _worker(torch.get_num_threads())
        with tempfile.TemporaryDirectory(prefix="alchemi-bridge-") as folder:
            path = self.file.path
            if parameters:
                path = self.file.write(parameters, Path(folder) / path.name)
            options = {"extensions_directory": self.file.extensions_directory}
            device = str(model.loaded.device)
            try:
                number = process.ask("prepare", str(path), options, device)
                try:
                    return [
                        process.ask("simulate", number, (atoms, plan, seed))
                        for atoms, seed in zip(starts, seeds, strict=True)
                    ]
                finally:
                    process.release(number)
            except BridgeError as error:
                raise self.went_wrong("in LAMMPS", error) from error


def _worker(threads: int) -> Worker:
    name = f"LAMMPS of the simulators, {threads} threads"
    return worker(
        name,
        lambda: Worker(
            [sys.executable, "-m", f"{__package__}.lammps_worker"],
            name=name,
            fix="see whether 'lmp -h' works",
            environment={"OMP_NUM_THREADS": str(threads)},
        ),
    )
