"""Ray sessions: one that is there already, a running cluster, or a local one started here."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from alchemi_bridge.errors import ConfigurationError, last_line

_LOG = logging.getLogger(__name__)

_INSTALL = 'pip install "alchemi-bridge[ray]"'

#: What ``ray.init`` gets unless ``init_options`` say otherwise. Workers' output would tear a
#: progress bar apart, and the dashboard needs ``ray[default]``.
_QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
_LOCAL: Mapping[str, Any] = {"include_dashboard": False}

# All results of a task that failed hold its error, and only one of them is ever read; Ray looks at
# the variable whenever it lets go of another.
_IGNORE = "RAY_IGNORE_UNHANDLED_ERRORS"

_AUTH_MODE = "RAY_AUTH_MODE"

# Asked to join a cluster that does not answer, ray.init tries for minutes and then ends the process
# (Ray 2.60), so that another process tries first.
_TRIAL = """
import json, os, sys
import ray
options = json.loads(sys.argv[1])
ray.init(log_to_driver=False, **options)
if not options["address"].startswith("ray://"):
    options["address"] = ray.get_runtime_context().gcs_address
print("connected", options["address"], os.environ.get("RAY_AUTH_MODE", "").lower() == "token")
"""

#: Seconds for which a trial asks again while the cluster does not take it (Ray itself: 20).
_ASKING = "3"

#: What Ray says where a cluster wants a token, and where it wants another one.
_REFUSED = ("InvalidAuthToken: ", "AuthenticationError: ")


@dataclass(frozen=True)
class Session:
    """A Ray session that can be used.

    Attributes
    ----------
    ray
        The module.
    ours
        Whether it was begun here; else it is not ended here.
    quietened
        Whether Ray was told here not to report errors that nobody reads.
    local
        Whether it is a Ray that was started here.
    """

    ray: ModuleType
    ours: bool
    quietened: bool = False
    local: bool = False

    def close(self) -> None:
        """End it if it was begun here: a local Ray stops, from a cluster this process parts."""
        if self.quietened:
            os.environ.pop(_IGNORE, None)
        if self.ours and self.ray.is_initialized():
            self.ray.shutdown()


@dataclass(frozen=True)
class Cluster:
    """A cluster that answered.

    Attributes
    ----------
    address
        ``host:port``, or ``ray://...`` as it was.
    token
        Whether it is joined with Ray's token.
    """

    address: str
    token: bool


def import_ray() -> ModuleType:
    """Ray itself.

    Raises
    ------
    ConfigurationError
        If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(
            "Ray", expected="the package ray", got=last_line(error), fix=_INSTALL
        ) from error
    return ray


def open_session(
    address: str | None,
    init_options: Mapping[str, Any],
    runtime_env: Mapping[str, Any] | None,
    timeout: float,
) -> Session:
    """Use the session of this process, join a cluster, or start a local Ray.

    Parameters
    ----------
    address, init_options, runtime_env
        See :class:`RayExecutor`.
    timeout
        Seconds that a cluster has to answer.

    Raises
    ------
    ConfigurationError
        If Ray is not installed, no cluster answers, or options do not fit.
    """
    ray = import_ray()
    if ray.is_initialized():
        _check_session(ray, address, init_options)
        return Session(ray, ours=False, quietened=_quieten())
    # an address in the environment is Ray's own way of naming a cluster
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {**_QUIET}
    if address == "local":
        options.update(_LOCAL)
    else:
        cluster = find_cluster(address, timeout)
        address = cluster.address
        if cluster.token:
            use_token(address)
    options.update(init_options)
    if runtime_env:
        options["runtime_env"] = dict(runtime_env)
    quietened = _quieten()
    try:
        context = ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            "ray.init",
            expected=f"a session with {', '.join(sorted(options))} at address '{address}'",
            got=last_line(error),
            fix="look at init_options, runtime_env and the address",
        ) from error
    url = getattr(context, "dashboard_url", None)
    if url:
        _LOG.info("Ray's dashboard: http://%s", url)
    return Session(ray, ours=True, quietened=quietened, local=address == "local")


def _quieten() -> bool:
    if _IGNORE in os.environ:
        return False
    os.environ[_IGNORE] = "1"
    return True


def use_token(address: str) -> None:
    """Let this process show Ray's token, as ``ray.init("auto")`` does.

    Setting the variable alone comes too late, since Ray read it when it was imported.

    Raises
    ------
    ConfigurationError
        If this Ray can not be told any more.
    """
    if os.environ.get(_AUTH_MODE, "").lower() == "token":
        return
    try:
        from ray._private.authentication import authentication_token_setup

        authentication_token_setup._enable_token_auth()
    except (ImportError, AttributeError) as error:
        raise _unreachable(address, f"{_REFUSED[0]}{last_line(error)}") from error


def find_cluster(address: str, timeout: float) -> Cluster:
    """Where the cluster is, once it answered.

    A cluster that wants a token is asked again with Ray's own (``RAY_AUTH_TOKEN``, or the file
    ``~/.ray/auth_token``), unless ``RAY_AUTH_MODE`` says whether to use one.

    Raises
    ------
    ConfigurationError
        If it does not.
    """
    _knock(address, timeout)
    try:
        return _try(address, timeout, {})
    except ConfigurationError as error:
        if error.got.startswith(_REFUSED) and _AUTH_MODE not in os.environ:
            return _try(address, timeout, {_AUTH_MODE: "token"})
        raise


def _try(address: str, timeout: float, environment: Mapping[str, str]) -> Cluster:
    """Let another process join, with something more in its environment."""
    command = [sys.executable, "-c", _TRIAL, json.dumps({"address": address})]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={"RAY_NUM_REDIS_GET_RETRIES": _ASKING, **os.environ, **environment},
        )
    except subprocess.TimeoutExpired as error:
        raise _unreachable(address, f"no answer within {timeout:g} s") from error
    found = [line.split() for line in done.stdout.splitlines() if line.startswith("connected ")]
    if done.returncode == 0 and found:
        return Cluster(found[-1][1], token=found[-1][2] == "True")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    refused = [line[line.index(word) :] for line in lines for word in _REFUSED if word in line]
    if refused:
        raise _unreachable(address, refused[0].partition(" Ensure that ")[0])
    raise _unreachable(address, lines[-1] if lines else f"exit status {done.returncode}")


def _knock(address: str, timeout: float) -> None:
    """Is anybody there at all? Takes no time where the answer is no."""
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _unreachable(address, last_line(error)) from error
    if not host or port is None:
        raise _unreachable(address, "an address without host or port")
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError as error:
        raise _unreachable(address, last_line(error)) from error


def _unreachable(address: str, got: str) -> ConfigurationError:
    fix = "start one with 'ray start --head', or name its host:port"
    if "ray[client]" in got:
        fix = "pip install 'ray[client]', or name the port of the cluster itself, without ray://"
    elif got.startswith(_REFUSED):
        fix = (
            f"set {_AUTH_MODE}=token, and give its token in RAY_AUTH_TOKEN or in the file "
            "~/.ray/auth_token"
        )
    return ConfigurationError(
        f"Ray cluster at '{address}'", expected="one that answers", got=got, fix=fix
    )


def _check_session(ray: ModuleType, address: str | None, init_options: Mapping[str, Any]) -> None:
    if init_options:
        raise ConfigurationError(
            "init_options of Ray",
            expected="none, since this process is in a session already",
            got=", ".join(sorted(init_options)),
            fix="give them to your own ray.init, or leave that to the executor",
        )
    if address is None or address == "auto" or "://" in address:
        return
    there = ray.get_runtime_context().gcs_address
    if address == "local" or not _same(address, there):
        raise ConfigurationError(
            "Ray address",
            expected=f"'{there}', where this process is connected already",
            got=f"'{address}'",
            fix="leave the address out, or call ray.shutdown() before",
        )


def _same(one: str, other: str) -> bool:
    try:
        return _resolved(one) == _resolved(other)
    except (OSError, ValueError):
        return one == other


def _resolved(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return socket.gethostbyname(host), port
