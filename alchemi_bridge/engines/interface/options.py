"""Keywords of the C interface and of LAMMPS' pair style, and the provider that they describe."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from alchemi_bridge.device import cuda_devices, place
from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.provider import MetatomicForceProvider
from alchemi_bridge.units import Units

#: Quantities that ``variant/...`` may name.
VARIANTS = (
    "energy",
    "energy_uncertainty",
    "non_conservative_forces",
    "non_conservative_stress",
)

MEV = 1e-3

#: More are a typing error, which torch would believe.
MAX_THREADS = 10_000


@dataclass(frozen=True)
class Host:
    """What the engine says of itself.

    Attributes
    ----------
    units
        Of everything that it hands over.
    local_rank, local_size
        Number of its rank on the node, and how many there are; ``None``: as the launcher says.
    """

    units: Units
    local_rank: int | None = None
    local_size: int | None = None


def provider_for(model: str, keywords: Mapping[str, str], host: Host) -> MetatomicForceProvider:
    """Load a model as the keywords say.

    Parameters
    ----------
    model
        Path of the file.
    keywords
        Values by name, all as text; see ``ab_options`` in ``alchemi_bridge.h``.
    host
        The engine.

    Raises
    ------
    ConfigurationError
        For a keyword that does not exist, or a value out of its range.
    BridgeError
        Whatever :class:`MetatomicForceProvider` raises.
    """
    options: dict[str, Any] = {"tuning": False}
    variants: dict[str, str | None] = {}
    for name, value in keywords.items():
        if name == "variant":
            # the others follow the energy
            variants.setdefault("energy", value)
        elif name.startswith("variant/") and name.removeprefix("variant/") in VARIANTS:
            variants[name.removeprefix("variant/")] = value
        elif name in READERS:
            argument, read = READERS[name]
            options[argument] = read(name, value)
        else:
            raise ConfigurationError(
                "keyword",
                expected=", ".join(known()),
                got=f"'{name}'",
                fix="correct the name",
            )
    threads = options.pop("threads", None)
    if threads is not None:
        torch.set_num_threads(threads)
    options["device"] = device_of(options.get("device"), host)
    return MetatomicForceProvider(model, units=host.units, variants=variants, **options)


def known() -> list[str]:
    """Names of all keywords."""
    return [*READERS, "variant", *(f"variant/{quantity}" for quantity in VARIANTS)]


def device_of(wanted: str | None, host: Host) -> str | None:
    """The device to ask for: ``cuda`` without a number is that of the rank."""
    if wanted not in (None, "cuda") or cuda_devices() == 0:
        return wanted
    placement = place(rank=host.local_rank, size=host.local_size)
    # for a model that prefers the CPU nothing is lost; others take the current device
    torch.cuda.set_device(placement.device)
    return wanted


def _flag(name: str, value: str) -> bool:
    # LAMMPS' own spellings of logical values
    if value in ("on", "yes", "true"):
        return True
    if value in ("off", "no", "false"):
        return False
    raise _wrong(name, "on or off", value)


def _text(name: str, value: str) -> str:
    if not value.strip():
        raise _wrong(name, "a value", value)
    return value


def _path(name: str, value: str) -> str:
    return os.path.expanduser(_text(name, value))


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(name, "a finite number", value)
    return number


def _threshold(name: str, value: str) -> float | None:
    if value == "off":
        return None
    number = _number(name, value)
    if number <= 0.0:
        raise _wrong(name, "a positive number of meV for each atom, or off", value)
    return number * MEV


def _direct(name: str, value: str) -> bool | str:
    return value if value in ("forces", "stress") else _flag(name, value)


def _count(name: str, value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= MAX_THREADS:
        raise _wrong(name, f"a number from 1 to {MAX_THREADS}", value)
    return int(value)


def _wrong(name: str, expected: str, got: str) -> ConfigurationError:
    return ConfigurationError(
        f"keyword '{name}'", expected=expected, got=f"'{got}'", fix="correct the value"
    )


#: Argument of the provider for each keyword, and what reads the value.
READERS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "device": ("device", _text),
    "extensions": ("extensions_directory", _path),
    "sha256": ("sha256", _text),
    "check_consistency": ("check_consistency", _flag),
    "non_conservative": ("non_conservative", _direct),
    "scale": ("scale", _number),
    "uncertainty_threshold": ("uncertainty_threshold", _threshold),
    "tuning": ("tuning", _flag),
    "threads": ("threads", _count),
}
