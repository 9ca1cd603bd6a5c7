"""Every record of a TorchScript file, read and checked before anything of it is executed.

What ``torch.jit.save`` writes is a zip archive of code, pickles, tensors and extra records. All of
it is checked here, whoever wrote the file; what the extra records mean is for the caller to say
(:mod:`alchemi_bridge.model.trust` for metatomic models).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from io import BufferedReader, BytesIO

from alchemi_bridge.errors import ModelLoadError, UntrustedModelError
from alchemi_bridge.model.archive import Archive, sha256_of
from alchemi_bridge.model.script import check_pickle, check_source
from alchemi_bridge.model.storages import check_storages

_MAX_EXTRA = 16 << 20  # bytes; metadata with thousands of references stays far below
_MAX_TEXT = 4096  # bytes; version numbers and the like
_MAX_CODE = 64 << 20  # bytes; the largest models have a few MB of code in one file
_MAX_PICKLE = 256 << 20  # bytes; tensors are not in there

# torch writes the version to one place or the other, depending on the operators that are used
_TEXT = re.compile(
    r"version|\.data/version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id"
)
_PICKLE = re.compile(r"(data|constants)\.pkl")
_TENSOR = re.compile(r"(data|constants)/[0-9]+", re.ASCII)
_CODE = re.compile(r"code/__torch__(/(?!\.)[^/]+)*\.py(\.debug_pkl)?")

_NO_LOAD = "do not load this file; get it from its author again, or export the model again"


@dataclass(frozen=True)
class ScriptKind:
    """Which files a reader takes, and how its messages name them.

    Attributes
    ----------
    expected
        What the file should be.
    export
        How such a file is made, in the imperative.
    extra
        Names that are allowed below ``extra/``.
    something_else
        Tells from the names of all records (without the leading folder) what the file is instead,
        and what to do about it; None if it is of this kind.
    """

    expected: str
    export: str
    extra: re.Pattern[str]
    something_else: Callable[[Collection[str]], tuple[str, str] | None]


@dataclass(frozen=True)
class ScriptRecords:
    """What a TorchScript file that passed all checks holds.

    Attributes
    ----------
    sha256
        Hash of the whole file, lower-case hexadecimal digits.
    extra
        Content of the records below ``extra/``, by name.
    code
        Source of each file of TorchScript code, by the full name of its record.
    differentiates_internally
        Whether the code calls ``torch.autograd.grad`` or ``backward`` itself.
    """

    sha256: str
    extra: dict[str, bytes]
    code: dict[str, str]
    differentiates_internally: bool


def check_script(
    stream: BufferedReader | BytesIO, label: str, kind: ScriptKind, *, pin: str | None = None
) -> ScriptRecords:
    """Check a TorchScript file; nothing of it is loaded or executed.

    Parameters
    ----------
    stream
        The open file; it stays the caller's.
    label
        How messages name the file.
    kind
        Which files are taken.
    pin
        Expected SHA-256 hash, 64 lower-case hexadecimal digits.

    Raises
    ------
    ModelLoadError
        Damaged, or a file of another kind.
    UntrustedModelError
        Not the pinned file, or one that holds what ``torch.jit.save`` does not write: an ambiguous
        archive, foreign records, code that touches files.
    """
    _check_magic(stream, label, kind)
    digest = sha256_of(stream)
    if pin is not None and digest != pin:
        raise UntrustedModelError(
            label,
            expected=f"the pinned file, SHA-256 {pin}",
            got=f"SHA-256 {digest}",
            fix="get the file that the hash was taken of, or check where the hash comes from",
        )
    archive = Archive(stream, label)
    prefix = _check_kind(archive, label, kind)
    archive.check_layout()
    extra, code, differentiates = _check_records(archive, prefix, label, kind)
    return ScriptRecords(digest, extra, code, differentiates)


def text_of(data: bytes, what: str, *, export: str) -> str:
    """``data`` as UTF-8; ModelLoadError, with ``what`` and ``export`` in it, if it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelLoadError(
            what,
            expected="text as the export of a model writes it",
            got=f"bytes that are no UTF-8 text ({error.reason})",
            fix=export,
        ) from error


def _check_magic(stream: BufferedReader | BytesIO, label: str, kind: ScriptKind) -> None:
    stream.seek(0)
    head = stream.read(512)
    if head.startswith(b"PK\x03\x04"):
        return
    stream.seek(-min(22, stream.seek(0, os.SEEK_END)), os.SEEK_END)
    if stream.read().startswith(b"PK\x05\x06"):
        raise UntrustedModelError(
            label,
            expected="a zip archive from its first byte on",
            got="other data in front of the archive",
            fix=_NO_LOAD,
        )
    known = (
        (b"version https://git-lfs", "a Git LFS pointer", "run 'git lfs pull'"),
        (b"\x80", "a Python pickle", kind.export),
        (b"\x89HDF", "an HDF5 file", kind.export),
        (b"\x7fELF", "a program or shared library", "name the model file"),
        (b"<", "HTML or XML, a web page perhaps", "download the file itself"),
        (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    )
    start = head.lstrip()
    found = [(got, fix) for magic, got, fix in known if start.startswith(magic)]
    default = ("an empty file" if not head else "no zip archive", "check path and download")
    got, fix = found[0] if found else default
    raise ModelLoadError(
        label, expected=f"{kind.expected.partition(' (')[0]} (a zip archive)", got=got, fix=fix
    )


def _check_kind(archive: Archive, label: str, kind: ScriptKind) -> str:
    """The leading folder of all records; an error that says what else this archive is."""
    names = archive.records.keys()
    prefix = next(iter(names)).partition("/")[0] + "/"
    other = kind.something_else({name.removeprefix(prefix) for name in names})
    if other is None:
        return prefix
    got, fix = other
    raise ModelLoadError(label, expected=kind.expected, got=got, fix=fix)


def _check_records(
    archive: Archive, prefix: str, label: str, kind: ScriptKind
) -> tuple[dict[str, bytes], dict[str, str], bool]:
    differentiates = False
    extra: dict[str, bytes] = {}
    code: dict[str, str] = {}
    for full_name in archive.records:
        name = full_name.removeprefix(prefix)
        what = f"{label}, record {name!r}"
        if name == full_name:
            raise _foreign_record(label, full_name, kind)
        if name.startswith("extra/") and kind.extra.fullmatch(name.removeprefix("extra/")):
            extra[name.removeprefix("extra/")] = archive.read(full_name, limit=_MAX_EXTRA)
        elif _TEXT.fullmatch(name):
            archive.read(full_name, limit=_MAX_TEXT)
        elif _PICKLE.fullmatch(name):
            data = archive.read(full_name, limit=_MAX_PICKLE)
            check_pickle(what, data)
            check_storages(what, data, _tensor_sizes(archive, full_name))
        elif _TENSOR.fullmatch(name):
            archive.verify(full_name)
        elif _CODE.fullmatch(name):
            data = archive.read(full_name, limit=_MAX_CODE)
            if name.endswith(".debug_pkl"):
                check_pickle(what, data)
            else:
                code[full_name] = text_of(data, what, export=kind.export)
                differentiates |= check_source(what, code[full_name])
        else:
            raise _foreign_record(label, name, kind)
    return extra, code, differentiates


def _tensor_sizes(archive: Archive, pickle_name: str) -> dict[str, int]:
    """Bytes of the tensor records of a pickle, by their names without its folder."""
    folder = pickle_name.removesuffix(".pkl") + "/"
    return {
        name.removeprefix(folder): record.size
        for name, record in archive.records.items()
        if name.startswith(folder)
    }


def _foreign_record(label: str, name: str, kind: ScriptKind) -> UntrustedModelError:
    fix = _NO_LOAD
    if name.endswith("extra/extension_libs"):
        fix = (
            "this record makes GROMACS load libraries (TorchScript models for its NNP interface); "
            "export the model with metatomic, which lists libraries in 'extra/extensions'"
        )
    return UntrustedModelError(
        label,
        expected=f"only records that belong to {kind.expected}",
        got=f"record {name!r}",
        fix=fix,
    )
