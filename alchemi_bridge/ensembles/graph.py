"""Who makes what, and who reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from alchemi_bridge.ensembles.work import Objective, Simulator
from alchemi_bridge.errors import ConfigurationError

#: How many names a message lists.
_LISTED = 5


class WorkGraph:
    """Simulators and objectives by name, and the observables between them.

    Attributes
    ----------
    simulators, objectives
        By name, in the order given.
    needs
        Observables of each objective, without repetitions.
    makers
        Name of the simulator that makes an observable.
    readers
        Number of objectives that need an observable; those without a reader are not named.

    Raises
    ------
    ConfigurationError
        If a name is there twice, an observable is made by none or by several simulators, or nobody
        needs what a simulator makes.
    """

    def __init__(self, simulators: Iterable[Simulator], objectives: Iterable[Objective]) -> None:
        made_by, asked_by = list(simulators), list(objectives)
        _check_names([*(s.name for s in made_by), *(o.name for o in asked_by)])
        self.simulators = {simulator.name: simulator for simulator in made_by}
        self.objectives = {objective.name: objective for objective in asked_by}
        if not self.objectives:
            raise ConfigurationError(
                "objectives", expected="at least one", got="none", fix="say what is to be computed"
            )
        self.needs = {o.name: tuple(dict.fromkeys(o.needs)) for o in asked_by}
        self.makers = _makers(made_by)
        self.readers = Counter(need for needs in self.needs.values() for need in needs)
        self._check_needs()
        self._check_use()
        self._sources = {
            name: tuple(dict.fromkeys(self.makers[need] for need in needs))
            for name, needs in self.needs.items()
        }

    def sources(self, objective: str) -> tuple[str, ...]:
        """Names of the simulators that an objective hangs on."""
        return self._sources[objective]

    def _check_needs(self) -> None:
        unknown = {need: None for need in self.readers if need not in self.makers}
        if not unknown:
            return
        need = next(iter(unknown))
        asking = next(name for name, needs in self.needs.items() if need in needs)
        near = get_close_matches(need, self.makers, n=_LISTED, cutoff=0.4)
        raise ConfigurationError(
            f"observable '{need}' of objective '{asking}'",
            expected="one that a simulator makes"
            + (f", like {_some(near)}" if near else f": {_some(self.makers)}"),
            got=_some(unknown) if len(unknown) > 1 else "no simulator that makes it",
            fix="use the simulator's observable() for the name",
        )

    def _check_use(self) -> None:
        used = {self.makers[need] for need in self.readers}
        idle = [name for name in self.simulators if name not in used]
        if idle:
            raise ConfigurationError(
                "simulators",
                expected="ones whose observables some objective needs",
                got=f"nobody who needs those of {_some(idle)}",
                fix="leave them out, or name their observables in an objective's needs",
            )


def _check_names(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    wrong = [repr(name) for name in names if not isinstance(name, str) or not name]
    if twice or wrong:
        raise ConfigurationError(
            "names of simulators and objectives",
            expected="names that differ, over both kinds together",
            got=f"{_some(twice)} more than once" if twice else _some(wrong),
            fix="give each its own name",
        )


def _makers(simulators: Sequence[Simulator]) -> dict[str, str]:
    makers: dict[str, str] = {}
    for simulator in simulators:
        for observable in simulator.observables:
            if observable in makers:
                raise ConfigurationError(
                    f"observable '{observable}'",
                    expected="one simulator that makes it",
                    got=f"'{makers[observable]}' and '{simulator.name}'",
                    fix="give outputs and simulators names of their own",
                )
            makers[observable] = simulator.name
    return makers


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")
