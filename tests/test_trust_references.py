"""The trust policy: what libraries, code and pickles of a model file may refer to.

No ``from __future__ import annotations`` here: TorchScript reads the annotations.
"""

import logging
import os
import pickle
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
import zoo_parts
from metatomic.torch import System
from trust_files import check_message, entry, records_of, replaced, with_libraries, write

from alchemi_bridge.errors import ConfigurationError, ModelLoadError, UntrustedModelError
from alchemi_bridge.model.script import check_pickle, check_source
from alchemi_bridge.model.trust import (
    check_trust,
    find_libraries,
    load_libraries,
    read_records,
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save(zoo.pair(), tmp_path_factory.mktemp("trust"), "model")


# --- libraries ----------------------------------------------------------------------------------

BAD_PATHS = [
    "/tmp/libevil.so",
    "//host/share/libevil.so",
    "\\\\host\\share\\evil.dll",
    "C:\\evil.dll",
    "c:evil.dll",
    "sub\\libevil.so",
    "../libevil.so",
    "a/../../libevil.so",
    "a/..",
    "..",
    ".",
    "./libevil.so",
    "a//libevil.so",
    "a/",
    "",
    " ",
    "~/libevil.so",
    "~root/libevil.so",
    "$ORIGIN/libevil.so",
    "${LIB}/libevil.so",
    "%TEMP%:/libevil.so",
    "a/libevil.so\0.txt",
    "libevil.so\n",
    "a./libevil.so",
    "libevil.so ",
    "libev\u2024so",
    "file:///tmp/libevil.so",
    "a|b.so",
]


@pytest.mark.parametrize("record", ["extensions", "extensions-deps"])
@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_are_never_allowed(model_path, record, path, tmp_path):
    crafted = with_libraries(model_path, tmp_path / "m.pt", [entry(path)], record)
    for directory in (None, tmp_path):
        with pytest.raises(UntrustedModelError) as error:
            check_trust(crafted, extensions_directory=directory)
        assert f"extra/{record}" in str(error.value)
        check_message(error)


@pytest.mark.parametrize(
    "name", ["", "/tmp/libevil.so", "../evil", "other", "libevil.so", "a/libevil", "$ORIGIN/evil"]
)
def test_names_that_are_never_allowed(model_path, name, tmp_path):
    # metatomic's last resort is to open the name, even if the path is harmless
    crafted = with_libraries(model_path, tmp_path / "m.pt", [entry("a/libevil.so", name)])
    with pytest.raises(UntrustedModelError, match="the name"):
        check_trust(crafted, extensions_directory=tmp_path)


def test_model_with_extensions_needs_a_directory(model_path, tmp_path):
    entries = [entry("one/libfirst.so"), entry("libsecond.so")]
    crafted = with_libraries(model_path, tmp_path / "m.pt", entries)
    with pytest.raises(UntrustedModelError) as error:
        check_trust(crafted)
    for part in ("one/libfirst.so", "libsecond.so", "extensions_directory", "--extensions"):
        assert part in str(error.value)
    assert [library.path for library in read_records(crafted).libraries] == [
        "one/libfirst.so",
        "libsecond.so",
    ]
    with pytest.raises(ModelLoadError, match="no such file"):
        check_trust(crafted, extensions_directory=tmp_path)
    with pytest.raises(ConfigurationError, match="extensions_directory"):
        check_trust(crafted, extensions_directory=tmp_path / "missing")


def test_dependencies_come_first(model_path, tmp_path):
    crafted = with_libraries(model_path, tmp_path / "a.pt", [entry("libfirst.so")])
    crafted = with_libraries(crafted, tmp_path / "b.pt", [entry("libdep.so.1")], "extensions-deps")
    for name in ("libfirst.so", "libdep.so.1"):
        (tmp_path / name).write_bytes(b"")
    records = check_trust(crafted, extensions_directory=tmp_path)
    files = find_libraries(records, tmp_path)
    assert [file.name for file in files] == ["libdep.so.1", "libfirst.so"]


def test_libraries_of_the_environment_are_not_needed(model_path, tmp_path):
    entries = [entry("x/libmetatensor_torch.so"), entry("x/libmetatomic_torch.so")]
    assert check_trust(with_libraries(model_path, tmp_path / "m.pt", entries)).libraries == ()


def test_library_in_this_process_needs_no_directory(model_path, tmp_path):
    # metatomic skips what is loaded already: nothing would be opened
    assert find_libraries(read_records(model_path), None) == ()
    crafted = with_libraries(model_path, tmp_path / "m.pt", [entry("lib/libtorch_cpu.so")])
    assert len(check_trust(crafted).libraries) == 1
    assert find_libraries(read_records(crafted), None) == ()


def test_symbolic_links(model_path, tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for place in (folder / "sub" / "libreal.so.1", outside / "libreal.so.1"):
        place.write_bytes(b"x")
    crafted = with_libraries(model_path, tmp_path / "m.pt", [entry("sub/libreal.so")])
    link = folder / "sub" / "libreal.so"
    link.symlink_to("libreal.so.1")
    check_trust(crafted, extensions_directory=folder)
    link.unlink()
    link.symlink_to(outside / "libreal.so.1")
    with pytest.raises(UntrustedModelError, match="symbolic link"):
        check_trust(crafted, extensions_directory=folder)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(ModelLoadError):
        check_trust(crafted, extensions_directory=folder)
    link.unlink()
    link.mkdir()
    with pytest.raises(UntrustedModelError, match="a folder"):
        check_trust(crafted, extensions_directory=folder)
    shutil.rmtree(folder / "sub")
    (outside / "libreal.so").write_bytes(b"x")
    (folder / "sub").symlink_to(outside)
    with pytest.raises(UntrustedModelError, match="symbolic link"):
        check_trust(crafted, extensions_directory=folder)
    # the folder that the user named may be a link itself
    (tmp_path / "link").symlink_to(outside)
    plain = with_libraries(model_path, tmp_path / "n.pt", [entry("libreal.so")])
    check_trust(plain, extensions_directory=tmp_path / "link")


def test_another_build_of_a_library_is_logged(model_path, tmp_path, caplog):
    (tmp_path / "libone.so").write_bytes(b"content")
    digest = sha256(b"content").hexdigest()
    good = with_libraries(
        model_path, tmp_path / "a.pt", [entry("libone.so", digest=digest.upper())]
    )
    with caplog.at_level(logging.WARNING):
        check_trust(good, extensions_directory=tmp_path)
    assert not caplog.records
    other = with_libraries(model_path, tmp_path / "b.pt", [entry("libone.so", digest="0" * 64)])
    with caplog.at_level(logging.WARNING):
        check_trust(other, extensions_directory=tmp_path)
    (record,) = caplog.records
    assert "another build" in record.getMessage()
    assert digest in record.getMessage()


# --- code and pickles ---------------------------------------------------------------------------

REACHING = [
    "ops.metatomic.load_model_extensions('a.pt', None)",
    "torch.save(x, 'file')",
    "torch . save(x, 'file')",
    "torch.from_file('file', True, 10)",
    "ops.aten.save(x, 'file')",
    "ops.aten.from_file.out('file', True, 10, x)",
    "ops.metatensor.save('file', x)",
    "ops.metatomic.save('file', system)",
    "ops.metatensor.load('file')",
    "ops.debugprims.load_tensor('file')",
    "x.save('file')",
    "(x + 1).save('file')",
    "getattr(x, 'save')('file')",
    "getattr(x, 'sa\\x76e')('file')",
    "getattr(torch, 'save')(x, 'file')",
    "getattr(ops.metatomic, name)('file')",
    "t = torch",
    "t = ops.metatomic",
    "t = ops.metatomic.load_model_extensions",
    "print(torch)",
    "f(ops.aten)",
]


@pytest.mark.parametrize("line", REACHING)
def test_code_that_reaches_outside(line):
    source = f"class A(Module):\n  def forward(self: A, x: Tensor) -> Tensor:\n    {line}\n"
    with pytest.raises(UntrustedModelError) as error:
        check_source("code", source)
    check_message(error)


@pytest.mark.parametrize("line", [*REACHING[:6], REACHING[10], REACHING[16]])
def test_code_that_python_can_not_parse(line):
    source = f"def f(x: Tensor) -> Tensor:\n    y = x ?? 1\n    {line}\n"
    with pytest.raises(UntrustedModelError):
        check_source("code", source)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("_0 = torch.autograd.grad([e], [x], None, True)", True),
        ("torch.autograd.backward([e])", True),
        ("_0 = torch.add_gradient(x, y)", False),
        ("g = x.gradient", False),
        ("print('x.backward()')", False),
    ],
)
def test_gradients(line, found):
    assert check_source("code", f"def f(x: Tensor) -> Tensor:\n    {line}\n") is found
    unparsable = f"def f(x: Tensor) -> Tensor:\n    y = x ?? 1\n    {line}\n"
    assert check_source("code", unparsable) is (found or "backward" in line)


class Reaching(zoo_parts.Pairs):
    def extra_energy(self, system: System) -> torch.Tensor:
        torch.ops.metatomic.load_model_extensions("other.pt", "/tmp")
        return torch.zeros(len(system), dtype=system.positions.dtype)


class Writing(zoo_parts.Pairs):
    def extra_energy(self, system: System) -> torch.Tensor:
        torch.save(system.positions, "file")
        return torch.zeros(len(system), dtype=system.positions.dtype)


@pytest.mark.parametrize(("kind", "call"), [(Reaching, "load_model_extensions"), (Writing, "save")])
def test_models_whose_code_reaches_outside(kind, call, tmp_path):
    path = zoo.save(zoo_parts.make(kind(), "reaching"), tmp_path, "model")
    with pytest.raises(UntrustedModelError, match=f"a call of '{call}'"):
        read_records(path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def test_pickles_for_python(model_path, tmp_path):
    for name in ("data.pkl", "constants.pkl", "code/__torch__/zoo_parts.py.debug_pkl"):
        for protocol in (0, 2, 4):
            new = replaced(
                records_of(model_path), f"model/{name}", pickle.dumps(Evil(), protocol=protocol)
            )
            with pytest.raises(UntrustedModelError, match="a reference"):
                read_records(write(tmp_path / "model.pt", new))


def test_malformed_pickles():
    good = pickle.dumps((1, 2), protocol=2)
    check_pickle("pickle", good)
    for bad in (b"", good[:-1], b"\xff", b"c__torch__\nA"):
        with pytest.raises(ModelLoadError):
            check_pickle("pickle", bad)
    with pytest.raises(UntrustedModelError, match="after the end"):
        check_pickle("pickle", good + b"N.")
    with pytest.raises(UntrustedModelError, match=r"builtins\.eval"):
        check_pickle("pickle", b"\x80\x02cbuiltins\neval\n.")
    with pytest.raises(UntrustedModelError, match="__torch__evil"):
        check_pickle("pickle", b"\x80\x02c__torch__evil\nsystem\n.")


# --- nothing is run -----------------------------------------------------------------------------

CONSTRUCTOR = """
#include <stdio.h>
__attribute__((constructor)) static void mark(void) {
    FILE* file = fopen("%s", "w");
    if (file) { fclose(file); }
}
"""

PEER = """
import sys, warnings
warnings.simplefilter("ignore")
from metatomic.torch import load_atomistic_model
for path in sys.argv[2:]:
    load_atomistic_model(path, sys.argv[1] or None)
"""


def build(folder: Path, name: str) -> tuple[Path, Path]:
    """A shared library that leaves a marker when it is opened; library and marker."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    library, marker = folder / f"lib{name}.so", folder / f"{name}.marker"
    source = folder / f"{name}.c"
    source.write_text(CONSTRUCTOR % marker)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library, marker


def test_nothing_is_opened(model_path, tmp_path):
    """metatomic's own loader opens each of these libraries; the check refuses, and opens none."""
    inside = tmp_path / "extensions"
    inside.mkdir()
    absolute, one = build(tmp_path / "a", "trustabsolute")
    climbing, two = build(tmp_path / "b", "trustclimbing")
    by_name, three = build(tmp_path / "c", "trustname")
    linked, four = build(tmp_path / "d", "trustlinked")
    (inside / linked.name).symlink_to(linked)
    crafted = [
        with_libraries(model_path, tmp_path / f"m{number}.pt", [item], record)
        for number, (item, record) in enumerate(
            [
                (entry(str(absolute)), "extensions"),
                (entry(f"../b/{climbing.name}"), "extensions-deps"),
                (entry("harmless.so", str(by_name)), "extensions"),
                (entry(linked.name), "extensions"),
            ]
        )
    ]
    markers = [one, two, three, four]
    for path in crafted:
        for directory in (None, inside):
            with pytest.raises(UntrustedModelError):
                check_trust(path, extensions_directory=directory)
    assert not any(marker.exists() for marker in markers)

    # the control: the files are real attacks
    command = [sys.executable, "-c", PEER, str(inside), *map(str, crafted)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert all(marker.exists() for marker in markers)


def test_allowed_libraries_are_loaded_from_the_directory(model_path, tmp_path):
    library, marker = build(tmp_path, "trustallowed")
    crafted = with_libraries(model_path, tmp_path / "m.pt", [entry(library.name)])
    records = check_trust(crafted, extensions_directory=tmp_path)
    assert not marker.exists()
    load_libraries(find_libraries(records, tmp_path))
    assert marker.exists()
    assert find_libraries(records, None) == ()  # it is loaded now


def test_a_library_that_is_none(model_path, tmp_path):
    (tmp_path / "libtext.so").write_text("no library")
    crafted = with_libraries(model_path, tmp_path / "m.pt", [entry("libtext.so")])
    records = check_trust(crafted, extensions_directory=tmp_path)
    with pytest.raises(ModelLoadError, match=r"libtext\.so"):
        load_libraries(find_libraries(records, tmp_path))
