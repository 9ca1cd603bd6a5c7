"""The record ``extension_libs``: libraries that GROMACS opens before it loads the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from alchemi_bridge.errors import ConfigurationError, ModelLoadError
from alchemi_bridge.model import LoadedModel
from alchemi_bridge.model.libraries import loaded_files

#: Of metatomic, each after those that it needs.
ALWAYS = ("libmetatensor.so", "libmetatensor_torch.so", "libmetatomic_torch.so")

SEPARATOR = ":"


def needed_libraries(loaded: LoadedModel) -> tuple[Path, ...]:
    """Files of the libraries that the model was loaded with, in the order of loading.

    Raises
    ------
    ModelLoadError
        If one of them is not among the libraries of this process.
    """
    own = () if loaded.records is None else loaded.records.libraries
    names = [*ALWAYS, *(library.path.rsplit("/", 1)[-1] for library in own)]
    files = {file.name: file for file in loaded_files()}
    missing = [name for name in names if name not in files]
    if missing:
        raise ModelLoadError(
            "libraries of the model",
            expected=f"{', '.join(names)} among those that this process has loaded",
            got=f"no {', '.join(missing)}",
            fix="run on Linux, with metatensor and metatomic as their wheels install them",
        )
    return tuple(files[name] for name in names)


def record(files: Sequence[Path], libraries: Literal["paths", "names"]) -> str:
    """Text of the record.

    Parameters
    ----------
    files
        In the order of loading.
    libraries
        ``"paths"``: where they are here; ``"names"``: file names, which the dynamic loader looks
        for in ``LD_LIBRARY_PATH``.

    Raises
    ------
    ConfigurationError
        If a path holds a colon, which separates the entries.
    """
    entries = [str(file) if libraries == "paths" else file.name for file in files]
    for entry in entries:
        if SEPARATOR in entry:
            raise ConfigurationError(
                "libraries",
                expected="paths without a colon, which separates them in the record",
                got=f"'{entry}'",
                fix="write their names only (--libraries names), and set LD_LIBRARY_PATH",
            )
    return SEPARATOR.join(entries)
