"""Lennard-Jones atoms of several species."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from metatomic.torch import AtomisticModel, ModelMetadata

from alchemi_bridge.errors import ConfigurationError
from alchemi_bridge.potentials import _options
from alchemi_bridge.potentials._lennard_jones import LennardJones, TrainableLennardJones, mixed

#: argon and krypton, N. Bernardes, Phys. Rev. 112, 1534 (1958): 167e-16 erg and 225e-16 erg, in eV
TYPES = (18, 36)
EPSILON = (0.01042332, 0.01404340)
SIGMA = (3.40, 3.65)
TRUNCATIONS = ("force-shift", "energy-shift", "none")


def _single(
    types: list[int], epsilon: Sequence[float], sigma: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    for name, values in (("epsilon", epsilon), ("sigma", sigma)):
        if len(values) != len(types):
            raise ConfigurationError(
                name,
                expected=f"one value for each of the {len(types)} types",
                got=f"{len(values)} values",
                fix=f"make types and {name} equally long",
            )
    eps, sig = (
        torch.tensor([_options.number(n, v, above=0.0) for v in values], dtype=torch.float64)
        for n, values in (("epsilon", epsilon), ("sigma", sigma))
    )
    return eps, sig


def _tables(
    types: list[int],
    epsilon: Sequence[float],
    sigma: Sequence[float],
    pairs: Mapping[tuple[int, int], tuple[float, float]],
) -> tuple[torch.Tensor, torch.Tensor]:
    eps_table, sig_table = mixed(*_single(types, epsilon, sigma))
    for (a, b), (e, s) in pairs.items():
        if a not in types or b not in types:
            raise ConfigurationError(
                "pairs",
                expected=f"pairs of the types {types}",
                got=f"the pair ({a}, {b})",
                fix="add the missing type or remove the pair",
            )
        for i, j in ((types.index(a), types.index(b)), (types.index(b), types.index(a))):
            eps_table[i, j] = _options.number("epsilon", e, above=0.0)
            sig_table[i, j] = _options.number("sigma", s, above=0.0)
    return eps_table, sig_table


def lennard_jones(
    *,
    types: Sequence[int] = TYPES,
    epsilon: Sequence[float] = EPSILON,
    sigma: Sequence[float] = SIGMA,
    pairs: Mapping[tuple[int, int], tuple[float, float]] | None = None,
    cutoff: float = 8.5,
    truncation: str = "force-shift",
    full_list: bool = False,
    strict: bool = True,
    dtype: str = "float64",
    trainable: bool = False,
) -> AtomisticModel:
    """Lennard-Jones model, u(r) = 4 epsilon [(sigma/r)^12 - (sigma/r)^6] within the cutoff.

    Parameters
    ----------
    types
        Atomic numbers.
    epsilon, sigma
        Well depth in eV and diameter in Å, one per type. Unlike types mix after Lorentz and
        Berthelot: geometric mean of epsilon, arithmetic mean of sigma.
    pairs
        ``(type, type): (epsilon, sigma)`` for pairs that do not follow the mixing rule.
    cutoff
        Å.
    truncation
        ``"force-shift"``: u(r) - u(rc) - (r - rc) u'(rc), energy and force are continuous;
        ``"energy-shift"``: u(r) - u(rc), the force jumps; ``"none"``: u(r), both jump.
    full_list
        Ask for every pair in both directions instead of once. The energies are the same.
    strict
        Ask for a list without pairs beyond the cutoff. The energies are the same.
    dtype
        ``"float64"`` or ``"float32"``.
    trainable
        Keep ``epsilon`` and ``sigma``, one per type, as the parameters of the model instead of
        a table that is made of them once. The energies are the same; ``pairs`` is refused, since
        those would not follow.

    Returns
    -------
    AtomisticModel
        On the CPU, in evaluation mode; interaction range = cutoff. A pair's energy is shared
        equally by its atoms.

    Raises
    ------
    ConfigurationError
        If an option is out of its range.

    References
    ----------
    J. E. Jones, Proc. R. Soc. A 106, 463 (1924), doi:10.1098/rspa.1924.0082; default parameters of
    argon and krypton: N. Bernardes, Phys. Rev. 112, 1534 (1958), doi:10.1103/PhysRev.112.1534;
    shifted force: S. Toxvaerd and J. C. Dyre, J. Chem. Phys. 134, 081102 (2011),
    doi:10.1063/1.3558787.
    """
    if truncation not in TRUNCATIONS:
        raise ConfigurationError(
            "truncation",
            expected=f"one of {', '.join(TRUNCATIONS)}",
            got=repr(truncation),
            fix="choose one of them",
        )
    known = _options.atomic_types(types)
    rc = _options.number("cutoff", cutoff, above=0.0)
    module: torch.nn.Module
    if trainable:
        if pairs:
            raise ConfigurationError(
                "pairs",
                expected="none in a model whose epsilon and sigma are trainable",
                got=f"{len(pairs)} pairs that do not follow the mixing rule",
                fix="remove 'pairs' or 'trainable'",
            )
        eps, sig = _single(known, epsilon, sigma)
        module = TrainableLennardJones(
            known, eps, sig, rc, truncation, bool(full_list), bool(strict)
        )
    else:
        eps, sig = _tables(known, epsilon, sigma, pairs or {})
        module = LennardJones(known, eps, sig, rc, truncation, bool(full_list), bool(strict))
    options: dict[str, Any] = {
        "types": known,
        "epsilon": [float(e) for e in epsilon],
        "sigma": [float(s) for s in sigma],
        "pairs": [[*key, *value] for key, value in (pairs or {}).items()],
        "cutoff": rc,
        "truncation": truncation,
        "full_list": bool(full_list),
        "strict": bool(strict),
        "dtype": dtype,
        "trainable": bool(trainable),
    }
    return _options.to_model(
        module.to(_options.torch_dtype(dtype)),
        name="lennard-jones",
        options=options,
        types=known,
        interaction_range=rc,
        dtype=dtype,
        metadata=ModelMetadata(
            name="Lennard-Jones",
            description=f"Lennard-Jones atoms, cutoff {rc:g} angstrom, truncation {truncation}",
            references={
                "architecture": [
                    "J. E. Jones, Proc. R. Soc. A 106, 463 (1924), "
                    "https://doi.org/10.1098/rspa.1924.0082"
                ],
                "model": [
                    "N. Bernardes, Phys. Rev. 112, 1534 (1958), "
                    "https://doi.org/10.1103/PhysRev.112.1534"
                ],
            },
        ),
    )
