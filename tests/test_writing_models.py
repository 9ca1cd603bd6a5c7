"""Models that write into what they are given: every evaluation gets inputs of its own."""

from __future__ import annotations

from pathlib import Path

import feature_parts as parts
import numpy as np
import pytest
import torch
from metatensor.torch import Labels
from metatomic.torch import System
from zoo_parts import Pairs as PairModel
from zoo_parts import make, save, wrap

from alchemi_bridge import MetatomicForceProvider


class Keeps(PairModel):
    """Stores something in its systems, which metatomic allows once for each."""

    def extra_energy(self, system: System) -> torch.Tensor:
        """Nothing, but a note in the system."""
        n = len(system)
        values = torch.ones((n, 1), dtype=system.positions.dtype)
        zeros = torch.zeros(n, dtype=torch.int32)
        rows = torch.stack([zeros, torch.arange(n, dtype=torch.int32)], dim=1)
        samples = Labels(["system", "atom"], rows)
        system.add_data("zoo::cache", wrap(values, samples, [], "cache"))
        return torch.zeros(n, dtype=system.positions.dtype)


@pytest.mark.parametrize("strict", [True, False])
def test_a_model_that_keeps_a_note_in_its_system(strict: bool, tmp_path: Path) -> None:
    """Whole lists would hand it the same system again: they are given up, the forces go on."""
    path = save(make(Keeps(((3.0, True, strict),)), "keeps"), tmp_path, "keeps")
    provider = MetatomicForceProvider(path)
    atoms = parts.crystal(2)
    parts.prepare(provider, atoms)
    first = np.array(parts.step(provider, atoms).forces)
    for _ in range(40):
        np.testing.assert_allclose(parts.step(provider, atoms).forces, first, atol=1e-10)
    assert provider.tuned
    assert not provider.mode.uncut
    assert provider.loaded.execution.is_direct()
