"""``python -m alchemi_bridge.engines.gromacs_packages``: GROMACS 2025.2, from Debian's packages.

apt fetches the packages of Debian 13 and checks their signatures, as it does for everybody; here it
works in folders of its own, so that neither root nor the machine's set of packages is touched. What
is unpacked lies in the cache, with its own C library, and runs on older systems, too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alchemi_bridge.compiling import cache_folder
from alchemi_bridge.errors import BridgeError, ConfigurationError, last_line

#: The release of Debian whose GROMACS is taken: the first one with the PLUMED interface.
SUITE = "trixie"

#: What is fetched, with all that it depends on: GROMACS, and what starts several ranks of it.
PACKAGES = ("gromacs", "openmpi-bin")

#: Starters, and the programs that they start: mixed and double precision, and several ranks.
PROGRAMS = {"gmx": "gmx", "gmx_d": "gmx_d", "gmx_mpi": "gmx_mpi", "mpirun": "prterun"}

#: Set to the address of a mirror of Debian, where the machine's own packages come from elsewhere.
MIRROR_VARIABLE = "ALCHEMI_BRIDGE_DEBIAN_MIRROR"

#: With these apt checks who made the packages; one of them is on every Debian.
KEYRINGS = tuple(
    Path("/usr/share/keyrings") / f"debian-archive-keyring.{kind}" for kind in ("gpg", "pgp")
)

#: Folders of the packages that programs do not need; more than half of what is in them.
LEFT_OUT = tuple(
    f"usr/share/{name}"
    for name in ("doc", "fonts", "info", "javascript", "lintian", "locale", "man")
)

FETCH_TIMEOUT_SECONDS = 900.0

#: GROMACS with the C library that it was built with. The machine's own libraries are found, too,
#: which is how a program that GROMACS loads finds what it was built with.
STARTER = """#!/bin/sh
# made by alchemi_bridge: {program} of Debian's packages, with the libraries that it was built with
root=$(cd -- "$(dirname -- "$0")/../root" && pwd)
lib=$root/usr/lib/x86_64-linux-gnu
export GMXLIB="${{GMXLIB:-$root/usr/share/gromacs/top}}"
# Open MPI and what it starts ranks with look for their files where they were built for
export OPAL_PREFIX="$root/usr" PRTE_PREFIX="$root/usr" PMIX_PREFIX="$lib/pmix2"
export PMIX_MCA_pcompress_base_silence_warning=1
exec "$root/usr/lib64/ld-linux-x86-64.so.2" \\
    --library-path "$lib:$lib/openblas-pthread:$lib/blas:$lib/lapack:$lib/pmix2/lib" \\
    "$root/usr/bin/{program}" "$@"
"""


def folder() -> Path:
    """Folder of the programs; they are there once :func:`fetch` was successful."""
    return cache_folder() / f"gromacs-{SUITE}" / "bin"


def complete(made: Path) -> bool:
    """Whether all programs are in a folder."""
    return all((made / name).is_file() for name in PROGRAMS)


def fetch(mirror: str | None = None) -> Path:
    """Fetch and unpack the packages, unless that has been done.

    Parameters
    ----------
    mirror
        Address of a mirror of Debian. By default :data:`MIRROR_VARIABLE`, or else the one that the
        machine gets its own packages from.

    Returns
    -------
    Path
        Folder of the programs.

    Raises
    ------
    ConfigurationError
        If this is no machine for Debian's packages, or they can not be had.
    """
    made = folder()
    if complete(made):
        return made
    _require_machine()
    source = mirror or os.environ.get(MIRROR_VARIABLE) or own_mirror()
    home = made.parent
    # beside its place, so that it is put there at once: others may fetch at the same time
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="gromacs-") as scratch:
        ready = Path(scratch) / home.name
        for package in _download(Path(scratch) / "apt", source):
            _unpack(package, ready / "root")
        _write_starters(ready)
        try:
            if home.exists() and not complete(made):
                shutil.rmtree(home)
            ready.rename(home)
        except OSError as error:
            if not complete(made):  # nobody else was faster
                raise _refused(str(error), "see whether the cache can be written") from error
    return made


def own_mirror() -> str:
    """Address that this machine's Debian packages come from.

    Raises
    ------
    ConfigurationError
        If it is no Debian, or none of its sources is known.
    """
    system = _os_release()
    codename = system.get("VERSION_CODENAME", "")
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    wanted = "Identifier: Packages"
    lines = _said(["apt-get", "indextargets", "--format", fields, wanted]).splitlines()
    for line in lines:
        address, release, component, origin, *_ = [*line.split("|"), "", "", ""]
        # the origin is known after the first update only
        of_debian = origin == "Debian" or (not origin and system.get("ID") == "debian")
        if of_debian and component == "main" and release in (codename, SUITE, "stable", "sid"):
            return address
    raise _refused(
        f"{system.get('PRETTY_NAME', 'another system')}, whose packages come from "
        f"{'elsewhere' if lines else 'nowhere'}",
        f"name a mirror of Debian with --mirror or {MIRROR_VARIABLE}",
    )


def _require_machine() -> None:
    for program in ("apt-get", "apt-cache", "dpkg", "dpkg-deb", "tar"):
        if shutil.which(program) is None:
            raise _refused(f"no {program} here", "use GROMACS of another source")
    architecture = _said(["dpkg", "--print-architecture"]).strip()
    if architecture != "amd64":
        raise _refused(f"a machine of the kind {architecture}", "use GROMACS of another source")
    _keyring()


def _keyring() -> Path:
    for path in KEYRINGS:
        if path.is_file():
            return path
    raise _refused(
        "no keys of Debian's archive, to check the packages with",
        "install them: apt-get install debian-archive-keyring",
    )


def _download(work: Path, mirror: str) -> list[Path]:
    """The packages, GROMACS and all that it depends on, down to the C library."""
    state, cache, sources = work / "state", work / "cache", work / "sources.list"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    (state / "status").touch()  # nothing is installed
    sources.write_text(f"deb [signed-by={_keyring()}] {mirror} {SUITE} main\n", encoding="utf-8")
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": cache,
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "APT::Sandbox::User": "root",  # no other user may read a folder of ours
        "APT::Install-Recommends": "0",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    # a source that can not be reached is a warning for apt, unless it is told otherwise
    _said([*apt, "-oAPT::Update::Error-Mode=any", "update"])
    _said([*apt, "install", "-y", "--download-only", *PACKAGES])
    return sorted((cache / "archives").glob("*.deb"))


def _unpack(package: Path, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    command = ["tar", "--extract", "--no-same-owner", "--no-same-permissions"]
    command += [f"--exclude=./{left_out}" for left_out in LEFT_OUT]
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as packed:
        unpacked = subprocess.run([*command, f"--directory={root}"], stdin=packed.stdout)
    if packed.returncode != 0 or unpacked.returncode != 0:
        raise _refused(f"{package.name}, which can not be unpacked", "see whether the disk is full")


def _write_starters(home: Path) -> None:
    (home / "bin").mkdir()
    for name, program in PROGRAMS.items():
        starter = home / "bin" / name
        starter.write_text(STARTER.format(program=program), encoding="utf-8")
        starter.chmod(0o755)
        _said([str(starter), "--version"])


def _said(command: Sequence[str]) -> str:
    """What a program printed; it must not fail."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _refused(last_line(error), "see whether the network is there") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        # apt says "E: ..." for what is wrong, the first of which is the cause
        why = next((line for line in lines if line.startswith("E:")), lines[-1])
        raise _refused(
            f"'{Path(command[0]).name}' failing with: {why}",
            "see whether the network and the mirror are there",
        )
    return done.stdout


def _os_release() -> dict[str, str]:
    path = Path("/etc/os-release")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value.strip("\"'") for name, _, value in pairs}


def _refused(got: str, fix: str) -> ConfigurationError:
    return ConfigurationError(
        "GROMACS packages",
        expected=f"those of Debian 13 ({SUITE}) for amd64, fetched with apt",
        got=got,
        fix=fix,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m alchemi_bridge.engines.gromacs_packages",
        description="Fetch GROMACS 2025.2 from Debian's packages, without root, into the cache "
        "(160 MB to fetch, 400 MB unpacked), and print the folder of its programs.",
    )
    parser.add_argument("--mirror", help="address of a mirror of Debian (default: the machine's)")
    parser.add_argument(
        "--print",
        action="store_true",
        dest="only_print",
        help="fetch nothing: print the folder; exit status 1 if it is not there",
    )
    settings = parser.parse_args(arguments)
    try:
        where = folder() if settings.only_print else fetch(settings.mirror)
    except BridgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(where)
    return 0 if complete(where) else 1


if __name__ == "__main__":
    sys.exit(main())
