"""Ray in the tests: local sessions of two cores, begun and ended by the tests themselves."""

from __future__ import annotations

import gc
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mpi_runs import ROOT, skip_if

from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor

needs_ray = skip_if("" if importlib.util.find_spec("ray") else "Ray is not installed")

#: For modules that run Ray: what it does not close itself is seen whenever memory is collected.
ray_marks = [
    needs_ray,
    # Ray's own sockets and pipes to the processes that it started
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # a tip about the next version's treatment of tasks without a GPU
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]

#: Two cores whatever the machine has, and little memory.
LOCAL = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": 100 * 2**20}


@contextmanager
def local_ray(**options: object) -> Iterator[RayExecutor]:
    """An executor with a Ray of its own; a start takes some seconds, so keep it for a module."""
    with pytest.MonkeyPatch.context() as patch:
        # Ray's processes inherit it, so that workers find the units of the tests
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), str(ROOT), *_inherited()]))
        try:
            with RayExecutor("local", init_options={**LOCAL, **options}) as executor:
                yield executor
        finally:
            collect()


def collect() -> None:
    """Let go of what Ray left open: it does not wait for the processes that it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _inherited() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
