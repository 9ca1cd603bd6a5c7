"""The calculators' options as the keywords of plugins, for paths that run in engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alchemi_bridge.errors import ConfigurationError, first_line
from alchemi_bridge.parity.paths import Job


def why_no_plugin(job: Job, path: str) -> str | None:
    """Why a plugin can not evaluate a job on the CPU, or ``None`` if it can.

    Parameters
    ----------
    job
        What is asked for.
    path
        Name of the path, for messages.
    """
    loaded = job.loaded
    if "cpu" not in loaded.capabilities.supported_devices:
        return "the model does not support cpu"
    if loaded.requested_inputs:
        return f"the model requests {', '.join(loaded.requested_inputs)}"
    try:
        keywords(job.options, path)
    except ConfigurationError as error:
        return first_line(error)
    return None


def keywords(options: Mapping[str, Any], path: str) -> dict[str, str]:
    """Keywords and values; see ``ab_options`` in ``plugins/include/alchemi_bridge.h``.

    Parameters
    ----------
    options
        Those of a :class:`~.paths.Job`.
    path
        Name of the path, for messages.

    Raises
    ------
    ConfigurationError
        If there is no keyword for one of them.
    """
    words: dict[str, str] = {}
    for name, value in options.items():
        if value is None or (name == "non_conservative" and value is False):
            continue
        if name == "variants":
            words |= _variants(value, path)
        elif name == "non_conservative":
            words[name] = "on" if value is True else str(value)
        elif name == "extensions_directory":
            words["extensions"] = str(value)
        else:
            raise ConfigurationError(
                f"option '{name}'",
                expected="one that the plugin has a keyword for",
                got=repr(value),
                fix=f"leave the path '{path}' out",
            )
    return words


def _variants(variants: Mapping[str, str | None], path: str) -> dict[str, str]:
    """Keywords of variants. An output without one can not be named where the energy has one."""
    words: dict[str, str] = {}
    for output, variant in variants.items():
        if variant is not None:
            words[f"variant/{output}"] = variant
        elif variants.get("energy") is not None:
            raise ConfigurationError(
                f"variant of '{output}'",
                expected="a name: in the plugin it follows the energy, which has a variant",
                got="None",
                fix=f"leave the path '{path}' out",
            )
    return words
