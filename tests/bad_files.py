"""Files that are no models, and the check that an error is one of ours."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from feature_parts import zoo_file

from alchemi_bridge.errors import BridgeError


@contextlib.contextmanager
def refused(kind: type[BridgeError], *patterns: str) -> Iterator[None]:
    """The block raises exactly ``kind``, with all four parts, and a message that matches."""
    with pytest.raises(BridgeError) as caught:
        yield
    error = caught.value
    assert type(error) is kind, f"{type(error).__name__}: {error}"
    for part in (error.what, error.expected, error.got, error.fix):
        assert part.strip()
        assert part in str(error)
    for pattern in patterns:
        assert re.search(pattern, str(error)), str(error)


def _not_a_model(folder: Path) -> Path:
    path = folder / "scripted.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    return path


def _checkpoint(folder: Path) -> Path:
    path = folder / "checkpoint.pt"
    torch.save({"weight": torch.ones(3)}, path)
    return path


def _other_zip(folder: Path) -> Path:
    path = folder / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    return path


def _text(folder: Path) -> Path:
    path = folder / "text.pt"
    path.write_text("this is no model")
    return path


def _empty(folder: Path) -> Path:
    path = folder / "empty.pt"
    path.touch()
    return path


def _cut_off(folder: Path) -> Path:
    path = folder / "cut.pt"
    data = Path(zoo_file("pair")).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def _flipped(folder: Path) -> Path:
    path = folder / "flipped.pt"
    data = bytearray(Path(zoo_file("pair")).read_bytes())
    with zipfile.ZipFile(zoo_file("pair")) as archive:
        place = next(i for i in archive.infolist() if i.filename.endswith("data.pkl"))
    data[place.header_offset + 200] ^= 0x10
    path.write_bytes(data)
    return path


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "missing.pt", "no such file"),
    "folder": (lambda folder: folder, "a folder"),
    "empty": (_empty, "an empty file"),
    "text": (_text, "no zip archive"),
    "cut off": (_cut_off, "cut off"),
    "flipped": (_flipped, "data.pkl"),
    "TorchScript": (_not_a_model, "no metatomic model"),
    "checkpoint": (_checkpoint, "checkpoint"),
    "other zip": (_other_zip, "other zip archive"),
}


def with_record(folder: Path, name: str, content: str) -> Path:
    """The pair model with one record of its metadata replaced."""
    path = folder / "crafted.pt"
    with zipfile.ZipFile(zoo_file("pair")) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            is_it = info.filename.endswith("/extra/" + name)
            new.writestr(info.filename, content if is_it else old.read(info))
    return path
