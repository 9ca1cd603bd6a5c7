"""Which versions of nvalchemi are used; runs also where there is none."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from alchemi_bridge.engines import nvalchemi_version
from alchemi_bridge.errors import ConfigurationError

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def pretend(monkeypatch: pytest.MonkeyPatch, toolkit: str | None, ops: str = "0.4.1") -> None:
    def version(name: str) -> str:
        found = {"nvalchemi-toolkit": toolkit, "nvalchemi-toolkit-ops": ops}[name]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(nvalchemi_version.importlib.metadata, "version", version)


@pytest.mark.parametrize("ops", ["0.4.1", "0.4.7"])
def test_tested_versions(ops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "0.2.0", ops)
    assert nvalchemi_version.missing() is None


@pytest.mark.parametrize(
    ("toolkit", "ops", "got"),
    [
        ("0.1.0", "0.4.1", "version 0.1.0"),
        ("0.2.1", "0.4.1", "version 0.2.1"),
        ("0.3.0", "0.4.1", "version 0.3.0"),
        ("0.2.0", "0.4.0", "version 0.4.0"),
        ("0.2.0", "0.5.0", "version 0.5.0"),
        (None, "0.4.1", "none"),
    ],
)
def test_other_versions(
    toolkit: str | None, ops: str, got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, toolkit, ops)
    with pytest.raises(ConfigurationError, match=rf"tested with .*, got {got}; pip install"):
        nvalchemi_version.require_tested()
    assert "alchemi-bridge[nvalchemi]" in str(nvalchemi_version.missing())


def test_extra_installs_what_was_tested() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    pins = [name + versions for name, versions in nvalchemi_version.TESTED.items()]
    assert [pin for pin in extras["nvalchemi"] if pin.startswith("nvalchemi")] == pins


def test_the_package_does_not_need_it() -> None:
    """Importing the package and its other engines loads nothing of nvalchemi."""
    code = (
        "import sys, alchemi_bridge.batch, alchemi_bridge.engines.ase;"
        "assert not any(name.split('.')[0] in ('nvalchemi', 'warp') for name in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
