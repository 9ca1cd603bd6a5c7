"""What this machine offers: packages against their accepted range, devices, MPI, compilers.

The accepted ranges stand in one place, the package's own metadata (``pyproject.toml``). What loads
an MPI or a CUDA library is imported in a process of its own, with a time limit: a broken one may
hang or crash, and that is a finding, not a reason to fail with it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

DISTRIBUTION = "alchemi-bridge"

#: Seconds that one probe may take; a first import of a large package from a cold disk is slow.
PROBE_SECONDS = 60.0

#: Modules of distributions that are not named like them; None where there is nothing to import.
_MODULES = {
    "metatensor-torch": "metatensor.torch",
    "metatomic-ase": "metatomic_ase",
    "metatomic-torch": "metatomic.torch",
    "nvalchemi-toolkit": "nvalchemi",
    "nvalchemi-toolkit-ops": "nvalchemiops",
    "cupy-cuda12x": "cupy",
    "cupy-cuda13x": "cupy",
    "mpich": None,
}

#: Extras whose packages load foreign native libraries when they are imported, or print what they
#: load; mpi4py itself does so in ``mpi4py.MPI`` only, which :func:`mpi` looks at.
_ISOLATED = frozenset({"lammps", "cuda12", "cuda13", "nvalchemi", "peers", "ray"})

#: Extras that are for those who work on the package, not for those who use it.
_DEVELOPMENT = frozenset({"dev", "test", "docs"})

#: Whether a package is there and in the range that the tests cover.
OK, UNTESTED, MISSING, BROKEN = "ok", "untested", "missing", "broken"


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes
    ----------
    name
        Of the distribution.
    version
        What is installed; None if nothing is.
    accepted
        Version specifier that the tests cover.
    extra
        The extra that brings it; None for those that are always needed.
    status
        ``"ok"``, ``"untested"`` (other version), ``"missing"`` or ``"broken"`` (import fails).
    detail
        Why it is broken.
    """

    name: str
    version: str | None
    accepted: str
    extra: str | None
    status: str
    detail: str = ""


def packages() -> list[Package]:
    """Python and every package that this one needs or can use, in the order of the metadata."""
    python_range, requirements = _metadata()
    version = platform.python_version()
    python = Package("python", version, python_range, None, _status(version, python_range))
    return [python, *(_package(requirement, extra) for requirement, extra in requirements)]


def _metadata() -> tuple[str, list[tuple[Requirement, str | None]]]:
    """Range of Python, and requirements with the extra that brings them."""
    try:
        found = metadata.metadata(DISTRIBUTION)
        python = found["Requires-Python"] or ""
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        python, lines = _project_file()
    return python, list(_requirements(lines))


def _project_file() -> tuple[str, list[str]]:
    """The same from ``pyproject.toml``, for a checkout that is not installed."""
    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if not path.is_file():
        return "", []
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra, entries in project.get("optional-dependencies", {}).items():
        lines += [f"{entry} ; extra == '{extra}'" for entry in entries]
    return str(project["requires-python"]), lines


def _requirements(lines: Sequence[str]) -> Iterator[tuple[Requirement, str | None]]:
    seen: set[str] = set()
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # metadata of another build tool; nothing to compare with
            continue
        match = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", str(requirement.marker or ""))
        extra = match.group(1) if match else None
        if extra in _DEVELOPMENT or requirement.name == DISTRIBUTION or requirement.name in seen:
            continue
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra or ""}):
            continue  # for another platform or Python
        seen.add(requirement.name)
        yield requirement, extra


def _package(requirement: Requirement, extra: str | None) -> Package:
    name = requirement.name
    # ">=" before "<"
    accepted = ",".join(sorted(map(str, requirement.specifier), reverse=True))
    module = _MODULES.get(name, name.replace("-", "_"))
    version = _version(name)
    if version is None:
        return Package(name, None, accepted, extra, MISSING)
    error = "" if module is None else import_error(module, isolated=extra in _ISOLATED)
    status = BROKEN if error else _status(version, accepted)
    return Package(name, version, accepted, extra, status, error)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _status(version: str, accepted: str) -> str:
    try:
        inside = SpecifierSet(accepted).contains(Version(version), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return UNTESTED
    return OK if inside else UNTESTED


def import_error(module: str, *, isolated: bool) -> str:
    """Why a module can not be imported; empty if it can.

    Parameters
    ----------
    isolated
        Try in a process of its own.
    """
    if isolated:
        return probe(f"import {module}")[1]
    try:
        __import__(module)
    except Exception as error:  # a broken package may raise anything at import
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def probe(code: str, seconds: float = PROBE_SECONDS) -> tuple[str, str]:
    """Run Python code in a process of its own.

    Returns
    -------
    output, error
        What it printed, and why it failed (empty if it did not).
    """
    from alchemi_bridge.domain.ranks import environment_of_one

    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment_of_one(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {seconds:g} s"
    except OSError as error:
        return "", str(error)
    if done.returncode == 0:
        return done.stdout.strip(), ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    return done.stdout.strip(), lines[-1] if lines else f"ended with {how}"


# --- devices --------------------------------------------------------------------------------------


def devices() -> dict[str, Any]:
    """CPU threads and GPUs, as a JSON object."""
    import torch

    from alchemi_bridge.device import cuda_devices

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    gpus = []
    for index in range(cuda_devices()):
        properties = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / 2**30, 1),
                "capability": f"{properties.major}.{properties.minor}",
                # a GPU that this build of torch has no code for fails at the first kernel
                "supported_by_torch": _has_code_for(properties.major, properties.minor),
            }
        )
    return {
        "cpu": {
            "cores": os.cpu_count(),
            "usable_cores": available,
            "torch_threads": torch.get_num_threads(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        },
        "cuda": {"torch_built_for": torch.version.cuda, "devices": gpus},
    }


def _has_code_for(major: int, minor: int) -> bool:
    import torch

    for architecture in torch.cuda.get_arch_list():
        kind, _, number = architecture.partition("_")
        match = re.match(r"(\d+)(\d)", number)
        if match is None:
            continue
        built = int(match.group(1)), int(match.group(2))
        # PTX runs on all later GPUs, machine code on those of the same generation
        if built <= (major, minor) and (kind == "compute" or built[0] == major):
            return True
    return False


# --- MPI ------------------------------------------------------------------------------------------

_MPI_PROBE = """
import json
from mpi4py import MPI
print(json.dumps({
    "library": MPI.Get_library_version().strip("\\x00 \\n").splitlines()[0],
    "standard": ".".join(map(str, MPI.Get_version())),
}))
"""


@dataclass(frozen=True)
class Mpi:
    """MPI as this Python sees it.

    Attributes
    ----------
    mpi4py
        Its version; None if it is not installed.
    library, standard
        The library's own version line, and the version of the MPI standard that it follows.
    mpiexec
        The launcher beside this Python, or else on the path.
    error
        Why MPI can not be initialised; empty if it can, or if there is no mpi4py.
    """

    mpi4py: str | None
    library: str | None
    standard: str | None
    mpiexec: str | None
    error: str


def mpi(seconds: float = PROBE_SECONDS) -> Mpi:
    """Look at MPI; importing mpi4py.MPI initialises it, so that happens in another process."""
    version = _version("mpi4py")
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    mpiexec = beside or shutil.which("mpiexec")
    if version is None:
        return Mpi(None, None, None, mpiexec, "")
    output, error = probe(_MPI_PROBE, seconds)
    if error:
        return Mpi(version, None, None, mpiexec, error)
    try:
        found = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return Mpi(version, None, None, mpiexec, f"unexpected output {output!r}")
    return Mpi(version, found["library"], found["standard"], mpiexec, "")


# --- native code ----------------------------------------------------------------------------------

_NVRTC_PROBE = """
from cupy_backends.cuda.libs import nvrtc
print(".".join(map(str, nvrtc.getVersion())))
"""


def native() -> dict[str, Any]:
    """What runs the hot path on each type of device, and its compilers, as a JSON object."""
    paths = {kind: _kernel_path(kind) for kind in ("cpu", "cuda")}
    cupy = next((name for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if _version(name)), None)
    nvrtc, nvrtc_error = probe(_NVRTC_PROBE) if cupy else ("", "CuPy is not installed")
    compiler = _host_compiler()
    return {
        "active": "; ".join(f"{kind}: {path['description']}" for kind, path in paths.items()),
        "paths": paths,
        "compiler": _first_line([compiler, "--version"]) if compiler else None,
        "nvcc": shutil.which("nvcc"),
        "cupy": None if cupy is None else f"{cupy} {_version(cupy)}",
        "nvrtc": nvrtc or None,
        "nvrtc_error": nvrtc_error,
    }


def _kernel_path(kind: str) -> dict[str, Any]:
    """What runs kernels on a type of device; building them is the proof that they can be built."""
    try:
        from alchemi_bridge.errors import BridgeError
        from alchemi_bridge.native import kernel_path, select
    except Exception as error:  # torch is broken, or not there: said elsewhere, too
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return _described(f"none ({reason})", problem=reason)
    said, select.LOGGER.disabled = select.LOGGER.disabled, True
    try:
        path = kernel_path(kind)
    except BridgeError as error:  # compiled kernels were demanded, and can not be had
        return _described(f"none ({error})", problem=str(error))
    finally:
        select.LOGGER.disabled = said
    library = getattr(path.launcher, "library", None)
    cache = getattr(path.launcher, "cache", None) if library is None else library.parent
    return _described(
        path.description,
        compiled=path.launcher is not None,
        cache=None if cache is None else str(cache),
        chosen=os.environ.get(select.VARIABLE) == "torch",
    )


def _described(
    description: str,
    *,
    compiled: bool = False,
    cache: str | None = None,
    chosen: bool = False,
    problem: str = "",
) -> dict[str, Any]:
    """One way: whether kernels are compiled, into which folder, and why not."""
    return {
        "description": description,
        "compiled": compiled,
        "cache": cache,
        "plain_torch_chosen": chosen,
        "problem": problem,
    }


def _host_compiler() -> str | None:
    """The compiler of the host's kernels."""
    try:
        from alchemi_bridge.compiling import find_compiler
    except Exception:  # torch is broken, or not there: nothing is compiled then
        return None
    return find_compiler()


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def as_documents(entries: Sequence[Package]) -> list[dict[str, Any]]:
    """Packages as JSON objects."""
    return [asdict(entry) for entry in entries]
