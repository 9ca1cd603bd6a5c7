"""``make gpu-check`` has to start where only the package's own needs and pytest are installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Refuses the test tools and peers that a GPU machine may lack, then collects the GPU tests.
#: nvalchemi brings some of these tools: where it is installed it is looked over, in both ways.
COLLECT = """
import sys
from alchemi_bridge.engines import nvalchemi_version
nvalchemi_version._version = lambda name: None
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hypothesis", "rich", "metatomic_ase", "xdist", "pytest_timeout"):
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
import pytest
options = ["-q", "--collect-only", "-m", "gpu", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*options, *sys.argv[1:]]))
"""


#: The same with all tools that are there.
COLLECT_ALL = COLLECT.replace("sys.meta_path.insert(0, Missing())", "")


@pytest.mark.slow  # all tests are collected, twice
def test_gpu_tests_are_collected_without_test_tools() -> None:
    asked = subprocess.run(
        ["make", "--dry-run", "--always-make", "gpu-check", f"PYTHON={sys.executable}"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    files = sorted(set(re.findall(r"tests/test_\w+\.py", asked.stdout)))
    assert len(files) > 10, asked.stdout + asked.stderr
    assert collected(files) == collected(["tests"], COLLECT_ALL)


def collected(arguments: list[str], program: str = COLLECT) -> int:
    """How many GPU tests there are."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return int(re.search(r"(\d+)/\d+ tests collected", done.stdout)[1])
