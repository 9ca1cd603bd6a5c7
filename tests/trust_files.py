"""Model files made by hand from a good one, for the tests of the trust policy."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

Records = list[tuple[str, bytes]]


def records_of(path: Path) -> Records:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write(path: Path, records: Records) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records:
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def replaced(records: Records, name: str, data: bytes) -> Records:
    assert any(key == name for key, _ in records)
    return [(key, data if key == name else old) for key, old in records]


def with_libraries(
    source: Path, target: Path, entries: list[dict[str, Any]], record: str = "extensions"
) -> Path:
    new = replaced(records_of(source), f"model/extra/{record}", json.dumps(entries).encode())
    return write(target, new)


def entry(path: str, name: str | None = None, digest: str = "") -> dict[str, Any]:
    if name is None:
        name = path.rsplit("/", 1)[-1].removeprefix("lib").removesuffix(".so")
    return {"name": name, "path": path, "sha256": digest}


def check_message(error: pytest.ExceptionInfo[Any]) -> None:
    for part in (error.value.what, error.value.expected, error.value.got, error.value.fix):
        assert part.strip()
