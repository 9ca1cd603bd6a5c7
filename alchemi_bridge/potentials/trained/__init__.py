"""Trained models that come with the package, each with the recipe that it was made by.

``NAME.pt`` is the metatomic model, ``NAME.npz`` its weights under DeePMD-kit's names, ``NAME.json``
the recipe, the errors, and the hashes of the other two. ``examples/deepmd/make_model.py --store``
writes them.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from metatomic.torch import AtomisticModel

from alchemi_bridge.errors import ConfigurationError, ModelLoadError, first_line

FOLDER = Path(__file__).resolve().parent


def recipe(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """How the model called ``name`` was made, and how good it is; see ``NAME.json``.

    Raises
    ------
    ModelLoadError
        If the file is missing or damaged.
    """
    path = folder / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not {"model", "sha256"} <= found.keys():
            raise ValueError("another content")
    except (OSError, ValueError, AttributeError) as error:
        raise _unusable(path, "the recipe of a model", first_line(error)) from error
    recipe: dict[str, Any] = found
    return recipe


def content(name: str, folder: Path = FOLDER) -> bytes:
    """The file ``NAME.pt``.

    Raises
    ------
    ModelLoadError
        If it or the recipe is missing, or it is not the one that the recipe speaks of.
    """
    path = folder / f"{name}.pt"
    known = recipe(name, folder)["sha256"].get(path.name)
    try:
        found = path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"SHA-256 {known}", first_line(error)) from error
    sha256 = hashlib.sha256(found).hexdigest()
    if sha256 != known:
        raise _unusable(path, f"SHA-256 {known}", sha256)
    return found


def _unusable(path: Path, expected: str, got: str) -> ModelLoadError:
    """An error about a stored file, to be raised."""
    return ModelLoadError(
        f"stored model '{path}'", expected=expected, got=got, fix="install the package again"
    )


def copper(*, dtype: str = "float64") -> AtomisticModel:
    """Copper as ASE's EMT potential sees it: an se_e2_a model that was trained with this package.

    The weights are those of ``copper.pt``, which :func:`alchemi_bridge.potentials.export` copies.

    Parameters
    ----------
    dtype
        ``"float64"``; there is no other one.

    Raises
    ------
    ConfigurationError
        If ``dtype`` is another.
    ModelLoadError
        If a stored file is missing or was changed.
    """
    # nothing of it is needed for the other potentials
    from alchemi_bridge.potentials.deepmd import SeE2A, read_definition, to_metatomic

    check_dtype(dtype)
    definition = read_definition(recipe("copper")["model"], "model of copper.json")
    scripted = torch.jit.load(io.BytesIO(content("copper")), map_location="cpu")
    stored = scripted.state_dict()
    model = SeE2A(definition)
    # TorchScript stores buffers, too, that the model makes of its definition
    model.load_state_dict({key: stored[f"module.energies.{key}"] for key in model.state_dict()})
    return to_metatomic(model, definition)


def check_dtype(dtype: str = "float64") -> None:
    """Refuse what the stored models are not."""
    if dtype != "float64":
        raise ConfigurationError(
            "dtype",
            expected="'float64', the precision that the model was trained in",
            got=repr(dtype),
            fix="leave it out",
        )
