"""Models for LAMMPS' tests, and runs of LAMMPS in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zoo
from zoo_messages import two_lists

from alchemi_bridge import potentials
from alchemi_bridge.parity.cases import STILLINGER_WEBER, Potential
from alchemi_bridge.parity.lammps_worker import numbers_of

ROOT = Path(__file__).resolve().parent.parent


def export_models(folder: Path) -> None:
    """Models that the runs use, and the file of LAMMPS' own Stillinger-Weber."""
    potentials.export(
        "lennard_jones",
        folder / "lj.pt",
        types=[18],
        epsilon=[0.0104],
        sigma=[3.4],
        cutoff=6.0,
        truncation="energy-shift",
    )
    potentials.export(
        "lennard_jones",
        folder / "mixture.pt",
        types=[18, 36],
        epsilon=[0.0104, 0.0140],
        sigma=[3.4, 3.6],
        pairs={(18, 36): (0.0120, 3.5)},
        cutoff=6.0,
        truncation="energy-shift",
    )
    potentials.export("stillinger_weber", folder / "sw.pt")
    potentials.export("message_passing", folder / "net.pt")
    potentials.export("message_passing", folder / "net32.pt", dtype="float32")
    for name in ("variants", "non_conservative", "uncertain", "no_energy", "reads_positions",
                 "per_system_only"):  # fmt: skip
        zoo.save(getattr(zoo, name)(), folder, name)
    zoo.save(zoo.extra_inputs("charge"), folder, "charge")
    zoo.save(two_lists(3.0, 5.0), folder, "short-long")
    zoo.save(two_lists(5.0, 3.0), folder, "long-short")
    numbers = numbers_of(Potential(STILLINGER_WEBER))
    order = ("epsilon", "sigma", "a", "lam", "gamma", "costheta0", "A", "B", "p", "q")
    values = " ".join(repr(float(numbers[name])) for name in order)
    (folder / "Si.sw").write_text(f"Si Si Si {values} 0.0\n", encoding="utf-8")


def problems(found: Mapping[str, Any], checks: Mapping[str, Callable[[Any], None]]) -> list[str]:
    """Run the check of every result; there must be one for each, and the other way round."""
    texts = [f"{name}: no result" for name in checks if name not in found]
    texts += [f"{name}: nobody checks it" for name in found if name not in checks]
    for name, check in checks.items():
        value = found.get(name)
        if isinstance(value, str) and value.startswith("ERROR Exception"):
            texts.append(f"{name}: {value}")
        elif name in found:
            try:
                check(value)
            except AssertionError as error:
                texts.append(f"{name}: {error}")
    return texts
