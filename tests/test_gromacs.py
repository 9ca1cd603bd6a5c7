"""Which GROMACS is taken, and what is said of one that can not be."""

from __future__ import annotations

from pathlib import Path

import gromacs_runs
import pytest
from gromacs_runs import needs_gromacs

from alchemi_bridge.engines import gromacs, gromacs_commands, gromacs_packages
from alchemi_bridge.errors import ConfigurationError, EvaluationError

VERSION = """
GROMACS version:     {version}
Precision:           {precision}
"""


def program(path: Path, version: str, precision: str = "mixed", options: str = "-plumed") -> Path:
    """A program that says of itself what GROMACS says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = VERSION.format(version=version, precision=precision)
    path.write_text(
        "#!/bin/sh\n"
        f"case \"$*\" in *--version*) cat <<'E'\n{told}E\n;; *'mdrun -h'*) echo '{options}';;\n"
        "*) echo 'said something'; echo 'and fails' >&2; exit 3;; esac\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing in the cache, and one folder of programs besides the system's."""
    monkeypatch.delenv(gromacs.PROGRAM_VARIABLE, raising=False)
    monkeypatch.setenv("ALCHEMI_BRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gromacs.shutil, "which", lambda name: found(tmp_path / "bin", str(name)))
    return tmp_path


def found(folder: Path, name: str) -> str | None:
    path = folder / name
    return str(path) if path.is_file() else None


def test_without_any(bare: Path) -> None:
    for double in (False, True):
        why = gromacs.missing(double=double)
        assert why is not None
        assert "gromacs_packages" in why
        assert gromacs.PROGRAM_VARIABLE in why
        assert ("double precision" in why) is double
    with pytest.raises(ConfigurationError, match="none in PATH"):
        gromacs.find()


def test_the_named_one_before_the_fetched_one_before_that_in_path(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(bare / "bin" / "gmx_mpi", "2025.4")
    assert gromacs.find() == gromacs_commands.Gromacs(bare / "bin" / "gmx_mpi", "2025.4", False)
    program(bare / "bin" / "gmx", "2026.1")
    assert gromacs.find().version == "2026.1"
    fetched = program(gromacs_packages.folder() / "gmx", "2025.2-Debian_2025.2_1")
    assert gromacs.find() == gromacs_commands.Gromacs(fetched, "2025.2-Debian_2025.2_1", False)
    named = program(bare / "mine" / "gmx", "2027")
    monkeypatch.setenv(gromacs.PROGRAM_VARIABLE, str(named))
    assert gromacs.find() == gromacs_commands.Gromacs(named, "2027", False)
    # the one of the other precision is beside it
    double = program(bare / "mine" / "gmx_d", "2027", "double")
    assert gromacs.find(double=True) == gromacs_commands.Gromacs(double, "2027", True)


@pytest.mark.parametrize(
    ("version", "options", "words"),
    [
        ("2022.5-Debian_2022.5_2", "-plumed", ["2022.5", "too old", "2025 or later"]),
        ("2025.2", "-other", ["without it", "PLUMED"]),
    ],
)
def test_one_that_can_not_load_the_bridge(
    bare: Path, version: str, options: str, words: list[str]
) -> None:
    program(bare / "bin" / "gmx", version, options=options)
    with pytest.raises(ConfigurationError) as raised:
        gromacs.find()
    for word in [*words, "gromacs_packages"]:
        assert word in str(raised.value)
    assert gromacs.missing() == str(raised.value)


def test_a_program_that_is_no_gromacs(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gromacs.PROGRAM_VARIABLE, "/bin/true")
    with pytest.raises(ConfigurationError, match="no GROMACS"):
        gromacs.find()
    monkeypatch.setenv(gromacs.PROGRAM_VARIABLE, str(bare / "not there"))
    with pytest.raises(ConfigurationError, match="not there"):
        gromacs.find()


def test_the_one_of_the_wrong_precision(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = program(bare / "mine" / "gmx", "2025.2")
    monkeypatch.setenv(gromacs.PROGRAM_VARIABLE, str(named))
    with pytest.raises(ConfigurationError, match=r"double precision.*mixed"):
        gromacs.find(double=True)


def test_a_command_that_fails(bare: Path) -> None:
    made = gromacs.inspected(program(bare / "bin" / "gmx", "2025.2"))
    with pytest.raises(EvaluationError, match=r"gmx grompp.*status 3: said something / and fails"):
        made.call("grompp", folder=bare)
    gone = gromacs_commands.Gromacs(bare / "gone", "2025.2", False)
    with pytest.raises(EvaluationError, match="No such file"):
        gone.call("grompp", folder=bare)


def test_messages_of_gromacs() -> None:
    fatal = """
-------------------------------------------------------
Program:     gmx mdrun, version 2025.2
Source file: src/gromacs/somewhere.cpp (line 74)
Function:    void f()
MPI rank:    0 (out of 2)

Fatal error:
There is no domain decomposition for 7 ranks
that is compatible

For more information and tips for troubleshooting, please check the website
-------------------------------------------------------
"""
    assert gromacs_commands.message_of(fatal) == (
        "Fatal error: There is no domain decomposition for 7 ranks that is compatible"
    )
    warned = (
        "NOTE 1 [file a.mdp]:\n  nothing\n\nWARNING 1 [file a.mdp]:\n  two\n  lines\n\n" + fatal
    )
    assert gromacs_commands.message_of(warned) == "WARNING 1 [file a.mdp]: two lines"
    assert gromacs_commands.message_of(warned + "\nERROR 1 [file a.top]:\n  no\n") == (
        "ERROR 1 [file a.top]: no"
    )
    ours = fatal.replace("There is", "PLUMED said: alchemi_bridge: there is")
    assert gromacs_commands.message_of(ours).startswith("alchemi_bridge: there is no domain")
    assert gromacs_commands.message_of("") == "nothing was printed"


def test_what_continuous_integration_may_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gromacs_runs, "missing", lambda: "no GROMACS")
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv(gromacs_runs.REASON_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="no GROMACS: these tests must run"):
        gromacs_runs._mark()
    monkeypatch.setenv(gromacs_runs.REASON_VARIABLE, "no Debian")
    mark = gromacs_runs._mark()
    assert mark.args == (True,)
    assert mark.kwargs["reason"] == "no GROMACS; no Debian"


@needs_gromacs
def test_the_one_that_the_tests_use() -> None:
    for double in (False, True):
        program = gromacs.find(double=double)
        assert int(program.version.split(".")[0]) >= gromacs.FIRST_YEAR
        assert program.double is double
