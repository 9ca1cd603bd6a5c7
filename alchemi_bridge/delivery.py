"""Results on their way into the engine's memory: converted, checked, and added or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from alchemi_bridge.errors import NonFiniteResultError
from alchemi_bridge.model import Evaluation
from alchemi_bridge.neighbors import add_rows

RESULTS = ("energy", "forces", "virial", "energies", "virials", "uncertainty")

#: Those with a row for each atom, except forces, which have a kernel.
ROWS = ("energies", "virials")


class Delivery:
    """Adds the results of each step to the engine's buffers.

    On a host a result that is not finite raises at once. On a GPU the host does not wait for
    results: there nothing is added if one of them is not finite, and the error is raised by
    :meth:`settle`, when the next step has read from the device anyway, or when somebody waits for
    the step's event: to whoever comes first.

    Parameters
    ----------
    energy
        Factor from the model's energy unit to the engine's.
    length
        Factor from the engine's length unit to the model's.
    """

    def __init__(self, energy: float, length: float) -> None:
        # dE/dx in the engine's units: energy factor over length factor
        self._factors = {
            "energy": energy,
            "forces": energy * length,
            "virial": energy,
            "energies": energy,
            "virials": energy,
        }
        self._open: OpenResults | None = None

    def add(
        self,
        found: Evaluation,
        views: Mapping[str, torch.Tensor],
        subset: torch.Tensor | None,
        agree: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Callable[[], None] | None:
        """Add what is wanted.

        Parameters
        ----------
        found
            Results in the model's units.
        views
            The engine's buffers by name, see :class:`~alchemi_bridge.contract.ForceBuffers`.
        subset
            (n_subset,) int64 rows of the engine that the results of atoms belong to.
        agree
            Makes a context for the checks that come before anything is added: with several ranks,
            what one raises all raise.

        Returns
        -------
        Callable or None
            On a GPU, what waits for the results and raises if one of them is not finite.

        Raises
        ------
        NonFiniteResultError
            On a host, if a result is not finite, also where only its conversion to float32 is
            not. Nothing was added then.
        """
        values = {
            name: value[0] if name == "virial" else value
            for name in views
            if (value := getattr(found, name)) is not None
        }
        with agree():
            values = self._checked(finite_sums(found), values, views)
        for name, value in values.items():
            view, factor = views[name], self._factors[name]
            if name == "forces":
                add_rows(value, subset, factor, view)
                continue
            rows = (value.double() * factor).to(view.dtype)
            if subset is None or name not in ROWS:
                view.add_(rows)
            else:
                view.index_add_(0, subset, rows)
        return None if self._open is None else partial(self._settle, self._open)

    def _checked(
        self,
        sums: dict[str, torch.Tensor],
        values: dict[str, torch.Tensor],
        views: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The values if they are finite, also in the precision of the buffers."""
        for name, value in values.items():
            factor = self._factors[name]
            may_overflow = value.dtype == torch.float64 or abs(factor) > 1.0
            if views[name].dtype == torch.float32 and may_overflow:
                # finite results may be beyond the range of a float32 buffer
                narrow = (value.double() * factor).to(torch.float32)
                sums[f"{name} of a buffer of float32"] = narrow.sum(dtype=torch.float64)
        if not sums:
            return values
        totals = torch.stack(list(sums.values()))
        if totals.device.type == "cuda":
            fine = torch.isfinite(totals).all()
            self._open = OpenResults(list(sums), totals)
            return {name: torch.where(fine, v, 0.0) for name, v in values.items()}
        require_finite_sums(list(sums), totals.tolist())
        return values

    def settle(self) -> None:
        """Raise :class:`NonFiniteResultError` if the last step had results that are not finite."""
        if self._open is not None:
            self._settle(self._open)

    def _settle(self, results: OpenResults) -> None:
        """Those of one step; whoever asks next is not told of them again."""
        if self._open is results:
            self._open = None
        results.settle()


class OpenResults:
    """Results of one step that nobody has looked at yet.

    Parameters
    ----------
    names
        Of the results.
    totals
        (n,) float64 on the device, finite if the results are.
    """

    def __init__(self, names: list[str], totals: torch.Tensor) -> None:
        self._names = names
        self._host = torch.empty(len(names), dtype=torch.float64, device="cpu", pin_memory=True)
        self._host.copy_(totals, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(totals.device))

    def settle(self) -> None:
        """Wait for them, and raise :class:`NonFiniteResultError` if one is not finite."""
        self._arrived.synchronize()  # done long since, unless somebody asks right after the step
        require_finite_sums(self._names, self._host.tolist())


def finite_sums(found: Evaluation) -> dict[str, torch.Tensor]:
    """A float64 number on the device for each result: it is finite only if all of the result is."""
    values = {name: getattr(found, name) for name in RESULTS}
    return {n: v.sum(dtype=torch.float64) for n, v in values.items() if v is not None}


def require_finite_results(found: Evaluation) -> None:
    """Raise :class:`NonFiniteResultError` if a result holds NaN or infinite values."""
    sums = finite_sums(found)
    if sums:
        require_finite_sums(list(sums), torch.stack(list(sums.values())).tolist())


def require_finite_sums(names: list[str], totals: list[float]) -> None:
    """The same for sums that were read already."""
    bad = [name for name, total in zip(names, totals, strict=True) if not abs(total) < float("inf")]
    if not bad:
        return
    of_model = [name for name in bad if name in RESULTS]
    raise NonFiniteResultError(
        f"{' and '.join(of_model)} of the model" if of_model else " and ".join(bad),
        expected="finite values",
        got="NaN or infinite values",
        fix="check the structure (atoms too close or in an environment that the model never saw)",
    )
