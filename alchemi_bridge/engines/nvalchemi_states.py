"""What nvalchemi's integrators remember of each system: where it is, and how it begins."""

from __future__ import annotations

import copy
from typing import Any

from alchemi_bridge.errors import ConfigurationError


def parts_of(dynamics: Any) -> list[tuple[int | None, Any]]:
    """The parts of a fused stage with their codes, or the dynamics themselves."""
    return list(getattr(dynamics, "sub_stages", [(None, dynamics)]))


def fields_of(state: Any) -> list[str]:
    """Names of what a state holds, one row for each system."""
    return [name for group in state._storage.groups.values() for name in group.keys()]  # noqa: SIM118


def fresh_state(dynamics: Any, batch: Any) -> Any:
    """The state with which the systems of a batch begin a run.

    nvalchemi 0.2 makes that of systems which join others from the mean size of all: thermostats and
    barostats then have wrong degrees of freedom and masses.

    Raises
    ------
    ConfigurationError
        If the dynamics have parameters for each system, which nobody knows for new ones.
    """
    alone = copy.copy(dynamics)
    try:
        if batch.num_graphs > 1:
            # as many parameters as systems would fit here, and be those of other systems
            alone._init_state(batch.index_select([0]))
        alone._init_state(batch)
    except ValueError as error:
        raise ConfigurationError(
            f"parameters of {type(dynamics).__name__}",
            expected="one value for all systems, where systems are replaced by others",
            got="one for each system",
            fix="give numbers, or run the systems that differ in a batch of their own",
        ) from error
    return alone._state


def forget_states(dynamics: Any) -> None:
    """Drop what is left of an earlier run; it is made anew in the next step."""
    for _, part in parts_of(dynamics):
        forget_index(part)
        if hasattr(part, "_state"):
            del part._state


def forget_index(dynamics: Any) -> None:
    """Drop the index of atoms that ``NVTLangevin`` keeps as long as their number is the same."""
    if hasattr(dynamics, "_batch_int32"):
        del dynamics._batch_int32
