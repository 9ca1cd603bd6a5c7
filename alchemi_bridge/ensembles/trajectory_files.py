"""Trajectories in files: ``.npz`` with everything, or ``.extxyz`` for other programs."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from alchemi_bridge.ensembles.trajectory import Origin, Trajectory
from alchemi_bridge.errors import BridgeError, ConfigurationError, StructureFileError, first_line
from alchemi_bridge.model.files import replacing

FORMAT = "alchemi_bridge trajectory 1"


def write_trajectory(trajectory: Trajectory, path: str | os.PathLike[str]) -> Path:
    """Write a trajectory.

    Parameters
    ----------
    path
        ``*.npz``: all of it, as :func:`read_trajectory` reads it. ``*.extxyz`` or ``*.xyz``: frames
        with energy, time and temperature, without what made them.

    Raises
    ------
    ConfigurationError
        If the name ends otherwise, or the file can not be written.
    """
    target = Path(path)
    if target.suffix not in (".npz", ".extxyz", ".xyz"):
        raise ConfigurationError(
            f"trajectory file '{target}'",
            expected="a name that ends in .npz, .extxyz or .xyz",
            got=f"'{target.suffix}'",
            fix="choose one of them",
        )
    with replacing(target) as partial:
        if target.suffix == ".npz":
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **_arrays(trajectory))
        else:
            ase.io.write(partial, list(trajectory.to_ase()), format="extxyz")
    return target


def _arrays(trajectory: Trajectory) -> dict[str, Any]:
    arrays = {f.name: getattr(trajectory, f.name) for f in fields(trajectory)}
    origins = [asdict(origin) for origin in arrays.pop("origins")]
    for k, origin in enumerate(origins):
        parameters = origin.pop("parameters")
        origin["names"] = list(parameters)
        for j, value in enumerate(parameters.values()):
            arrays[f"parameter.{k}.{j}"] = value
    arrays["about"] = np.array(json.dumps({"format": FORMAT, "origins": origins}))
    return arrays


def read_trajectory(path: str | os.PathLike[str]) -> Trajectory:
    """Read what :func:`write_trajectory` wrote as ``.npz``. Nothing in the file is executed.

    Raises
    ------
    StructureFileError
        If it is missing, damaged, or something else.
    """
    try:
        # opened here: NumPy forgets to close a file that is none of its own
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r}")
            origins = []
            for k, origin in enumerate(about["origins"]):
                names = enumerate(origin.pop("names"))
                parameters = {name: arrays[f"parameter.{k}.{j}"] for j, name in names}
                origins.append(Origin(**origin, parameters=parameters))
            frames = {f.name: arrays[f.name] for f in fields(Trajectory) if f.name != "origins"}
            return Trajectory(**frames, origins=tuple(origins))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, BridgeError) as error:
        raise StructureFileError(
            f"trajectory file '{path}'",
            expected=f"a file that write_trajectory wrote ({FORMAT})",
            got=first_line(error),
            fix="check the path, or simulate again",
        ) from error
