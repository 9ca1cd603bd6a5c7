"""The trust policy: what a model file asks for, read before anything of it is executed.

A metatomic model is a zip archive written by ``torch.jit.save``: TorchScript code, its data, and
six extra records of metatomic's. Two of them, ``extensions`` and ``extensions-deps``, list shared
libraries by name and path. metatomic's own loader opens these libraries *before* it looks at the
model (``metatomic-torch/src/model.cpp``, ``load_model_extensions``). For each entry whose name is
not part of the file name of a library in the process it tries, in this order,

1. ``path`` itself, if it begins with ``/``,
2. ``<extensions directory>/path``, if a directory was given (``..`` and symbolic links included),
3. ``dlopen(name)``: any path that stands in ``name``, or a search in the system's folders,
   ``LD_LIBRARY_PATH`` among them. This is tried without an extensions directory, too.

Opening a library runs its code, so a model file could run any code on the machine. Hence:

- the archive must be one that all readers understand alike (:mod:`alchemi_bridge.model.archive`),
  with no records but those that torch and metatomic write;
- a path is relative, plain and without ``..``; a name is the one that belongs to its path;
- libraries come from the folder that the user named, and from nowhere else; symbolic links must not
  lead out of it;
- the model's code must not load libraries or touch files (:mod:`alchemi_bridge.model.script`).

The recorded hashes of libraries are compared, but a difference is only logged. metatomic ignores
them; a library compiled again, or for another platform or version of torch, has another hash; and
the hash stands in the model file, the very file that is not trusted, so that it protects nobody: it
is the folder that the user trusts. To pin the model itself use ``sha256``.

The check is of the file's content at one moment. Whoever may write the file or the folder can
exchange them afterwards; :func:`verify_unchanged` tells, after the fact. A check can not make the
code of a model harmless (it can still be slow, wrong, or exhaust memory).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alchemi_bridge.errors import ConfigurationError, ModelLoadError, UntrustedModelError
from alchemi_bridge.model.archive import open_file, sha256_of
from alchemi_bridge.model.libraries import PROVIDED, Extension, check_library, find_files
from alchemi_bridge.model.libraries import load_libraries as load_libraries
from alchemi_bridge.model.torchscript import ScriptKind, ScriptRecords, check_script, text_of


@dataclass(frozen=True)
class ModelRecords:
    """What the records of a metatomic model file say, without loading the model.

    Attributes
    ----------
    path
        The file, as it was named.
    sha256
        Hash of the whole file, lower-case hexadecimal digits.
    size
        Bytes.
    torch_version, metatomic_version
        Versions that the model was exported with; empty if not recorded.
    extensions
        TorchScript extensions that the model needs.
    extension_dependencies
        Libraries that these need, in the order in which they must be loaded.
    export_metadata
        When and where the model was exported.
    model_metadata
        Name, authors, description, references (JSON of metatomic's ``ModelMetadata``).
    differentiates_internally
        Whether the code calls ``torch.autograd.grad`` or ``backward`` itself.
    """

    path: Path
    sha256: str
    size: int
    torch_version: str
    metatomic_version: str
    extensions: tuple[Extension, ...]
    extension_dependencies: tuple[Extension, ...]
    export_metadata: dict[str, Any]
    model_metadata: dict[str, Any]
    differentiates_internally: bool

    @property
    def libraries(self) -> tuple[Extension, ...]:
        """Libraries to load for this model, dependencies first, in the order of loading."""
        both = self.extension_dependencies + self.extensions
        return tuple(library for library in both if library.name not in PROVIDED)


def read_records(path: str | Path) -> ModelRecords:
    """Read and check the records of a metatomic model file; nothing is loaded or executed.

    Raises
    ------
    ModelLoadError
        Missing, unreadable, damaged, or no metatomic model.
    UntrustedModelError
        The file holds something that no exported model holds: an ambiguous archive, foreign
        records, libraries that are elsewhere, code that touches files.
    """
    return _read(path, pin=None)


def check_trust(
    path: str | Path,
    *,
    extensions_directory: str | Path | None = None,
    sha256: str | None = None,
) -> ModelRecords:
    """Apply the trust policy to a model file; nothing is loaded or executed.

    Parameters
    ----------
    path
        The model file.
    extensions_directory
        The only folder from which libraries may come. Not needed if the process has already loaded
        the libraries (after ``import featomic.torch``, for example).
    sha256
        Expected hash of the file, 64 hexadecimal digits of either case.

    Returns
    -------
    ModelRecords
        Facts about the file that was checked.

    Raises
    ------
    ConfigurationError
        ``sha256`` is no hash, or ``extensions_directory`` no folder.
    ModelLoadError
        The file or a needed library is missing or damaged, or is no metatomic model.
    UntrustedModelError
        The file is not the pinned one, or asks for something that was not allowed.
    """
    records = _read(path, pin=None if sha256 is None else normal_hash(sha256))
    find_libraries(records, extensions_directory)
    return records


def verify_unchanged(records: ModelRecords) -> None:
    """Raise UntrustedModelError if the file is no longer the one that ``records`` describe."""
    label = f"model file '{records.path}'"
    with open_file(records.path, label) as stream:
        digest = sha256_of(stream)
    if digest != records.sha256:
        raise UntrustedModelError(
            label,
            expected=f"the content that was checked, SHA-256 {records.sha256}",
            got=f"SHA-256 {digest}",
            fix="make sure that nobody exchanges the file while it is loaded",
        )


def find_libraries(
    records: ModelRecords, extensions_directory: str | Path | None
) -> tuple[Path, ...]:
    """Files of the libraries that still have to be loaded, in the order of loading.

    Those that this process has loaded already are left out. Hand the result to
    :func:`load_libraries`. Errors as of :func:`check_trust`.
    """
    return find_files(records.libraries, extensions_directory, f"model file '{records.path}'")


# --- the file -----------------------------------------------------------------------------------


def _read(path: str | Path, pin: str | None) -> ModelRecords:
    label = f"model file '{path}'"
    with open_file(path, label) as stream:
        before = os.fstat(stream.fileno())
        found = check_script(stream, label, _KIND, pin=pin)
        facts = _facts(found, label)
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UntrustedModelError(
            label,
            expected="a file that nobody writes to",
            got="a file that changed while it was read",
            fix="try again when it is written completely",
        )
    return ModelRecords(path=Path(path), sha256=found.sha256, size=before.st_size, **facts)


def _something_else(inside: Collection[str]) -> tuple[str, str] | None:
    """What this archive is if it is no metatomic model, and what to do about it."""
    if "extra/metatomic-version" in inside and "data.pkl" in inside:
        return None
    if "extra/metatensor-version" in inside:
        return "a model of metatensor-torch, older than metatomic", "export it again"
    if "constants.pkl" in inside and any(n.startswith("code/__torch__/deepmd/") for n in inside):
        return "a frozen model of DeePMD-kit", "run 'alchemi-bridge convert deepmd' on it first"
    if "constants.pkl" in inside:
        return "a TorchScript file that is no metatomic model", "use AtomisticModel.save"
    if "data.pkl" in inside:
        return (
            "a file of torch.save (a checkpoint or state dictionary)",
            "export the model with AtomisticModel.save (for metatrain: 'mtt export')",
        )
    if "[Content_Types].xml" in inside:
        return "an office document", "name the model file"
    return "some other zip archive", "name the model file itself (usually *.pt)"


_KIND = ScriptKind(
    expected="an exported metatomic model (AtomisticModel.save)",
    export="export the model with AtomisticModel.save",
    extra=re.compile(
        "torch-version|metatomic-version|extensions|extensions-deps|export-metadata|model-metadata"
    ),
    something_else=_something_else,
)


# --- the records --------------------------------------------------------------------------------


def _facts(found: ScriptRecords, label: str) -> dict[str, Any]:
    extra = found.extra
    for needed in ("extensions", "extensions-deps"):
        if needed not in extra:
            raise _malformed(f"{label}, record 'extra/{needed}'", "no such record")
    return {
        "torch_version": _version(extra, "torch-version", label),
        "metatomic_version": _version(extra, "metatomic-version", label),
        "extensions": _libraries(extra, "extensions", label),
        "extension_dependencies": _libraries(extra, "extensions-deps", label),
        "export_metadata": _json_dict(extra, "export-metadata", label),
        "model_metadata": _json_dict(extra, "model-metadata", label),
        "differentiates_internally": found.differentiates_internally,
    }


def _malformed(what: str, got: str) -> ModelLoadError:
    return ModelLoadError(
        what,
        expected="metadata as AtomisticModel.save writes it",
        got=got,
        fix="export the model again",
    )


def _text(data: bytes, what: str) -> str:
    return text_of(data, what, export="export the model again")


def _version(extra: dict[str, bytes], name: str, label: str) -> str:
    what = f"{label}, record 'extra/{name}'"
    version = _text(extra.get(name, b""), what)
    if len(version) > 64 or not re.fullmatch(r"[\w.+-]*", version, re.ASCII):
        raise _malformed(what, f"{version[:64]!r}, which is no version number")
    return version


def _json(extra: dict[str, bytes], name: str, label: str) -> Any:
    what = f"{label}, record 'extra/{name}'"
    text = _text(extra[name], what)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # which of two equal keys counts depends on the reader
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("two entries with one key")
        return dict(pairs)

    def no_constant(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed(what, f"text that is no valid JSON ({error})") from error


def _json_dict(extra: dict[str, bytes], name: str, label: str) -> dict[str, Any]:
    if name not in extra:
        return {}
    value = _json(extra, name, label)
    if not isinstance(value, dict):
        raise _malformed(f"{label}, record 'extra/{name}'", f"JSON of type {type(value).__name__}")
    return value


def _libraries(extra: dict[str, bytes], name: str, label: str) -> tuple[Extension, ...]:
    what = f"{label}, record 'extra/{name}'"
    entries = _json(extra, name, label)
    if not isinstance(entries, list):
        raise _malformed(what, f"JSON of type {type(entries).__name__} in place of a list")
    libraries = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise _malformed(what, f"an entry of type {type(entry).__name__}")
        values = [entry.get("name"), entry.get("path"), entry.get("sha256", "")]
        if not all(isinstance(value, str) for value in values):
            raise _malformed(what, "an entry whose name, path or sha256 is no text")
        library = Extension(*(str(value) for value in values))
        check_library(library, what)
        libraries.append(library)
    return tuple(libraries)


def normal_hash(sha256: str) -> str:
    """A hash as hexadecimal digits in lower case; ConfigurationError if it is none."""
    text = sha256.strip().lower() if isinstance(sha256, str) else ""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ConfigurationError(
            "sha256",
            expected="64 hexadecimal digits",
            got=repr(sha256),
            fix="take the hash with 'sha256sum FILE' or 'alchemi-bridge inspect'",
        )
    return text
