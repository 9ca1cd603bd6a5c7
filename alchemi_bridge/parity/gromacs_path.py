"""The path through GROMACS: the bridge behind its PLUMED interface, in double precision.

What is timed is the mean of GROMACS' own steps, with its integrator, over a run of atoms that move
a little in each of them: see :class:`alchemi_bridge.engines.gromacs_box.GromacsBox`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from alchemi_bridge.engines import gromacs, plugins, plumed_plugin
from alchemi_bridge.engines.gromacs_box import GromacsBox
from alchemi_bridge.errors import BridgeError, first_line
from alchemi_bridge.parity.keywords import keywords, why_no_plugin
from alchemi_bridge.parity.paths import Evaluator, Job, ParityPath, register
from alchemi_bridge.parity.results import PathResult


class _GromacsEvaluator(Evaluator):
    """A model in GROMACS."""

    def __init__(self, box: GromacsBox, virial: bool) -> None:
        self._box = box
        self._virial = virial

    def evaluate(self, frames: Sequence[Atoms]) -> list[PathResult]:
        return [
            PathResult(found.energy, found.forces, found.virial if self._virial else None)
            for found in self._box.evaluate(frames)
        ]

    def step(self, atoms: Atoms) -> float:
        """Time of a step, ms: the mean of one run, as each start of GROMACS takes seconds."""
        if self._box.step_ms is None:
            self._box.evaluate([atoms])
        assert self._box.step_ms is not None  # the first run is timed
        return self._box.step_ms


class GromacsPath(ParityPath):
    """The bridge in an unmodified GROMACS, in double precision, on one process of the CPU."""

    name = "gromacs"
    description = (
        "stock GROMACS in double precision with the bridge behind its PLUMED interface, one "
        "process, on the CPU (time: mean of GROMACS' own steps, in a run of its own)"
    )

    def version(self) -> str | None:
        return gromacs.find(double=True).version

    def unavailable(self) -> str | None:
        why = gromacs.missing(double=True)
        if why is not None:
            return why
        if plugins.shared_python() is None:
            return (
                "this Python has no shared library (Debian, Ubuntu: apt-get install libpython3-dev)"
            )
        try:
            plumed_plugin.build()
        except BridgeError as error:
            return first_line(error)
        return None

    def refuses(self, job: Job) -> str | None:
        why = why_no_plugin(job, self.name)
        endless = not np.isfinite(job.loaded.interaction_range)
        if why is None and endless and not all(atoms.pbc.all() for atoms in job.frames):
            return "GROMACS has no free space, and the model's interaction range is infinite"
        return why

    def expected(self, job: Job) -> frozenset[str]:
        """Without energies of atoms, for which the interface has no place."""
        return job.expected - {"energies"}

    def prepare(self, job: Job) -> Evaluator:
        reach = job.loaded.interaction_range
        box = GromacsBox(
            gromacs.find(double=True),
            job.model_file,
            keywords(job.options, self.name),
            reach if np.isfinite(reach) else 0.0,
        )
        return _GromacsEvaluator(box, "virial" in job.expected)


register(GromacsPath())
