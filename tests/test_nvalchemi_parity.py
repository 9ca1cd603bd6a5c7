"""The parity path nvalchemi, and what it says where it does not run."""

from __future__ import annotations

import numpy as np
import pytest

from alchemi_bridge.engines.nvalchemi_version import missing
from alchemi_bridge.parity import cases, paths
from alchemi_bridge.parity.run import Settings, run

FAST = Settings(repeats=1, warm_up=0)

PATHS = ["oracle", "bridge-cpu", "nvalchemi"]


def test_it_says_why_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alchemi_bridge.engines.nvalchemi_version._version", lambda name: None)
    report = run(cases.select(["small-cell"]), paths.select(PATHS), FAST)
    (skipped,) = (p.skipped for p in report.cases[0].paths if p.name == "nvalchemi")
    assert skipped is not None
    assert "alchemi-bridge[nvalchemi]" in skipped


def test_it_agrees_with_the_oracle() -> None:
    """Periodic and not, cells below the cutoff, several species; left-handed ones are refused."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    names = ["slab", "molecule", "small-cell", "mixed-species", "left-handed"]
    report = run(cases.select(names), paths.select(PATHS), FAST)
    found = {case.case.name: {p.name: p for p in case.paths}["nvalchemi"] for case in report.cases}
    assert found.pop("left-handed").skipped == "nvalchemi needs right-handed cells"
    assert {name: path.failures for name, path in found.items()} == {n: [] for n in names[:4]}
    checks = {name: len(path.comparison.checks) for name, path in found.items()}
    assert checks["mixed-species"] == checks["slab"] + 1  # the virial
    assert all(path.ms_per_step > 0.0 for path in found.values())
    assert np.isfinite([path.ms_per_step for path in found.values()]).all()
