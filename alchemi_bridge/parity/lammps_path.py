"""The paths through LAMMPS: the bridge's pair style, and LAMMPS' own potentials as a reference.

LAMMPS runs in a process of its own: MPI is initialised there and not here, and a crash is the
failure of one path. What is timed is a step as in molecular dynamics, without an integrator, inside
LAMMPS: see :meth:`alchemi_bridge.engines.lammps_box.LammpsBox.step`.
"""

from __future__ import annotations

import sys

from alchemi_bridge.engines import lammps_library, lammps_plugin
from alchemi_bridge.errors import BridgeError, first_line
from alchemi_bridge.parity.cases import LENNARD_JONES, STILLINGER_WEBER
from alchemi_bridge.parity.keywords import why_no_plugin
from alchemi_bridge.parity.lammps_worker import numbers_of
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath, register
from alchemi_bridge.parity.remote import RemoteEvaluator, Worker, worker


def _worker(name: str) -> Worker:
    return worker(
        name,
        lambda: Worker(
            [sys.executable, "-m", f"{__package__}.lammps_worker"],
            name=f"path {name}",
            fix="see whether 'lmp -h' works",
        ),
    )


class LammpsPath(ParityPath):
    """The bridge as a pair style inside LAMMPS, on one process of the CPU."""

    name = "lammps"
    description = (
        "pair_style alchemi in LAMMPS, one process, on the CPU (time: a step of LAMMPS without an "
        "integrator)"
    )

    def version(self) -> str | None:
        return lammps_library.version()

    def unavailable(self) -> str | None:
        why = lammps_library.missing()
        if why is not None:
            return why
        try:
            lammps_plugin.build()
        except BridgeError as error:
            return first_line(error)
        return None

    def refuses(self, job: Job) -> str | None:
        return why_no_plugin(job, self.name)

    def prepare(self, job: Job) -> Evaluator:
        return RemoteEvaluator(
            _worker(self.name), "alchemi", str(job.model_file), dict(job.options), job.expected
        )


class NativePath(ParityPath):
    """LAMMPS' own implementation of a built-in potential."""

    name = "lammps-native"
    description = (
        "LAMMPS' own lj/cut, lj/smooth/linear or sw, in float64, one process (time: a step of "
        "LAMMPS without an integrator)"
    )

    def unavailable(self) -> str | None:
        return lammps_library.missing()

    def refuses(self, job: Job) -> str | None:
        if job.case.potential is None:
            return "LAMMPS has no form of its own for a model of yours"
        if job.case.potential.name not in (LENNARD_JONES, STILLINGER_WEBER):
            return f"LAMMPS has no potential of the form '{job.case.potential.name}'"
        return None

    def expected(self, job: Job) -> frozenset[str]:
        """Without energies of atoms for Stillinger-Weber.

        LAMMPS divides the energy of a triplet among its three atoms, the case gives it to the one
        in the middle.
        """
        potential = job.case.potential
        if potential is not None and potential.name == STILLINGER_WEBER:
            return frozenset({"energy", "forces", "virial"})
        return frozenset({"energy", "forces", "virial", "energies"})

    def prepare(self, job: Job) -> Evaluator:
        potential = job.case.potential
        assert potential is not None  # refuses() has seen to it
        return RemoteEvaluator(
            _worker(self.name), "native", potential.name, numbers_of(potential), self.expected(job)
        )


register(LammpsPath())
register(NativePath())
