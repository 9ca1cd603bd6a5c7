"""Cells under nvalchemi's barostats, which nvalchemi 0.2 deforms along the wrong axes."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch

from alchemi_bridge.engines.nvalchemi_states import parts_of
from alchemi_bridge.errors import ConfigurationError

#: Independent strain rates of a cell over those that nvalchemi 0.2 counts.
COUNTED = {"isotropic": 3.0, "anisotropic": 1.0, "triclinic": 9.0 / 6.0}


class CellHook:
    """Lets barostats deform the cell as they deform the atoms, and at the right temperature.

    In nvalchemi 0.2, ``NPT`` and ``NPH`` multiply the strain rate with the cell matrix as if the
    cell vectors were its columns; they are its rows. Atoms and cell go different ways as soon as
    one of the two matrices is not diagonal, and no enthalpy is conserved. And ``NPT`` keeps the
    motion of the cell at three times the temperature under isotropic coupling, which is one degree
    of freedom and is counted as three, and at one and a half under the triclinic one: volumes
    fluctuate by too much.

    Register this hook with such dynamics, or with the fused stage that they are part of (hooks of
    the parts are not asked before the model there); before other hooks, such as one for neighbours.
    The temperature is then right for all ``NPT`` of the process.
    """

    #: What nvalchemi asks of hooks: each step, at the stages of :meth:`_runs_on_stage`.
    frequency = 1
    stage = None

    def __init__(self) -> None:
        self._before: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def on_register(self, workflow: Any) -> None:
        """Mend the thermostat of the cell."""
        if any(type(part).__name__ == "NPT" for _, part in parts_of(workflow)):
            _count_freedoms()

    def _runs_on_stage(self, stage: Enum) -> bool:
        return stage.name in ("BEFORE_STEP", "BEFORE_COMPUTE", "AFTER_STEP")

    @torch.compiler.disable
    def __call__(self, context: Any, stage: Enum) -> None:
        """Before a step, when the cells have moved, and at its end."""
        batch = context.batch
        if stage.name == "AFTER_STEP":
            self._before = None
            return
        if stage.name == "BEFORE_STEP":
            status = getattr(batch, "status", None)
            self._before = (
                batch.cell.clone(),
                None if status is None else status.flatten().clone(),
            )
            return
        if self._before is None or torch.equal(batch.cell, self._before[0]):
            return  # nothing has moved: forces of systems that are new
        (before, status), self._before = self._before, None
        for code, dynamics in parts_of(context.workflow):
            if not _deforms(dynamics):
                continue
            state = dynamics._state
            strain = state.dt[:, None, None] * state.cell_velocity
            right = before + before @ strain.mT
            if code is None or status is None:
                batch.cell.copy_(right)
            else:
                mine = status == code
                batch.cell[mine] = right[mine]


def require_right_cells(dynamics: Any) -> None:
    """Raise :class:`ConfigurationError` for dynamics that move cells wrongly or not at all."""
    for _, part in parts_of(dynamics):
        _require_pressure(part)
        if type(part).__name__ == "FIREVariableCell":
            raise ConfigurationError(
                "dynamics",
                expected="some that move what they say",
                got="FIREVariableCell, which in nvalchemi 0.2 leaves the cell as it is",
                fix="use FIRE2VariableCell, with a convergence hook for forces and stress",
            )
        needs = _deforms(part) or type(part).__name__ == "NPT"
        if needs and not any(isinstance(hook, CellHook) for hook in dynamics.hooks):
            raise ConfigurationError(
                f"hooks of {type(part).__name__}",
                expected="a CellHook, without which nvalchemi 0.2 moves the cell wrongly",
                got=f"none, with pressure_coupling {part.pressure_coupling!r}",
                fix="call register_hook(CellHook()) of alchemi_bridge.engines.nvalchemi",
            )


def _require_pressure(dynamics: Any) -> None:
    coupling = getattr(dynamics, "pressure_coupling", None)
    shapes = {"isotropic": "(n,) or a number", "anisotropic": "(n, 3)", "triclinic": "(n, 3, 3)"}
    if coupling not in shapes:
        return
    given = torch.as_tensor(dynamics._pressure_init)
    if max(given.dim(), 1) != 1 + list(shapes).index(coupling):
        raise ConfigurationError(
            f"pressure of {type(dynamics).__name__}",
            expected=f"shape {shapes[coupling]} with pressure_coupling {coupling!r}, n being 1 or "
            "the number of systems",
            got=f"shape {tuple(given.shape)}, which nvalchemi 0.2 takes for another coupling",
            fix="give a tensor of that shape, such as pressure * torch.eye(3)[None]",
        )


def _count_freedoms() -> None:
    """Have nvalchemi's thermostat see an energy of the cell that fits the freedoms it counts."""
    import nvalchemi.dynamics.integrators.npt as module

    known = module._cell_kinetic_energy
    counted = [module._cell_dof_count(coupling) for coupling in COUNTED]
    if counted != [3, 3, 9] or getattr(known, "counts_freedoms", False):
        return

    def energy(rates: Any, masses: Any, coupling: str, *args: Any) -> Any:
        return COUNTED[coupling] * known(rates, masses, coupling, *args)

    energy.counts_freedoms = True  # type: ignore[attr-defined]
    module._cell_kinetic_energy = energy


def _deforms(dynamics: Any) -> bool:
    return getattr(dynamics, "pressure_coupling", "isotropic") != "isotropic"
