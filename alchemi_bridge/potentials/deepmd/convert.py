"""Frozen models of DeePMD-kit become metatomic models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from metatomic.torch import AtomisticModel

from alchemi_bridge.errors import BridgeError, ConfigurationError, ModelLoadError, last_line
from alchemi_bridge.model.files import check_target, save_model
from alchemi_bridge.potentials._options import DTYPES
from alchemi_bridge.potentials.deepmd.adapter import frozen_energies
from alchemi_bridge.potentials.deepmd.definition import Definition, read_definition
from alchemi_bridge.potentials.deepmd.environment import both_directions
from alchemi_bridge.potentials.deepmd.frozen import FrozenFile, read_frozen
from alchemi_bridge.potentials.deepmd.frozen_definition import jumps_at_cutoff
from alchemi_bridge.potentials.deepmd.metatomic_model import wrap
from alchemi_bridge.potentials.deepmd.model import SeE2A
from alchemi_bridge.potentials.deepmd.weights import from_deepmd

LOGGER = logging.getLogger(__name__)

#: Whose code a converted model runs.
CODES = ("auto", "native", "deepmd")
#: Largest difference of the two codes by the precision inside the model, as a part of the largest
#: energy of an atom and of the largest gradient, or of 1 eV and 1 eV/Å if those are smaller:
#: rounding only (6e-8 in float32), of sums of some hundred terms.
AGREEMENT = {"float64": 1e-10, "float32": 1e-5}


@dataclass(frozen=True)
class Conversion:
    """What was converted into what.

    Attributes
    ----------
    path
        The metatomic model that was written.
    kind
        ``"se_e2_a"``, ``"dpa1"`` or ``"dpa3"``.
    code
        Whose code it runs: ``"native"``, this package's, or ``"deepmd"``, the code in the file.
    types
        Atomic number of each type.
    interaction_range
        Å.
    sha256
        Hash of the frozen file.
    operators
        DeePMD-kit's C++ operators that were taken out of the code.
    difference
        Largest difference of the two codes on a random structure, energies of atoms in eV and
        gradients in eV/Å; None if only one of them was there to run.
    """

    path: Path
    kind: str
    code: str
    types: dict[str, int]
    interaction_range: float
    sha256: str
    operators: tuple[str, ...]
    difference: float | None


def convert(
    frozen: str | Path,
    output: str | Path,
    *,
    numbers: Mapping[str, int] | None = None,
    code: str = "auto",
    sha256: str | None = None,
) -> Conversion:
    """Convert a frozen model; DeePMD-kit is not needed.

    Parameters
    ----------
    frozen
        File of ``dp --pt freeze``, usually ``*.pth``.
    output
        Metatomic model to write, usually ``*.pt``; a file that is there is replaced.
    numbers
        Atomic numbers of types whose names are no chemical symbols.
    code
        ``"native"``: this package's implementation with the file's weights, for se_e2_a;
        ``"deepmd"``: the scripted code in the file; ``"auto"``: native where that is possible. If
        both can run, their results are compared.
    sha256
        Expected hash of the frozen file.

    Raises
    ------
    ConfigurationError
        An option is wrong, a type is no element, or ``output`` can not be written there.
    ModelLoadError
        The file is missing, damaged, or holds a model that is not supported.
    UntrustedModelError
        The file is not the pinned one, or holds what no exported model holds.
    OSError
        The disk is full; a file that was there before is as it was.
    """
    output = Path(output)
    _check_options(Path(frozen), output, code)
    label = f"frozen model '{frozen}'"
    file = read_frozen(frozen, sha256=sha256)
    if jumps_at_cutoff(file.kind, file.definition):
        LOGGER.warning(
            "the model has attention layers and smooth_type_embedding false: its energy jumps "
            "where an atom passes the cutoff, and pairs at exactly the cutoff do not count here, "
            "while DeePMD-kit counts them"
        )
    native, reason = (None, None) if code == "deepmd" else _native(file, label)
    if native is None and code == "native":
        assert reason is not None
        raise reason
    if reason is not None and file.kind == "se_e2_a":
        LOGGER.warning("taking the model's own code, not ours: %s", reason)
    energies: torch.nn.Module
    if native is None:
        energies, difference = _running(frozen_energies(file, label), file, label), None
    else:
        energies, difference = native[0].eval(), _compare(native, file, label)
    model = _wrapped(energies, file, numbers or {}, None if native is None else native[1])
    save_model(model, output)
    return Conversion(
        path=output,
        kind=file.kind,
        code="deepmd" if native is None else "native",
        types=dict(zip(file.type_map, model.module.type_numbers, strict=True)),
        interaction_range=file.interaction_range,
        sha256=file.sha256,
        operators=file.operators,
        difference=difference,
    )


def _check_options(frozen: Path, output: Path, code: str) -> None:
    if code not in CODES:
        raise ConfigurationError(
            "code", expected=f"one of {', '.join(CODES)}", got=repr(code), fix="choose one of them"
        )
    check_target(output, frozen)


def _native(
    file: FrozenFile, label: str
) -> tuple[tuple[SeE2A, Definition] | None, BridgeError | None]:
    """Our model with the file's weights, or why there is none."""
    if file.kind != "se_e2_a":
        return None, ModelLoadError(
            label,
            expected="an se_e2_a model, the one that is implemented here",
            got=f"a {file.kind} model",
            fix="let it run its own code (--code deepmd)",
        )
    try:
        definition = read_definition(file.definition, f"{label}, model", trained=True)
        return (from_deepmd(definition, file.module.state_dict(), label), definition), None
    except BridgeError as error:
        return None, error


def _wrapped(
    energies: torch.nn.Module,
    file: FrozenFile,
    numbers: Mapping[str, int],
    definition: Definition | None,
) -> AtomisticModel:
    model = file.definition if definition is None else definition.to_deepmd()
    return wrap(
        energies,
        kind=file.kind,
        type_map=file.type_map,
        rcut=file.rcut,
        interaction_range=file.interaction_range,
        full_list=definition is None,
        numbers=numbers,
        options={"model": model, "frozen_sha256": file.sha256},
    )


def _compare(native: tuple[SeE2A, Definition], file: FrozenFile, label: str) -> float | None:
    """Largest difference of both codes; an error if it is more than rounding."""
    model, definition = native
    pairs = _random_pairs(definition.n_types, definition.rcut)
    ours = _evaluate(model, pairs, full_list=False)
    try:
        theirs = _evaluate(frozen_energies(file, label), pairs, full_list=True)
    except Exception as error:  # the file's own code runs, and may raise anything
        LOGGER.warning(
            "the model's own code fails, so that ours is not compared with it: %s",
            last_line(error),
        )
        return None
    _check_finite(theirs, label)
    single = DTYPES["float32"] in (model.dtype, model.fitting_dtype)
    limit = AGREEMENT["float32" if single else "float64"]
    largest = 0.0
    for name, mine, other in zip(("eV", "eV/Å"), ours, theirs, strict=True):
        if mine.numel() == 0:
            continue
        scale = max(1.0, float(other.abs().max()))
        difference = float((mine - other).abs().max())
        if not difference <= limit * scale:
            raise ModelLoadError(
                label,
                expected="a model whose own code agrees with the native one within "
                f"{limit * scale:.1g} {name}",
                got=f"a difference of {difference:.2g}",
                fix="use neither of them, and report the file: one of the two is wrong",
            )
        largest = max(largest, difference)
    return largest


def _running(scripted: torch.nn.Module, file: FrozenFile, label: str) -> torch.nn.Module:
    """The model's own code, after it was seen to run."""
    try:
        pairs = _random_pairs(len(file.type_map), file.rcut)
        found = _evaluate(scripted, pairs, full_list=True)
    except Exception as error:  # the file's own code runs, and may raise anything
        raise ModelLoadError(
            label,
            expected="a model whose own code runs with this version of torch",
            got=last_line(error),
            fix="freeze it again with a version of DeePMD-kit that uses a torch of about this age",
        ) from error
    _check_finite(found, label)
    return scripted


def _check_finite(found: tuple[torch.Tensor, ...], label: str) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found):
        raise ModelLoadError(
            label,
            expected="finite energies and forces for a small cluster",
            got="NaN or infinite ones",
            fix="train again from an earlier checkpoint; the training diverged",
        )


def _random_pairs(n_types: int, rcut: float) -> tuple[torch.Tensor, ...]:
    """Vectors, first and second atoms (each pair once) of a cluster of all types, and the types."""
    generator = torch.Generator().manual_seed(0)
    n_side = 3
    spacing = 0.55 * rcut
    grid = torch.cartesian_prod(*[torch.arange(n_side, dtype=torch.float64)] * 3) * spacing
    x = grid + 0.2 * spacing * torch.rand(grid.shape, dtype=torch.float64, generator=generator)
    types = torch.arange(len(x)) % n_types
    vectors = x.unsqueeze(0) - x.unsqueeze(1)
    first, second = (vectors.norm(dim=2) < rcut).triu(diagonal=1).nonzero().unbind(1)
    return vectors[first, second], first, second, types


def _evaluate(
    model: torch.nn.Module, pairs: tuple[torch.Tensor, ...], full_list: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    vectors, first, second, types = pairs
    vectors = vectors.clone().requires_grad_(True)
    arguments = (vectors, first, second)
    energies = model(*(both_directions(*arguments) if full_list else arguments), types)
    [gradient] = torch.autograd.grad(energies.sum(), [vectors])
    return energies.detach(), gradient
