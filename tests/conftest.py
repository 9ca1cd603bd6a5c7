"""Shared fixtures: one torch thread, and model files that are exported once per session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import zoo

from alchemi_bridge import potentials


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """The command line, called in a test, sets up the log of the process."""
    yield
    for name in ("alchemi_bridge", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``model_file(name, **options)``: path of an exported potential, made once per session."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[tuple, Path] = {}

    def export(name: str, **options: object) -> Path:
        key = (name, *sorted((k, repr(v)) for k, v in options.items()))
        if key not in made:
            made[key] = Path(potentials.export(name, folder / f"{name}-{len(made)}.pt", **options))
        return made[key]

    return export


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``models(name)``: path of a model of the zoo, made once per session."""
    folder, made = tmp_path_factory.mktemp("zoo"), {}

    def model(name: str) -> Path:
        if name not in made:
            made[name] = zoo.save(getattr(zoo, name)(), folder, name)
        return made[name]

    return model
