"""The path through nvalchemi: all frames of a case in one batch of its, evaluated in one call.

It runs in a process of its own: what nvalchemi imports takes seconds, and writes to the terminal.
"""

from __future__ import annotations

import sys

import numpy as np

from alchemi_bridge.engines import nvalchemi_version
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath, register
from alchemi_bridge.parity.remote import RemoteEvaluator, Worker, worker


def _worker() -> Worker:
    return worker(
        "nvalchemi",
        lambda: Worker(
            [sys.executable, "-m", f"{__package__}.nvalchemi_worker"],
            name="path nvalchemi",
            fix="see whether 'python -c \"import nvalchemi.dynamics\"' works",
        ),
    )


class NvalchemiPath(ParityPath):
    """The model behind nvalchemi's contract, on the CPU."""

    name = "nvalchemi"
    description = (
        "MetatomicModel in nvalchemi, the frames of a case in one batch, on the CPU (time: the "
        "evaluation of a step, without an integrator)"
    )

    def unavailable(self) -> str | None:
        return nvalchemi_version.missing()

    def refuses(self, job: Job) -> str | None:
        if "cpu" not in job.loaded.capabilities.supported_devices:
            return "the model does not support cpu"
        if job.loaded.requested_inputs:
            return f"the model requests {', '.join(job.loaded.requested_inputs)}"
        if any(atoms.pbc.all() and np.linalg.det(atoms.cell.array) < 0.0 for atoms in job.frames):
            return "nvalchemi needs right-handed cells"
        return None

    def expected(self, job: Job) -> frozenset[str]:
        """Without energies of atoms, and without a virial where there is no stress."""
        periodic = all(atoms.pbc.all() for atoms in job.frames)
        return job.expected - ({"energies"} if periodic else {"energies", "virial"})

    def prepare(self, job: Job) -> Evaluator:
        return RemoteEvaluator(
            _worker(), str(job.model_file), dict(job.options), "virial" in self.expected(job)
        )


register(NvalchemiPath())
