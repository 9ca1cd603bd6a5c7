"""Tasks on Ray: on all cores of this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alchemi_bridge.ensembles.executors.base import Executor, Reference
from alchemi_bridge.ensembles.executors.in_process import torch_threads
from alchemi_bridge.ensembles.executors.ray_placement import check_place
from alchemi_bridge.ensembles.executors.ray_resources import RAY, check_options, ray_options
from alchemi_bridge.ensembles.executors.ray_session import Session, open_session
from alchemi_bridge.ensembles.hints import SchedulerHints
from alchemi_bridge.errors import (
    BridgeError,
    ConfigurationError,
    WorkerDiedError,
    first_line,
    last_line,
)

#: Tasks in flight for each core, so that none waits for the driver. Not more: Ray runs tasks in the
#: order in which they came, so that what simulators made waits for those that are in flight.
_TASKS_PER_CORE = 2

#: ... and beside these.
_TASKS_AHEAD = 4

#: Workers of a local Ray that are made ready before there is work.
_WARMED = 64


class RayExecutor(Executor):
    """Runs tasks on Ray, with the resources that they ask for.

    Results stay in Ray's object store until a task or this process reads them. (Results of up to
    100 kB lie in the memory of this process, unread: Ray's way with small ones.) Arrays of NumPy
    come to a task without a copy, and can not be written to there.

    A task whose process dies is run again, at most ``max_retries`` times (Ray's own default is 3);
    one that raises is not. One that Ray itself ended because the machine was out of memory is run
    again without limit, unless ``max_retries`` is 0 or the variable ``RAY_task_oom_retries`` of the
    environment in which Ray was started says otherwise.

    Parameters
    ----------
    address
        ``None``: the session that this process is in, else the cluster that ``RAY_ADDRESS`` names,
        else a local Ray that is started for the first task. ``"local"``: always a local Ray.
        ``"auto"``: one that runs on this machine. ``"host:port"``: a cluster, of which this machine
        has to be a node. ``"ray://host:port"``: a cluster elsewhere; needs ``ray[client]``.
    init_options
        Arguments of ``ray.init``; they overrule what is chosen here (no output of the workers, no
        dashboard).
    runtime_env
        Ray's description of the workers' environment: ``{"env_vars": {...}}``, or
        ``{"py_modules": [...]}`` for a cluster whose nodes lack packages.
    elastic
        The cluster may grow: nothing is refused because today's nodes lack it.
    timeout
        Seconds that a cluster has to answer.

    Notes
    -----
    :meth:`close` ends the session if it was begun here: a local Ray stops then, a cluster goes on
    without this process. A Ray that was there before is never stopped. Where this process is
    killed (SIGKILL), a local Ray ends by itself; some of its agents take about a minute for it.

    A cluster may want a token (``ray start`` asks for one as soon as there is a file
    ``~/.ray/auth_token``, which a local Ray makes). ``"auto"`` shows it, as ``ray.init`` does; a
    cluster named by ``host:port`` gets it if it asks for one. ``RAY_AUTH_MODE`` says otherwise.

    From :meth:`start` to :meth:`close` the variable ``RAY_IGNORE_UNHANDLED_ERRORS`` is set, in a
    session of your own, too: a failed task has several results, and one of them is read.
    """

    name = RAY

    def __init__(
        self,
        address: str | None = None,
        *,
        init_options: Mapping[str, Any] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        elastic: bool = False,
        timeout: float = 30.0,
    ) -> None:
        if address is not None and not address.strip():
            raise ConfigurationError(
                "Ray address",
                expected="auto, local, HOST:PORT or ray://HOST:PORT",
                got=f"'{address}'",
                fix="name one, or leave the address out",
            )
        self._address = address
        self._init_options = dict(init_options or {})
        self._runtime_env = dict(runtime_env or {})
        if self._runtime_env and "runtime_env" in self._init_options:
            raise ConfigurationError(
                "runtime_env of Ray",
                expected="one",
                got="another among init_options",
                fix="leave one of them out",
            )
        self._elastic = elastic
        self._timeout = timeout
        self._session: Session | None = None
        self._task: Any = None
        self._canceller: Any = None
        self._width = _TASKS_AHEAD

    # --- session --------------------------------------------------------------------------------

    def start(self) -> None:
        """Join or start a Ray session, if this was not done yet.

        Raises
        ------
        ConfigurationError
            If Ray is not installed, does not answer, or does not take the options.
        """
        if self._session is not None:
            return
        self._session = open_session(
            self._address, self._init_options, self._runtime_env, self._timeout
        )
        ray = self._session.ray
        self._task = ray.remote(run_task)
        self._canceller = ray.remote(_canceller()).options(name="cancel", num_cpus=0)
        # Ray hands a function to the cluster when it is first used, and would wait a minute for a
        # cluster that has gone
        self._canceller.remote([])
        cores = ray.cluster_resources().get("CPU", 0.0)
        self._width = _TASKS_AHEAD + int(_TASKS_PER_CORE * cores)
        if self._session.local:
            # its workers are new: let them import while this process prepares its work
            for _ in range(min(int(cores), _WARMED)):
                self._task.options(name="import").remote(ready, 1)

    def close(self) -> None:
        """End the session if it was begun here."""
        session, self._session = self._session, None
        self._task = self._canceller = None
        if session is not None:
            session.close()

    @property
    def width(self) -> int:
        """Some more tasks than cores; allow more where tasks ask for a small part of a core."""
        return self._width

    @property
    def _ray(self) -> Any:
        self.start()
        assert self._session is not None  # start() set it
        return self._session.ray

    def _options(self, hints: SchedulerHints) -> dict[str, Any]:
        options = ray_options(hints)
        if self._runtime_env and self._session is not None and not self._session.ours:
            # the session has an environment already, so that each task brings its own
            options.setdefault("runtime_env", self._runtime_env)
        return options

    # --- resources ------------------------------------------------------------------------------

    def check(self, hints: SchedulerHints, what: str) -> None:
        """Raise unless some node has all that is asked for: Ray would wait for ever.

        Raises
        ------
        ConfigurationError
            If no node has it, or an option in ``custom["ray"]`` is none of a Ray task. What can be
            found out before is listed at :func:`~.ray_placement.check_place`.
        """
        ray = self._ray
        options = self._options(hints)
        check_options(options, what)
        try:
            self._task.options(**options)
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"hints of {what}",
                expected="options of a Ray task",
                got=first_line(error),
                fix='look at custom["ray"]',
            ) from error
        if not self._elastic:
            check_place(ray, options, what)

    # --- tasks ----------------------------------------------------------------------------------

    def put(self, value: Any) -> Reference:
        """Keep a value in the object store."""
        return self._ray.put(value)

    def submit(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        *,
        name: str,
        hints: SchedulerHints,
        returns: int = 1,
    ) -> list[Reference]:
        """Start a task."""
        self.start()
        options = self._options(hints)
        task = self._task.options(name=name, num_returns=returns, **options)
        references = task.remote(function, options["num_cpus"], *arguments)
        return [references] if returns == 1 else references

    def wait(self, references: Sequence[Reference]) -> list[Reference]:
        """Those that are finished, at least one."""
        wait, asked = self._ray.wait, list(references)
        if not asked:
            return []
        # what is ready stays where it is: fetch_local would bring it here
        ready, others = wait(asked, num_returns=1, fetch_local=False)
        if others:
            ready += wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0]
        finished = set(ready)
        return [reference for reference in asked if reference in finished]

    def result(self, reference: Reference) -> Any:
        """Fetch a value."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            cause: BaseException = error
            while isinstance(cause, errors.RayTaskError) and cause.cause is not cause:
                cause = cause.cause
            if isinstance(cause, errors.RaySystemError):
                raise ConfigurationError(
                    "function or arguments of a Ray task",
                    expected="what the workers can load",
                    got=last_line(cause),
                    fix="put its module where workers find it: install it on all nodes, or name it "
                    "in PYTHONPATH or runtime_env",
                ) from error
            raise cause from error
        except (errors.RuntimeEnvSetupError, errors.TaskUnschedulableError) as error:
            raise ConfigurationError(
                "Ray task", expected="one that Ray can start", got=first_line(error), fix=_LOOK
            ) from error
        except (
            errors.WorkerCrashedError,
            errors.OutOfMemoryError,
            errors.NodeDiedError,
            errors.ObjectLostError,
        ) as error:
            raise WorkerDiedError(
                "process of a Ray task",
                expected="one that lives until its task is done",
                got=f"{type(error).__name__}: {first_line(error)}",
                fix="look for what ended it (memory?); max_retries says how often it may",
            ) from error

    def cancel(self, references: Sequence[Reference]) -> None:
        """Have tasks given up; the processes of those that are running end.

        A process that was interrupted somewhere would be in a state that nobody knows. This happens
        soon, not at once: until then, tasks that were waiting may start.
        """
        if self._session is None or not self._session.ray.is_initialized():
            return
        if references:
            # not here: ray.cancel() in the midst of the arrival of a task's results kills this
            # process ("Tried to complete task that was not pending", Ray 2.60; the like was mended
            # in https://github.com/ray-project/ray/pull/54798). What another process asks for is
            # done by the thread that takes in results.
            self._canceller.remote(list(dict.fromkeys(references)))


def _canceller() -> Callable[[Sequence[Reference]], None]:
    """What a worker runs to cancel tasks.

    Made by a function so that it is sent as code: a worker that is new need not import torch.
    """

    def cancel(references: Sequence[Reference]) -> None:
        import ray

        left = list(references)
        # held until they have ended: a request about a task that nobody holds is lost, and so is
        # one that overtakes its task on the way to a worker
        for _ in range(60):
            for reference in left:
                ray.cancel(reference, force=True)
            left = ray.wait(left, num_returns=len(left), timeout=1.0, fetch_local=False)[1]
            if not left:
                break

    return cancel


_LOOK = "look at runtime_env and at Ray's logs"


def ready() -> None:
    """Nothing: what takes the time is to import this module, and torch with it."""


def run_task(function: Callable[..., Any], num_cpus: float, *arguments: Any) -> Any:
    """What a worker runs: a function, with as many threads of torch as it has cores."""
    with torch_threads(num_cpus):
        try:
            return function(*arguments)
        except BridgeError:
            raise
        except Exception as error:
            raise _portable(error) from error


def _portable(error: Exception) -> Exception:
    """The error, or what it says where it would not arrive."""
    from ray import cloudpickle

    try:
        arrived = cloudpickle.loads(cloudpickle.dumps(error))
    except Exception as problem:  # any error may come out of foreign pickling
        problem_line = first_line(problem)
    else:
        if isinstance(arrived, type(error)):
            return error
        problem_line = f"it arrives as {type(arrived).__name__}"
    kind = type(error)
    return RuntimeError(
        f"{kind.__module__}.{kind.__qualname__}: {error} (not pickled: {problem_line})"
    )
