"""Freeze, or compress, a checkpoint as if DeePMD-kit's C++ operators were there.

``python declare_operators.py freeze CHECKPOINT OUTPUT.pth``, or
``python declare_operators.py compress FROZEN OUTPUT.pth INPUT.json``, in an environment with
deepmd-kit whose C++ library is not loaded. The operators are declared without an implementation, so
that torch scripts calls of them into the file, as it does where the library is there.
"""

from __future__ import annotations

import sys

import torch

_LIBRARY = torch.library.Library("deepmd", "DEF")
for _schema in (
    "tabulate_fusion_se_a(Tensor table, Tensor info, Tensor x, Tensor rows, int width) -> Tensor[]",
    "tabulate_fusion_se_atten(Tensor table, Tensor info, Tensor x, Tensor rows, Tensor embedded, "
    "int width, bool is_sorted) -> Tensor[]",
    "border_op(Tensor lists, Tensor to, Tensor origin, Tensor n_sent, Tensor n_received, "
    "Tensor values, Tensor communicator, Tensor n_local, Tensor n_ghosts) -> Tensor[]",
):
    _LIBRARY.define(_schema)

from deepmd.main import main  # noqa: E402  (it looks for the operators when it is imported)
from deepmd.pt.entrypoints import compress  # noqa: E402

compress.ENABLE_CUSTOMIZED_OP = True  # the tables are made without running the operators

if __name__ == "__main__":
    what, source, output, *training_input = sys.argv[1:]
    if what == "freeze":
        main(["--pt", "freeze", "-c", source, "-o", output])
    else:
        main(["--pt", "compress", "-i", source, "-o", output, "-t", *training_input])
