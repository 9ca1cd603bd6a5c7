"""The loop over steps: ASE's integrators, with a stop that leaves everything in order."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

from alchemi_bridge.cli.console import progress
from alchemi_bridge.cli.md_record import Recorder
from alchemi_bridge.cli.md_settings import Settings
from alchemi_bridge.cli.md_start import Start, StepNoise
from alchemi_bridge.errors import BridgeError

logger = logging.getLogger(__name__)


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a wish that is granted between two steps.

    In the middle of a step, positions and momenta belong to different times. A second signal of
    the same kind does what it always does.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])
        logger.warning("stopping after this step; once more to stop at once")


def _steps(atoms: Atoms, settings: Settings, start: Start) -> Iterator[tuple[int, bool]]:
    """``(step, converged)`` with the state at ``step`` in ``atoms``, beginning with the first."""
    remaining = max(settings.steps - start.step, 0)
    timestep = settings.timestep * units.fs
    dynamics: Any
    if settings.ensemble == "fire":
        dynamics = FIRE(atoms, logfile=None)
        for converged in dynamics.irun(fmax=settings.fmax, steps=remaining):
            yield start.step + dynamics.nsteps, bool(converged)
        return
    noise = StepNoise(start.seed)
    if settings.ensemble == "langevin":
        dynamics = Langevin(
            atoms,
            timestep,
            temperature_K=settings.temperature,
            friction=settings.friction / (1000 * units.fs),
            fixcm=False,
            rng=noise,
        )
    else:
        dynamics = VelocityVerlet(atoms, timestep)
    for _ in dynamics.irun(steps=remaining):
        step = start.step + dynamics.nsteps
        noise.start(step)
        yield step, False


def run_dynamics(
    atoms: Atoms, settings: Settings, start: Start, recorder: Recorder, stop: StopSignals
) -> tuple[int, bool]:
    """Do the remaining steps.

    Parameters
    ----------
    atoms
        The state at ``start``, with a calculator; changed in place.

    Returns
    -------
    step, converged
        The last step done, and whether FIRE has converged.

    Raises
    ------
    BridgeError
        What the calculator finds wrong on the way. Everything recorded before stays.
    """
    step, converged = start.step, False
    total = max(settings.steps - start.step, 0) + 1
    try:
        steps = _steps(atoms, settings, start)
        for state in progress(steps, f"{settings.ensemble} steps", total=total):
            step, converged = state
            recorder.observe(step)
            if stop.received is not None:
                break
        recorder.observe(step, last=True)
    except BridgeError:
        logger.error(
            "stopped in the step after step %d; what was recorded until then is on file", step
        )
        raise
    return step, converged
