"""The kernel sources, and the entry points that they declare."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parent.parent

#: In a wheel the sources lie in the package; in a checkout beside it.
FOLDERS = (PACKAGE / "kernels", PACKAGE.parent / "kernels")

#: The file that includes all others.
MAIN = "kernels.cu"

_ENTRY = re.compile(r"^AB_KERNEL\(\s*(\w+)\s*,\s*\(([^)]*)\)", re.MULTILINE)

#: C types of arrays, and what a tensor must hold for each. Unsigned words are kept in int32.
ELEMENTS = {
    "float": (torch.float32,),
    "double": (torch.float64,),
    "int": (torch.int32,),
    "u32": (torch.int32,),
    "long long": (torch.int64,),
    "u64": (torch.int64,),
    "u8": (torch.uint8, torch.bool),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an entry point.

    Attributes
    ----------
    name
        As in the source.
    kind
        ``"array"``, ``"integer"`` (long long) or ``"real"`` (double).
    dtypes
        What an array may hold.
    written
        Whether the kernel writes to the array.
    """

    name: str
    kind: str
    dtypes: tuple[torch.dtype, ...] = ()
    written: bool = False


@cache
def folder() -> Path | None:
    """Folder of the kernel sources, ``None`` if they were not installed."""
    return next((path for path in FOLDERS if (path / MAIN).is_file()), None)


@cache
def texts() -> dict[str, str]:
    """Source text by file name, in alphabetical order; empty if there are no sources."""
    home = folder()
    if home is None:
        return {}
    files = sorted([*home.glob("*.cuh"), *home.glob("*.cu")])
    return {path.name: path.read_text(encoding="utf-8") for path in files}


@cache
def digest() -> str:
    """Hash of all sources."""
    state = hashlib.sha256()
    for name, text in texts().items():
        state.update(f"{name}\0{text}\0".encode())
    return state.hexdigest()


@cache
def entry_points() -> dict[str, tuple[Parameter, ...]]:
    """Parameters of every kernel by its name, without the leading count."""
    return {
        name: tuple(_parameter(text) for text in parameters.split(","))
        for source in texts().values()
        for name, parameters in _ENTRY.findall(source)
    }


def _parameter(text: str) -> Parameter:
    words = " ".join(text.split())
    declaration, _, name = words.rpartition(" ")
    if "*" in declaration + name:
        written = not declaration.startswith("const ")
        element = declaration.removeprefix("const ").replace("*", "").strip()
        return Parameter(name.lstrip("*"), "array", ELEMENTS[element], written)
    return Parameter(name, {"long long": "integer", "double": "real"}[declaration])
