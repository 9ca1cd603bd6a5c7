# ruff: noqa: SIM102, UP045  (TorchScript)
"""The trial inputs with which ``grompp`` finds out whether a model can be called.

They are no structures. 2025: one hydrogen at the origin. 2026.0 to 2026.3: two atoms at the origin.
main of August 2026: the whole group on a line, 0.01, 0.02, 0.03 nm times 1, 2, 3, ..., all pairs
listed. The box is a cube of 1 nm each time, the elements are hydrogen (2025) or
``nnpot-link-type``. Some thousand atoms on that line would fill the cube with all pairs within
every cutoff: of them only the first few are evaluated.
"""

from typing import Optional

import torch


def trial_atoms(positions: torch.Tensor, box: Optional[torch.Tensor]) -> int:
    """How many atoms of a trial input to evaluate; -1 for what is none.

    Parameters
    ----------
    positions
        (N, 3), nm.
    box
        (3, 3), nm, None if GROMACS does not hand it over.
    """
    n_atoms = positions.shape[0]
    if box is not None:
        if not torch.equal(box, torch.eye(3, dtype=box.dtype, device=box.device)):
            return -1
    if n_atoms <= 2 and not bool((positions != 0).any()):
        return n_atoms
    rows = torch.arange(1, n_atoms + 1, dtype=torch.float64, device=positions.device)
    axes = torch.arange(1, 4, dtype=torch.float64, device=positions.device)
    line = 0.01 * rows.unsqueeze(1) * axes
    if torch.allclose(positions.to(torch.float64), line, rtol=1e-5, atol=0.0):
        return min(n_atoms, 8)
    return -1
