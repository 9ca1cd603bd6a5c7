"""What a unit of work needs of the machines that it may run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from alchemi_bridge.ensembles.kinds import is_number, is_whole
from alchemi_bridge.errors import ConfigurationError

#: Names of the bridge's executors.
EXECUTORS = ("ray", "in-process")


@dataclass(frozen=True)
class SchedulerHints:
    """Resources of a simulator or an objective; ``None``: what the optimizer's default says.

    Attributes
    ----------
    num_cpus
        Cores, also a part of one. It is the number of torch's threads in the task, too (at least
        one).
    num_gpus
        GPUs, also a part of one.
    mem_mb
        Memory that is set aside, MB (10^6 bytes).
    max_retries
        How often a task whose worker died is run again. Errors of Python are never tried again.
    custom
        Options of one executor by its name: ``{"ray": {"scheduling_strategy": "SPREAD"}}``. They
        overrule what follows from the above.

    Raises
    ------
    ConfigurationError
        If a number is negative or not finite, or of the wrong kind; or ``custom`` is no options by
        executor, or names one of the bridge's executors with another spelling.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    mem_mb: float | None = None
    max_retries: int | None = None
    custom: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_cpus", "num_gpus", "mem_mb", "max_retries"):
            value = getattr(self, name)
            if value is None:
                continue
            whole = name == "max_retries"
            fits = is_whole(value) if whole else is_number(value)
            if not fits or value < 0:
                raise ConfigurationError(
                    f"hint '{name}'",
                    expected="a number that is not negative"
                    if not whole
                    else "a whole number that is not negative",
                    got=repr(value),
                    fix="leave it out, or name what a task needs",
                )

        self._check_custom()

    def _check_custom(self) -> None:
        given = self.custom.items() if isinstance(self.custom, Mapping) else [(None, self.custom)]
        if not all(isinstance(name, str) and _are_options(options) for name, options in given):
            raise ConfigurationError(
                "hint 'custom'",
                expected="options by the name of an executor",
                got=repr(self.custom),
                fix='write it as {"ray": {"resources": {"licence": 1}}}',
            )
        for name in self.custom:
            near = get_close_matches(name.lower(), EXECUTORS, n=1)
            if near and name != near[0]:
                raise ConfigurationError(
                    "hint 'custom'",
                    expected=f"an executor: {', '.join(EXECUTORS)}, or one of your own",
                    got=f"'{name}'",
                    fix=f"did you mean '{near[0]}'?",
                )

    def over(self, default: SchedulerHints) -> SchedulerHints:
        """These hints, and those of ``default`` where these say nothing.

        Options in ``custom`` are merged by executor and name.
        """
        chosen = {
            f.name: getattr(default if getattr(self, f.name) is None else self, f.name)
            for f in fields(self)
            if f.name != "custom"
        }
        custom = {
            name: {**default.custom.get(name, {}), **self.custom.get(name, {})}
            for name in {**default.custom, **self.custom}
        }
        return SchedulerHints(**chosen, custom=custom)


def _are_options(options: Any) -> bool:
    return isinstance(options, Mapping) and all(isinstance(name, str) for name in options)
