"""What a sweep is about: models, structures, engines, and the cells that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ase import Atoms

from alchemi_bridge.engines.structure_files import distinct_names, format_of, read_structures
from alchemi_bridge.ensembles.content import hash_of_file, hash_of_frames, hash_of_settings
from alchemi_bridge.ensembles.sweep.engines import Engine
from alchemi_bridge.ensembles.sweep.files import model_files, structure_files
from alchemi_bridge.ensembles.sweep.surroundings import hash_of_libraries
from alchemi_bridge.errors import BridgeError, StructureFileError, UntrustedModelError

#: Of what a cell's number means; another one makes all cells be run again.
SCHEMA = 1

#: Atoms of all frames that are kept in memory: some 100 MB.
KEPT_ATOMS = 2_000_000

#: How many unreadable files an error names.
_NAMED = 3


@dataclass(frozen=True)
class ModelFile:
    """A model.

    Attributes
    ----------
    name
        In reports: the file's name, with its folder where that would not tell it apart.
    path
        Where it is, absolute: workers have other folders.
    sha256
        Hash that workers insist on.
    """

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class StructureFile:
    """A structure file, of which all frames that were asked for make one cell.

    Attributes
    ----------
    name, path
        As those of a :class:`ModelFile`.
    kind
        ASE's name of its format.
    index
        Which frames.
    content
        Hash of the frames.
    frames, atoms
        Number of frames, and of atoms of the largest.
    formula
        Of the first frame.
    """

    name: str
    path: Path
    kind: str
    index: str
    content: str
    frames: int
    atoms: int
    formula: str


@dataclass(frozen=True)
class Cell:
    """One number of the matrix: does an engine agree with the reference.

    Attributes
    ----------
    model, structure, engine
        What it is about.
    key
        Hash of everything that its numbers depend on.
    """

    model: ModelFile
    structure: StructureFile
    engine: Engine
    key: str

    @property
    def name(self) -> str:
        """Unlike that of any other cell of the sweep."""
        return f"{self.model.name} / {self.structure.name} / {self.engine.name}"


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes
    ----------
    models, structures, engines
        What the matrix is made of.
    reference
        What the engines are compared with. It has no cells of its own.
    options
        Keywords of a parity job: ``extensions_directory``, ``variants``, ``non_conservative``.
    frames
        Frames of structure files by the hash of their content, up to :data:`KEPT_ATOMS`: sent to
        workers, which is faster than to read each file again for each engine. Workers read others.
    """

    models: Sequence[ModelFile]
    structures: Sequence[StructureFile]
    engines: Sequence[Engine]
    reference: Engine
    options: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[str, tuple[Atoms, ...]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.models) * len(self.structures) * len(self.engines)

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """All cells; those of a model one after the other, since workers keep loaded models."""
        common = hash_of_settings(
            {
                "schema": SCHEMA,
                "reference": _identity(self.reference),
                "options": dict(self.options),
                "libraries": hash_of_libraries(self.options.get("extensions_directory")),
            }
        )

        def cell(model: ModelFile, structure: StructureFile, engine: Engine) -> Cell:
            numbers = [common, model.sha256, structure.content, *_identity(engine)]
            return Cell(model, structure, engine, hash_of_settings({"cell": numbers}))

        return [
            cell(model, structure, engine)
            for model in self.models
            for structure in self.structures
            for engine in self.engines
        ]


def _identity(engine: Engine) -> list[str | None]:
    return [engine.path.name, engine.version, engine.surroundings]


def make_plan(
    models: Sequence[str],
    structures: Sequence[str],
    engines: Sequence[Engine],
    reference: Engine,
    *,
    index: str = ":",
    options: Mapping[str, Any] | None = None,
    sha256: str | None = None,
) -> Plan:
    """Find and read the files; the models are not loaded.

    Parameters
    ----------
    models, structures
        Files, folders and patterns.
    engines, reference
        What computes.
    index
        Frames of each structure file, as in ASE.
    options
        See :class:`Plan`.
    sha256
        Hash that every model file must have.

    Raises
    ------
    ConfigurationError
        If something is not there, or holds no files.
    StructureFileError
        If structure files can not be read.
    UntrustedModelError
        If a model file has another hash.
    """
    kept: dict[str, tuple[Atoms, ...]] = {}
    return Plan(
        models=_models(model_files(models), sha256),
        structures=_structures(structure_files(structures), index, kept),
        engines=engines,
        reference=reference,
        options=dict(options or {}),
        frames=kept,
    )


def _models(files: Sequence[Path], sha256: str | None) -> list[ModelFile]:
    names = distinct_names([str(path) for path in files])
    found = [
        ModelFile(name, path.absolute(), hash_of_file(path))
        for name, path in zip(names, files, strict=True)
    ]
    for model in found:
        if sha256 is not None and model.sha256 != sha256.strip().lower():
            raise UntrustedModelError(
                f"model file '{model.path}'",
                expected=f"the pinned file, SHA-256 {sha256}",
                got=f"SHA-256 {model.sha256}",
                fix="check where it comes from, or leave --sha256 out",
            )
    return found


def _structures(
    files: Sequence[Path], index: str, kept: dict[str, tuple[Atoms, ...]]
) -> list[StructureFile]:
    names = distinct_names([str(path) for path in files])
    found: list[StructureFile] = []
    wrong: list[StructureFileError] = []
    left = KEPT_ATOMS
    for name, path in zip(names, files, strict=True):
        try:
            structure, frames = _structure(name, path, index)
        except StructureFileError as error:
            wrong.append(error)
            continue
        found.append(structure)
        left -= sum(map(len, frames))
        if left >= 0:
            kept[structure.content] = frames
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise StructureFileError(
            f"{len(wrong)} of {len(files)} structure files",
            expected="files that ASE can read",
            got="; ".join(_short(error) for error in wrong[:_NAMED]) + more,
            fix="correct them, or leave them out",
        )
    return found


def _short(error: BridgeError) -> str:
    return f"{error.what}: expected {error.expected}, got {error.got}"


def _structure(name: str, path: Path, index: str) -> tuple[StructureFile, tuple[Atoms, ...]]:
    kind = format_of(path)
    frames = tuple(read_structures(path, index, kind=kind))
    structure = StructureFile(
        name=name,
        path=path.absolute(),
        kind=kind,
        index=index,
        content=hash_of_frames(frames),
        frames=len(frames),
        atoms=max(len(atoms) for atoms in frames),
        formula=frames[0].get_chemical_formula(),
    )
    return structure, frames
