"""What the simulators have in common: start, random numbers, energies, the trajectory."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import ase
import numpy as np

from alchemi_bridge.engines.structure_files import read_structure
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.ensembles.models import ModelFile, WorkerModel, require_no_inputs
from alchemi_bridge.ensembles.simulators.checks import check_repetition, check_structure
from alchemi_bridge.ensembles.simulators.frames import energies_of
from alchemi_bridge.ensembles.simulators.plan import (
    Plan,
    Recorded,
    State,
    seed_of,
    start_of,
)
from alchemi_bridge.ensembles.trajectory import Origin, Trajectory
from alchemi_bridge.ensembles.work import Parameters, Simulator
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    EvaluationError,
    SpeciesError,
    first_line,
)


@dataclass(kw_only=True, eq=False)
class DynamicsSimulator(Simulator):
    """Molecular dynamics of a structure; it makes one trajectory each time.

    Parameters
    ----------
    name
        Random numbers are drawn by it.
    model
        The model file, or a :class:`~alchemi_bridge.ensembles.models.ModelFile`.
    structure
        Where it starts: a structure of ASE, or a file, of which the last frame counts.
    temperature
        K. With ``"nve"``: of the first velocities; 0 keeps those of the structure.
    timestep
        fs.
    steps
        Steps from which frames are kept, after the equilibration.
    equilibration
        Steps before the first frame that is kept.
    again
        The same for later runs that continue from the last state; the same number by default.
    every
        Steps from one frame to the next; the first is kept after as many.
    ensemble
        ``"nvt-langevin"``, ``"nve"``, or ``"npt"`` (isotropic, of at least two atoms), where the
        engine has it: ASE with Langevin's thermostat, LAMMPS with Nosé's and Hoover's.
    friction
        Of Langevin dynamics, 1/ps.
    pressure
        GPa, with ``"npt"``.
    replicas
        Independent simulations within the task: one trajectory with the frames of all of them.
    continue_from_last
        Whether a later run begins where the last one ended; or from the structure with other
        velocities.
    seed
        Another number gives other random numbers. Those of a run depend on it, on the name, and on
        how often it has run before: the same ones whenever the whole is repeated. Trajectories are
        then the same to roundoff, which chaotic motion makes larger in time: the bridge measures
        which way of evaluating the model is fastest, and these differ in the last digits.
    hints
        Resources; ``None`` for the run's default.
    """

    name: str
    model: ModelFile | str | os.PathLike[str]
    structure: ase.Atoms | str | os.PathLike[str]
    temperature: float = 0.0
    timestep: float = 1.0
    steps: int = 1000
    equilibration: int = 0
    again: int | None = None
    every: int = 10
    ensemble: str = "nvt-langevin"
    friction: float = 1.0
    pressure: float | None = None
    replicas: int = 1
    continue_from_last: bool = True
    seed: int = 0
    hints: SchedulerHints | None = None
    file: ModelFile = field(init=False, repr=False)

    #: Its name in reports and configurations, and what it can sample.
    engine: ClassVar[str] = ""
    ensembles: ClassVar[tuple[str, ...]] = ()
    outputs = ("trajectory",)

    def __post_init__(self) -> None:
        self.file = ModelFile.of(self.model)
        if isinstance(self.structure, ase.Atoms):
            self.structure = self.structure.copy()  # without a calculator, which may not travel
        else:
            self.structure = read_structure(Path(self.structure))
        what = f"simulator '{self.name}'"
        self.plan(0).check(what)
        check_repetition(self, what)
        if self.ensemble not in self.ensembles:
            raise ConfigurationError(
                f"ensemble of {what}",
                expected=f"one of {', '.join(self.ensembles)}, which {self.engine} has",
                got=repr(self.ensemble),
                fix="choose one of them, or another engine",
            )
        check_structure(self, what)

    @property
    def atoms(self) -> ase.Atoms:
        """The structure."""
        assert isinstance(self.structure, ase.Atoms)  # __post_init__ has read it
        return self.structure

    def plan(self, run: int) -> Plan:
        """What a run does."""
        equilibration = self.equilibration
        if run > 0 and self.continue_from_last and self.again is not None:
            equilibration = self.again
        return Plan(
            ensemble=self.ensemble,
            temperature=self.temperature,
            timestep=self.timestep,
            steps=self.steps,
            equilibration=equilibration,
            every=self.every,
            friction=self.friction,
            pressure=self.pressure,
        )

    def unavailable(self) -> str | None:
        """Why the engine can not run here, or ``None``."""
        return None

    def check(self) -> None:
        """Whether engine, model and structure go together.

        Raises
        ------
        ConfigurationError
            If the engine is not installed.
        SpeciesError
            If there are atoms that the model does not know.
        BridgeError
            What :func:`alchemi_bridge.model.load_model` raises.
        """
        why = self.unavailable()
        if why is not None:
            raise ConfigurationError(
                f"engine '{self.engine}' of simulator '{self.name}'",
                expected="one that is installed",
                got=why,
                fix="install it, or choose another engine",
            )
        self.file = self.file.check()
        require_no_inputs(self.file, f"simulator '{self.name}'")
        known = self.file.facts().atomic_types
        unknown = sorted(set(self.atoms.numbers.tolist()) - known)
        if unknown:
            raise SpeciesError(
                f"structure of simulator '{self.name}'",
                expected=f"atomic numbers among {sorted(known)}",
                got=f"{unknown}",
                fix="choose a model that knows them",
            )

    def run(self, parameters: Parameters, state: Any | None) -> tuple[tuple[Any, ...], State]:
        """Simulate; see :meth:`alchemi_bridge.ensembles.work.Simulator.run`.

        Raises
        ------
        EvaluationError
            If the dynamics go wrong; it names the step.
        """
        number = 0 if state is None else state.run + 1
        goes_on = state is not None and self.continue_from_last
        model = self.file.load(parameters)
        plan = self.plan(number)
        starts, seeds = [], []
        for k in range(self.replicas):
            seeds.append(seed_of(self.name, number, k, self.seed))
            drawn = seed_of(self.name, number, k, self.seed, "velocities")
            starts.append(
                state.members[k].placed(self.atoms)
                if goes_on and state is not None
                else start_of(self.atoms, self.temperature, drawn)
            )
        recorded = self.simulate(model, parameters, starts, plan, seeds)
        began = state.time if goes_on and state is not None else 0.0
        trajectory = self._trajectory(model, parameters, recorded, plan, number, began)
        ended = began + (plan.equilibration + plan.steps) * plan.timestep
        return (trajectory,), State(number, ended, tuple(r.last for r in recorded))

    @abstractmethod
    def simulate(
        self,
        model: WorkerModel,
        parameters: Parameters,
        starts: Sequence[ase.Atoms],
        plan: Plan,
        seeds: Sequence[int],
    ) -> list[Recorded]:
        """Move the replicas.

        Parameters
        ----------
        model
            With the parameters in it.
        parameters
            The same, for engines that need a file.
        starts
            With velocities; they may be changed.
        plan
            What to do.
        seeds
            Of random numbers, 63 bits, one for each.
        """

    def _trajectory(
        self,
        model: WorkerModel,
        parameters: Parameters,
        recorded: Sequence[Recorded],
        plan: Plan,
        number: int,
        began: float,
    ) -> Trajectory:
        n_frames = plan.n_frames
        times = began + plan.timestep * (
            plan.equilibration + plan.every * np.arange(1, n_frames + 1)
        )
        atoms = self.atoms
        thermostat = np.nan if plan.ensemble == "nve" else plan.temperature
        parts = []
        for k, part in enumerate(recorded):
            origin = Origin(
                simulator=self.name if self.replicas == 1 else f"{self.name}/{k}",
                engine=self.engine,
                model=str(self.file.path),
                sha256=model.sha256,
                ensemble=plan.ensemble,
                run=number,
                pressure=plan.pressure,
                parameters={n: v.detach().cpu().numpy().copy() for n, v in parameters.items()},
            )
            try:
                energies = part.energies
                if energies is None:
                    energies = energies_of(model, atoms, part)
                made = Trajectory(
                    numbers=atoms.numbers,
                    masses=atoms.get_masses(),
                    pbc=atoms.pbc,
                    positions=part.positions,
                    cells=part.cells,
                    energies=energies,
                    temperatures=np.full(n_frames, thermostat),
                    times=times,
                    origin=np.zeros(n_frames, dtype=np.int64),
                    origins=(origin,),
                )
            except BridgeError as error:
                raise self.went_wrong("its frames", error) from error
            parts.append(made)
        return parts[0] if len(parts) == 1 else Trajectory.concatenate(parts)

    def went_wrong(self, where: str, error: BaseException) -> EvaluationError:
        """The error that says where a simulation ended."""
        return EvaluationError(
            f"simulator '{self.name}', {where}",
            expected="dynamics that stay in order",
            got=first_line(error),
            fix="take a shorter time step, a relaxed structure, or parameters that are nearer to "
            "good ones",
        )
