# ruff: noqa: UP045  (TorchScript compares against typing's classes)
"""Atomic energies from DeePMD-kit's own scripted code, from pair vectors.

DeePMD-kit's lower interface takes local atoms, copies of atoms around them (ghosts), and for each
local atom a list of ghosts; its models look at nothing but vectors from an atom to those in its
list. So every pair gets a ghost of its own, and all local atoms lie in the origin: the vectors that
the model forms are the pair vectors, bit by bit, and gradients arrive at them alone.
"""

from typing import TYPE_CHECKING, Any, Optional

import torch

from alchemi_bridge.errors import ModelLoadError, first_line
from alchemi_bridge.potentials.deepmd.environment import nothing, ranks, restrict
from alchemi_bridge.potentials.deepmd.frozen import FrozenFile


class FrozenEnergies(torch.nn.Module):
    """Atomic energies of a frozen model, with the signature of :class:`SeE2A`.

    Every pair has to be there in both directions.

    Parameters
    ----------
    deepmd
        DeePMD-kit's scripted model.
    rcut
        Its cutoff, Å.
    passes_messages
        Whether the energies of some atoms need the others, too.
    """

    if TYPE_CHECKING:
        deepmd: Any

    def __init__(self, deepmd: torch.nn.Module, rcut: float, passes_messages: bool) -> None:
        super().__init__()
        self.deepmd = deepmd
        self.rcut = rcut
        self.passes_messages = passes_messages

    def forward(
        self,
        vectors: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        types: torch.Tensor,
        centers: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """Energies of atoms; see :meth:`SeE2A.forward`."""
        local_types, row = types, first
        if centers is not None and not self.passes_messages:
            vectors, row, second = restrict(vectors, first, second, types.shape[0], centers)
            local_types = types.index_select(0, centers)
        n_local = local_types.shape[0]
        if n_local == 0:
            return torch.zeros(0, dtype=torch.float64, device=vectors.device) + nothing(vectors)

        order, rank, counts = ranks(row, n_local)
        width = max(int(counts.max()), 1)
        ghosts = torch.full((n_local * width,), -1, dtype=torch.int64, device=types.device)
        ghosts[row.index_select(0, order) * width + rank] = n_local + order
        origin = torch.zeros((n_local, 3), dtype=vectors.dtype, device=vectors.device)
        coordinates = torch.cat([origin, vectors]).unsqueeze(0)
        extended = torch.cat([local_types, types.index_select(0, second)]).unsqueeze(0)
        # of what atom is this a copy; models without messages do not ask
        local = torch.arange(n_local, dtype=torch.int64, device=types.device)
        owners = second if n_local == types.shape[0] else torch.zeros_like(second)
        mapping = torch.cat([local, owners]).unsqueeze(0)
        lists = ghosts.reshape(1, n_local, width)
        # by distance: lists that are not sorted are cut off where they end, and not at the nearest,
        # by models with a number of neighbours for each type
        lists = self.deepmd.format_nlist(coordinates, extended, lists, True)
        found = self.deepmd.atomic_model.forward_common_atomic(
            coordinates, extended, lists, mapping
        )
        energies = found["energy"].reshape(-1)
        if centers is not None and self.passes_messages:
            energies = energies.index_select(0, centers)
        return energies


def frozen_energies(file: FrozenFile, label: str) -> torch.jit.RecursiveScriptModule:
    """Script the adapter around a frozen model.

    Raises
    ------
    ModelLoadError
        If the model's methods are not those of the versions that are known.
    """
    module = FrozenEnergies(file.module, file.rcut, bool(file.module.has_message_passing()))
    try:
        return torch.jit.script(module.eval())
    except Exception as error:  # whatever is wrong with the methods
        raise ModelLoadError(
            label,
            expected="the methods 'format_nlist' and 'forward_common_atomic' of DeePMD-kit 3",
            got=first_line(error),
            fix="freeze it again with DeePMD-kit 3.2",
        ) from error
