"""glibc keeps what a step frees: no page is asked of the system twice."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alchemi_bridge import MetatomicForceProvider
from alchemi_bridge import errors as e
from alchemi_bridge.device import host_memory

#: Faults of one round if its 80 MB (20,000 pages) are asked for again, and if they are not. Large
#: pages make fewer of blocks of 40 MB.
MANY, FEW = {"small": 5_000, "large": 30}, {"small": 500, "large": 5}

#: Blocks of 4 MB, of which there are many, and of 40 MB, each of which glibc would map.
BLOCKS = {"small": (500_000, 20), "large": (5_000_000, 2)}

#: A round like a step: more and more blocks, and all freed at the end.
PROGRAM = """
import resource, sys
import numpy as np
from alchemi_bridge.device.host_memory import keep_freed_memory

def round_of_a_step():
    blocks = [np.ones(int(sys.argv[1])) for _ in range(int(sys.argv[2]))]
    return sum(float(block[-1]) for block in blocks)

kept = keep_freed_memory()
for _ in range(5):
    round_of_a_step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    round_of_a_step()
print(int(kept), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


def faults(value: str, size: str) -> tuple[bool, int]:
    """Whether memory is kept, and page faults of a round, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, BLOCKS[size])],
        env={**os.environ, host_memory.VARIABLE: value},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    kept, count = done.stdout.split()
    return bool(int(kept)), int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
@pytest.mark.parametrize("size", BLOCKS)
def test_freed_memory_is_kept(size: str) -> None:
    assert faults("1", size) == (True, pytest.approx(0, abs=FEW[size]))
    kept, count = faults("0", size)
    assert not kept
    assert count > MANY[size], "without it the pages come and go: else this test shows nothing"


def test_the_variable(monkeypatch: pytest.MonkeyPatch, model_file: Callable[..., Path]) -> None:
    monkeypatch.setenv(host_memory.VARIABLE, "0")
    assert host_memory.keep_freed_memory() is False
    monkeypatch.setenv(host_memory.VARIABLE, "all of it")
    with pytest.raises(e.ConfigurationError, match=host_memory.VARIABLE):
        MetatomicForceProvider(model_file("lennard-jones"), device="cpu")


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        mallopt = None

        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: Musl())
    assert host_memory.set_thresholds(trim=1 << 20, mapped=1 << 20, blocks=0) is False
