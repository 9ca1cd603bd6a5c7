"""Whether the libraries for engines, and GROMACS, can be had here; building them is the proof."""

from __future__ import annotations

from typing import Any

from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.engines import (
    gromacs,
    lammps_library,
    lammps_plugin,
    plugins,
    plumed_plugin,
)
from alchemi_bridge.errors import ConfigurationError


def engine_libraries() -> dict[str, Any]:
    """The libraries, and GROMACS, as a JSON object: where they are, or why not."""
    library = plugins.shared_python()
    found: dict[str, Any] = {
        "shared_python": None if library is None else str(library),
        "c": None,
        "plumed": None,
        "lammps": None,
        "gromacs": None,
        "gromacs_version": "",
        "c_problem": "",
        "plumed_problem": "",
        "gromacs_problem": "",
        "lammps_problem": lammps_library.missing() or "",
        "lammps_installed": lammps_library.missing() is None,
    }
    try:
        found["c"] = str(plugins.shim())
    except UnavailableError as error:
        found["c_problem"] = str(error)
    try:
        found["plumed"] = str(plumed_plugin.build())
    except ConfigurationError as error:
        found["plumed_problem"] = str(error)
    try:
        program = gromacs.find()
        found |= {"gromacs": str(program.program), "gromacs_version": program.version}
    except ConfigurationError as error:
        found["gromacs_problem"] = str(error)
    if found["lammps_installed"]:
        try:
            found["lammps"] = str(lammps_plugin.build())
        except ConfigurationError as error:
            found["lammps_problem"] = str(error)
    return found


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines for the table."""
    return [
        ("C interface", found["c"] or f"none ({found['c_problem']})"),
        ("PLUMED's interface", found["plumed"] or f"none ({found['plumed_problem']})"),
        ("LAMMPS pair style", found["lammps"] or f"none ({found['lammps_problem']})"),
        (
            "GROMACS",
            f"{found['gromacs_version']} ({found['gromacs']})"
            if found["gromacs"]
            else f"none ({found['gromacs_problem']})",
        ),
    ]


def warnings(found: dict[str, Any]) -> list[str]:
    """What a user of LAMMPS would want to know."""
    if not found["lammps_installed"]:
        return []
    if found["lammps"] is None:
        return [
            f"LAMMPS is installed, but its pair style can not be had: {found['lammps_problem']}"
        ]
    if found["shared_python"] is None:
        return [
            "this Python has no shared library, so that it can not run inside lmp: the pair style "
            "works in Python scripts only (Debian, Ubuntu: apt-get install libpython3-dev)"
        ]
    return []
