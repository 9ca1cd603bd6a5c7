"""Independent answers: float64 NumPy evaluations with forces and virial derived by hand.

No code is shared with the torch potentials or with the rest of the bridge: periodic images, sums
and derivatives are written again. What the two have in common is the published parameters, the
recipe for the net's weights, and the weights of trained models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from ase import Atoms

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.parity.oracles.images import OracleResult
from alchemi_bridge.parity.oracles.lennard_jones import LennardJonesOracle
from alchemi_bridge.parity.oracles.message_passing import MessagePassingOracle
from alchemi_bridge.parity.oracles.se_e2_a import SeE2AOracle, copper
from alchemi_bridge.parity.oracles.stillinger_weber import StillingerWeberOracle

__all__ = [
    "NAMES",
    "LennardJonesOracle",
    "MessagePassingOracle",
    "Oracle",
    "OracleResult",
    "SeE2AOracle",
    "StillingerWeberOracle",
    "build",
]


class Oracle(Protocol):
    """Anything that evaluates atoms in float64."""

    cutoff: float

    def evaluate(self, atoms: Atoms) -> OracleResult:
        """Energy, per-atom energies, forces and virial of ``atoms``."""
        ...


_BUILDERS: dict[str, Callable[..., Oracle]] = {
    "lennard-jones": LennardJonesOracle,
    "stillinger-weber": StillingerWeberOracle,
    "message-passing": MessagePassingOracle,
    "copper": copper,
}
NAMES = tuple(_BUILDERS)
# options of the potentials that say how a model is fed or kept, not what it computes
_FEEDING = {"full_list", "strict", "dtype", "trainable"}


def build(name: str, **options: Any) -> Oracle:
    """Build the oracle of the potential called ``name`` with that potential's options.

    Parameters
    ----------
    name
        One of :data:`NAMES`; underscores count as hyphens.
    **options
        As for :func:`alchemi_bridge.potentials.build`. ``full_list``, ``strict`` and ``dtype``
        do not change the answer and are left aside.

    Raises
    ------
    ConfigurationError
        If the name or an option is unknown.
    """
    builder = _BUILDERS.get(name.replace("_", "-"))
    if builder is None:
        raise ConfigurationError(
            "oracle",
            expected=f"one of {', '.join(NAMES)}",
            got=repr(name),
            fix="choose one of them",
        )
    known = inspect.signature(builder).parameters
    unknown = sorted(set(options) - set(known) - _FEEDING)
    if unknown:
        raise ConfigurationError(
            f"options of '{name}'",
            expected=f"some of {', '.join(known)}",
            got=", ".join(unknown),
            fix="remove or rename the unknown options",
        )
    return builder(**{key: value for key, value in options.items() if key in known})
