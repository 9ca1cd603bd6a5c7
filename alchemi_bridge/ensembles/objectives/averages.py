"""Objectives for one average each; several in one objective share energies and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alchemi_bridge.ensembles.models import ModelFile
from alchemi_bridge.ensembles.objectives.reweighted import ReweightedObjective
from alchemi_bridge.ensembles.objectives.targets import Target
from alchemi_bridge.ensembles.observables import Density, PotentialEnergy, RadialDistribution
from alchemi_bridge.ensembles.work import Simulator

Model = ModelFile | str | Path


class RdfObjective(ReweightedObjective):
    """A radial distribution function.

    Parameters
    ----------
    name, model, trajectories
        See :class:`ReweightedObjective`, also for other ``options``.
    rdf
        Which one.
    target
        (bins,) values at ``rdf.r``.
    weight, scale, temperature
        See :class:`Target`.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        trajectories: Sequence[Simulator | str],
        rdf: RadialDistribution,
        target: np.ndarray,
        *,
        weight: float = 1.0,
        scale: float = 1.0,
        temperature: float | None = None,
        **options: Any,
    ) -> None:
        targets = [Target("rdf", rdf, np.asarray(target), weight, scale, temperature)]
        super().__init__(name, model, trajectories, targets, **options)


class DensityObjective(ReweightedObjective):
    """The mean density, g/cm^3, of simulations at constant pressure.

    Parameters as those of :class:`RdfObjective`; ``target`` in g/cm^3.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        trajectories: Sequence[Simulator | str],
        target: float,
        *,
        weight: float = 1.0,
        scale: float = 1.0,
        temperature: float | None = None,
        **options: Any,
    ) -> None:
        targets = [Target("density", Density(), np.asarray(target), weight, scale, temperature)]
        super().__init__(name, model, trajectories, targets, **options)


class MeanEnergyObjective(ReweightedObjective):
    """The mean potential energy, eV, of an atom or of all.

    Parameters as those of :class:`RdfObjective`; ``target`` in eV.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        trajectories: Sequence[Simulator | str],
        target: float,
        *,
        per_atom: bool = True,
        weight: float = 1.0,
        scale: float = 1.0,
        temperature: float | None = None,
        **options: Any,
    ) -> None:
        energy = PotentialEnergy(per_atom=per_atom)
        targets = [Target("energy", energy, np.asarray(target), weight, scale, temperature)]
        super().__init__(name, model, trajectories, targets, **options)
