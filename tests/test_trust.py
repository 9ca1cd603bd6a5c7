"""The trust policy against crafted model files; nothing of a refused file may run.

No ``from __future__ import annotations`` here: TorchScript reads the annotations.
"""

import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import zoo
import zoo_parts
from metatomic.torch import System
from trust_files import check_message, entry, records_of, replaced, write

from alchemi_bridge.errors import ConfigurationError, ModelLoadError, UntrustedModelError
from alchemi_bridge.model import load_model, trust
from alchemi_bridge.model.archive import Archive
from alchemi_bridge.model.trust import (
    check_trust,
    read_records,
    verify_unchanged,
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save(zoo.pair(), tmp_path_factory.mktemp("trust"), "model")


# --- good files ---------------------------------------------------------------------------------


def test_records_of_a_good_model(model_path):
    records = check_trust(model_path)
    content = model_path.read_bytes()
    assert records.sha256 == sha256(content).hexdigest()
    assert records.size == len(content)
    assert records.path == model_path
    assert records.torch_version == str(torch.__version__)
    assert re.fullmatch(r"0\.1\.\d+.*", records.metatomic_version)
    assert records.extensions == records.extension_dependencies == records.libraries == ()
    assert records.model_metadata["name"] == "zoo: pair"
    assert set(records.export_metadata) == {"date", "platform"}
    assert not records.differentiates_internally
    verify_unchanged(records)


def test_the_version_stands_in_one_of_two_places(model_path, tmp_path):
    """Which one torch writes depends on the operators in the code; it reads both."""
    records = records_of(model_path)
    [name] = [name for name, _ in records if name.endswith("/version")]
    other = name.replace("/version", "/.data/version")
    assert ".data" not in name
    path = write(tmp_path / "x.pt", [(other if n == name else n, data) for n, data in records])
    assert check_trust(path).path == path
    load_model(path)


ALL_MODELS = [
    *("several_cutoffs", "variants", "extra_outputs", "no_energy", "per_system_only"),
    *("old_plural_names", "not_invariant", "constant_energy", "nan_energy", "raises", "random"),
]


@pytest.mark.parametrize("name", ALL_MODELS)
def test_all_kinds_of_models_pass(name, tmp_path):
    path = zoo.save(getattr(zoo, name)(), tmp_path, name)
    assert not check_trust(path).differentiates_internally


@pytest.mark.parametrize("make", [zoo.internal_gradient, zoo.internal_pair_gradient])
def test_gradients_in_the_code_are_found(make, tmp_path):
    assert check_trust(zoo.save(make(), tmp_path, "inner")).differentiates_internally


class Everything(zoo_parts.Pairs):
    """Code that uses much of TorchScript's syntax, none of it forbidden."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU()).to(torch.float64)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(2)])
        self.ops = torch.nn.Identity()
        self.register_buffer("constant", torch.ones(2, dtype=torch.float64))
        self.rnn = torch.nn.GRU(2, 2)

    def extra_energy(self, system: System) -> torch.Tensor:
        x = torch.ones(len(system), 2, dtype=system.positions.dtype, device=system.device)
        y = self.ops(self.net(x)) * self.constant
        for block in self.blocks:
            y = y + block(x.to(torch.float32)).to(y.dtype)
        ops = [float("inf"), -1.0, 2.0]
        names = {"torch.save(": 1, "quote\" and 'quote'": 2}
        text = f"{names['torch.save(']} of {len(ops)}"
        if len(text) > 100 and system.cell.dim() != 2:
            raise ValueError("never: " + text)
        y = torch.where(y > ops[0], y, torch.zeros_like(y))
        with torch.no_grad():
            z, _ = self.rnn(x.to(torch.float32).unsqueeze(0))
        state: tuple[int, str | None] = (3, None)
        return y.sum(dim=1) * 0.0 + z.sum().to(y.dtype) * 0.0 * float(state[0])


def test_ordinary_code_is_not_refused(tmp_path):
    model = zoo_parts.make(Everything(), "everything")
    assert not check_trust(zoo.save(model, tmp_path, "everything")).differentiates_internally


def test_an_archive_written_by_another_tool_passes(model_path, tmp_path):
    path = write(tmp_path / "again.pt", records_of(model_path))
    assert read_records(path).model_metadata == read_records(model_path).model_metadata
    assert torch.jit.load(str(path)).original_name == "AtomisticModel"


# --- the pinned hash ----------------------------------------------------------------------------


def test_pin(model_path):
    digest = sha256(model_path.read_bytes()).hexdigest()
    assert check_trust(model_path, sha256=digest).sha256 == digest
    assert check_trust(model_path, sha256=f" {digest.upper()}\n").sha256 == digest
    other = digest[::-1]
    with pytest.raises(UntrustedModelError) as error:
        check_trust(model_path, sha256=other)
    assert other in str(error.value)
    assert digest in str(error.value)


@pytest.mark.parametrize("pin", ["", "abc", "g" * 64, "0" * 63, "0x" + "0" * 64, 12])
def test_malformed_pin(model_path, pin):
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        check_trust(model_path, sha256=pin)


def test_change_after_the_check(model_path, tmp_path):
    path = Path(shutil.copy(model_path, tmp_path / "model.pt"))
    records = read_records(path)
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(UntrustedModelError, match="exchanges"):
        verify_unchanged(records)


# --- other files --------------------------------------------------------------------------------


def no_file(folder: Path) -> Path:
    return folder / "missing.pt"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def content(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "file.pt").write_bytes(data)
        return folder / "file.pt"

    return make


def state_dict(folder: Path) -> Path:
    torch.save({"w": torch.ones(3)}, folder / "state.pt")
    return folder / "state.pt"


def plain_script(folder: Path) -> Path:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(folder / "plain.pt"))
    return folder / "plain.pt"


def old_metatensor(folder: Path) -> Path:
    module = torch.jit.script(torch.nn.Linear(2, 2))
    extra = {"metatensor-version": "0.7", "extensions": "[]", "extensions-deps": "[]"}
    torch.jit.save(module, str(folder / "old.pt"), _extra_files=extra)
    return folder / "old.pt"


def document(folder: Path) -> Path:
    return write(folder / "text.docx", [("[Content_Types].xml", b"<x/>"), ("word/a.xml", b"")])


OTHERS = [
    (no_file, "no such file"),
    (lambda folder: folder, "a folder"),
    (a_pipe, "pipe"),
    (lambda folder: folder / "a\0b", "null"),
    (content(b""), "empty"),
    (content(b"PK"), "no zip archive"),
    (content(b"PK\x03\x04"), "4 bytes"),
    (content(b"just text"), "no zip archive"),
    (content(b"\x80\x02}q\x00."), "pickle"),
    (content(b"<!DOCTYPE html><html></html>"), "web page"),
    (content(b"version https://git-lfs.github.com/spec/v1\noid"), "LFS"),
    (content(b"\x7fELF\x02\x01"), "shared library"),
    (content(b"PK\x05\x06" + bytes(18)), "archive"),
    (state_dict, "torch.save"),
    (plain_script, "no metatomic model"),
    (old_metatensor, "older than metatomic"),
    (document, "office document"),
    (lambda folder: write(folder / "a.zip", [("a.txt", b"a")]), "some other zip"),
]


@pytest.mark.parametrize(("make", "got"), OTHERS)
def test_other_files(make, got, tmp_path):
    with pytest.raises((ModelLoadError, UntrustedModelError)) as error:
        read_records(make(tmp_path))
    assert got in str(error.value)
    check_message(error)


def test_unreadable_file(model_path, tmp_path):
    path = Path(shutil.copy(model_path, tmp_path / "model.pt"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ModelLoadError, match="permissions"):
        read_records(path)


# --- damaged and ambiguous archives -------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(model_path, share, tmp_path):
    data = model_path.read_bytes()
    path = tmp_path / "model.pt"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelLoadError, match="cut off"):
        read_records(path)


def as_torch_reads(path: Path) -> dict[str, bytes]:
    """All records, as the reader sees them that has the last word."""
    reader = torch._C.PyTorchFileReader(str(path))
    return {f"model/{name}": reader.get_record(name) for name in reader.get_all_records()}


def test_the_archive_is_read_as_torch_reads_it(model_path):
    with model_path.open("rb") as stream:
        archive = Archive(stream, "file")
        ours = {name: archive.read(name, limit=1 << 30) for name in archive.records}
    assert ours == as_torch_reads(model_path)


def test_flipped_bits_are_noticed_or_without_meaning(model_path, tmp_path):
    data = model_path.read_bytes()
    path = tmp_path / "model.pt"
    expected = as_torch_reads(model_path)
    for at in range(0, len(data), 211):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            read_records(path)
        except (ModelLoadError, UntrustedModelError):
            continue
        # dates, attributes and padding in the zip headers carry nothing
        assert as_torch_reads(path) == expected


def test_random_damage_to_the_directory(model_path, tmp_path):
    """What passes is read by torch in the same way, or refused by it; never something else."""
    data = model_path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    expected = as_torch_reads(model_path)
    path = tmp_path / "model.pt"
    random = Random(20)
    accepted = 0
    for _ in range(400):
        crafted = bytearray(data)
        for _ in range(random.choice([1, 1, 2])):
            at = random.randrange(directory, len(crafted))
            crafted[at] = random.choice([0, 0x10, 0xFF, random.randrange(256)])
        path.write_bytes(crafted)
        try:
            read_records(path)
            accepted += 1
            assert as_torch_reads(path) == expected
        except (ModelLoadError, UntrustedModelError, RuntimeError):
            continue
    assert accepted > 0


def test_flipped_bit_in_a_tensor(tmp_path):
    path = zoo.save(zoo_parts.make(Everything(), "everything"), tmp_path, "model")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("model/data/0")
    name, extra = struct.unpack_from("<2H", data, info.header_offset + 26)
    data[info.header_offset + 30 + name + extra + 7] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match="'model/data/0' with a wrong checksum"):
        read_records(path)


def test_duplicate_records(model_path, tmp_path):
    records = records_of(model_path)
    evil = json.dumps([entry("/tmp/libevil.so")]).encode()
    for twice in ([("model/extra/extensions", evil), *records], [*records, records[0]]):
        with pytest.warns(UserWarning, match="Duplicate name"):
            write(tmp_path / "model.pt", twice)
        with pytest.raises(UntrustedModelError, match="two records named"):
            read_records(tmp_path / "model.pt")


def test_records_that_differ_by_case(model_path, tmp_path):
    # torch's zip reader ignores case
    records = [*records_of(model_path), ("model/extra/Extensions", b"[]")]
    with pytest.raises(UntrustedModelError, match="equal but for case"):
        read_records(write(tmp_path / "model.pt", records))
    other = [(name.replace("extra/ext", "extra/Ext"), data) for name, data in records[:-1]]
    with pytest.raises(UntrustedModelError, match="Extensions"):
        read_records(write(tmp_path / "model.pt", other))


@pytest.mark.parametrize(
    "name",
    [
        "model/extra/extension_libs",
        "model/extra/other",
        "model/extra/../extensions",
        "model/extra/extensions/",
        "model/model.json",
        "model/bytecode.pkl",
        "model/code/evil.so",
        "model/code/__torch__/../evil.py",
        "model/data/evil",
        "model/libevil.so",
        "model/",
        "other/extra/extensions",
        "/model/extra/extensions",
        "toplevel",
    ],
)
def test_foreign_records(model_path, name, tmp_path):
    path = write(tmp_path / "model.pt", [*records_of(model_path), (name, b"[]")])
    with pytest.raises(UntrustedModelError) as error:
        read_records(path)
    assert name.removeprefix("model/") in str(error.value)
    check_message(error)


def test_extension_libs_of_gromacs_are_explained(model_path, tmp_path):
    records = [*records_of(model_path), ("model/extra/extension_libs", b"/tmp/libevil.so")]
    with pytest.raises(UntrustedModelError, match="GROMACS"):
        read_records(write(tmp_path / "model.pt", records))


@pytest.mark.parametrize("character", [b"\\", b"\0", b"\n", b"\x7f"])
def test_names_with_special_characters(model_path, character, tmp_path):
    path = write(tmp_path / "model.pt", [*records_of(model_path), ("model/data/9Z9", b"")])
    path.write_bytes(path.read_bytes().replace(b"data/9Z9", b"data/9" + character + b"9"))
    with pytest.raises(UntrustedModelError, match="name"):
        read_records(path)


def test_data_around_the_archive(model_path, tmp_path):
    data = model_path.read_bytes()
    path = tmp_path / "model.pt"
    for crafted in (b"#!/bin/sh\n" + data, data + b"x", data + data, data[:-2] + b"\x03\0abc"):
        path.write_bytes(crafted)
        with pytest.raises(UntrustedModelError):
            read_records(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records_of(model_path):
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.comment = b"hello"
    with pytest.raises(UntrustedModelError, match="after the archive"):
        read_records(path)


def test_two_directories(model_path, tmp_path):
    """A zip64 locator that leads elsewhere: Python's zipfile and torch's miniz then disagree."""
    data = bytearray(model_path.read_bytes())
    locator = len(data) - 22 - 20
    end64 = locator - 56
    assert data[locator : locator + 4] == b"PK\x06\x07"
    hidden = bytes(data[end64:locator])
    crafted = data[:end64] + hidden + data[end64:]
    path = tmp_path / "model.pt"
    path.write_bytes(crafted)
    with pytest.raises(UntrustedModelError, match="locator"):
        read_records(path)
    # and with the first of the two end records where the locator points to
    struct.pack_into("<Q", crafted, locator + 56 + 8, end64)
    path.write_bytes(crafted)
    with pytest.raises(UntrustedModelError, match="locator"):
        read_records(path)


def test_contradicting_end_records(model_path, tmp_path):
    data = bytearray(model_path.read_bytes())
    struct.pack_into("<I", data, len(data) - 22 + 16, 12345)
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(UntrustedModelError, match="contradict"):
        read_records(tmp_path / "model.pt")


def test_hidden_bytes_between_records(model_path, tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, data) in enumerate(records_of(model_path)):
            if number == 3:
                archive.fp.write(b"hidden")
                archive.start_dir = archive.fp.tell()
            archive.writestr(zipfile.ZipInfo(name), data)
    assert len(records_of(path)) == len(records_of(model_path))  # zipfile takes it
    with pytest.raises(UntrustedModelError, match="belong to no record"):
        read_records(path)


def test_local_header_with_another_name(model_path, tmp_path):
    path = write(tmp_path / "model.pt", records_of(model_path))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"extra/extensions", b"extra/EXTENSIONS", 1))
    with pytest.raises(UntrustedModelError, match="two different ways"):
        read_records(path)


def test_record_that_is_marked_as_a_folder(model_path, tmp_path):
    """torch's reader leaves the memory of such a record as it found it; zipfile does not care."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records_of(model_path):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0x10 if name.endswith("extra/extensions") else 0
            archive.writestr(info, data)
    with pytest.raises(UntrustedModelError, match="marked as a folder"):
        read_records(path)


def test_zip_bomb(model_path, tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records_of(model_path):
            if name.endswith("extra/export-metadata"):
                data = b" " * (20 << 20) + b"{}"
            archive.writestr(name, data)
    with pytest.raises(UntrustedModelError, match="at most 16777216 bytes"):
        read_records(path)


def test_compressed_tensors(tmp_path):
    path = zoo.save(zoo_parts.make(Everything(), "everything"), tmp_path, "model")
    records = records_of(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records:
            archive.writestr(name, data)
    with pytest.raises(UntrustedModelError, match="compressed tensor"):
        read_records(path)


# --- metadata -----------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["extensions", "extensions-deps", "model-metadata"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b"\xef\xbb\xbf[]",
        b"NaN",
        b"[NaN]",
        b"12",
        b'"text"',
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b"[1]",
        b'[{"name": "x"}]',
        b'[{"name": "x", "path": ["libx.so"]}]',
        b'[{"name": 3, "path": "libx.so"}]',
    ],
)
def test_malformed_json(model_path, record, data, tmp_path):
    new = replaced(records_of(model_path), f"model/extra/{record}", data)
    with pytest.raises(ModelLoadError) as error:
        read_records(write(tmp_path / "model.pt", new))
    assert record in str(error.value)
    check_message(error)


@pytest.mark.parametrize("missing", ["extensions", "extensions-deps", "metatomic-version"])
def test_missing_records(model_path, missing, tmp_path):
    new = [item for item in records_of(model_path) if item[0] != f"model/extra/{missing}"]
    with pytest.raises(ModelLoadError):
        read_records(write(tmp_path / "model.pt", new))


def test_old_models_may_lack_metadata(model_path, tmp_path):
    optional = ("torch-version", "export-metadata", "model-metadata")
    new = [item for item in records_of(model_path) if not item[0].endswith(optional)]
    records = read_records(write(tmp_path / "model.pt", new))
    assert (records.torch_version, records.export_metadata, records.model_metadata) == ("", {}, {})


@pytest.mark.parametrize("version", [b"1.0\n<script>", b"9" * 65, b"\xff"])
def test_malformed_version(model_path, version, tmp_path):
    new = replaced(records_of(model_path), "model/extra/metatomic-version", version)
    with pytest.raises(ModelLoadError, match="metatomic-version"):
        read_records(write(tmp_path / "model.pt", new))


def test_the_check_runs_no_torch_loader(model_path, monkeypatch):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the file was handed to torch")

    for module, name in ((torch.jit, "load"), (torch, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, refuse)
    assert trust.check_trust(model_path).size > 0
