"""A model behind LAMMPS' fix external."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lammps_runs import needs_lammps, run_script
from mpi_runs import needs_mpi, run_ranks

SCRIPT = Path(__file__).parent / "lammps_external_run.py"
PARAMETERS = "2.1683 2.0951 1.8 21 1.2 -0.33333333333333331 7.049556277 0.6022245584 4 0 0"
FAST = [
    "in_a_skewed_box_with_sorting",
    "energies_of_atoms",
    "a_region",
    "atoms_come_and_go",
    "errors_reach_the_user",
    "refusals",
]
LONG = ["in_every_unit", "under_pressure", "minimised", "silicon_with_a_free_surface"]


@needs_lammps
@pytest.mark.parametrize("checks", [FAST, pytest.param(LONG, marks=pytest.mark.slow)])
def test_the_model_is_a_potential_of_lammps(
    checks: list[str], model_file: Callable[..., Path], tmp_path: Path
) -> None:
    parameters = tmp_path / "Si.sw"
    parameters.write_text(f"Si Si Si {PARAMETERS}\n", encoding="utf-8")
    files = [
        model_file("lennard-jones", truncation="none"),
        model_file("stillinger-weber"),
        parameters,
    ]
    printed = run_script(SCRIPT, *files, *checks)
    assert [line for line in printed.splitlines() if line.endswith("all right")] == [
        f"{name} all right" for name in checks
    ]


@needs_lammps
@needs_mpi
@pytest.mark.slow
def test_several_ranks_are_refused(model_file: Callable[..., Path]) -> None:
    source = """
import sys
from alchemi_bridge.engines import lammps_library
from alchemi_bridge.engines.lammps_external import attach
from alchemi_bridge.errors import ConfigurationError

lmp = lammps_library.start()
lmp.commands_string("region box block 0 9 0 9 0 9\\nunits metal\\ncreate_box 1 box")
try:
    attach(lmp, sys.argv[1], [18])
except ConfigurationError as error:
    print(error)
"""
    done = run_ranks(2, source, model_file("lennard-jones"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("got 2 ranks; use 'pair_style alchemi'") == 2


def test_the_module_needs_no_lammps() -> None:
    code = (
        "import sys; sys.modules['lammps'] = None; sys.modules['mpi4py'] = None\n"
        "import alchemi_bridge.engines.lammps_external, alchemi_bridge.engines.lammps_box\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
