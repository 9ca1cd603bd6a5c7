"""Ray sessions: addresses without a cluster, and processes that have no session yet."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_runs import LOCAL, ray_marks

from alchemi_bridge.ensembles.executors import ray_session
from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor
from alchemi_bridge.errors import ConfigurationError

pytestmark = ray_marks

#: Seconds in which a wrong address has to be an error. (Ray itself: more than two minutes.)
_SOON = 20.0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "host:port"])
def test_nobody_there_is_an_error_at_once(address):
    start = time.monotonic()
    with pytest.raises(ConfigurationError, match="Ray cluster at"):
        ray_session.find_cluster(address, timeout=10.0)
    assert time.monotonic() - start < 1.0


def test_somebody_else_there_is_an_error_soon():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ConfigurationError, match="no answer within 4 s"):
            ray_session.find_cluster(address, timeout=4.0)
    assert time.monotonic() - start < _SOON


def test_a_missing_ray_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"pip install .*alchemi-bridge\[ray\]"):
        RayExecutor().start()


@pytest.mark.parametrize("address", ["", " "])
def test_an_empty_address_is_none_at_all(address):
    # a variable of a shell that was never set would start a local Ray, and nobody would notice
    with pytest.raises(ConfigurationError, match="Ray address: expected auto"):
        RayExecutor(address)


def test_errors_that_nobody_reads_are_reported_again_after_the_session(monkeypatch):
    class There:
        @staticmethod
        def is_initialized():
            return True

    name = "RAY_IGNORE_UNHANDLED_ERRORS"
    monkeypatch.setattr(ray_session, "import_ray", There)
    for before in (None, "1"):
        monkeypatch.delenv(name, raising=False)
        if before:
            monkeypatch.setenv(name, before)
        session = ray_session.open_session(None, {}, None, 1.0)
        assert os.environ[name] == "1"
        session.close()
        assert os.environ.get(name) == before


# --- clusters that want a token -------------------------------------------------------------------

_TOKEN, _OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2

_JOIN = """
import sys
from alchemi_bridge.ensembles import SchedulerHints
from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor
from alchemi_bridge.errors import ConfigurationError
try:
    with RayExecutor(sys.argv[1]) as executor:
        (r,) = executor.submit(len, ["abc"], name="n", hints=SchedulerHints())
        print("answer", executor.result(r))
except ConfigurationError as error:
    print(error)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Protected:
    """A cluster of one node that wants a token, with its own home and temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        token = folder / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text(_TOKEN)
        foreign = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
        self.environment = {k: v for k, v in os.environ.items() if k not in foreign}
        self.environment |= {"HOME": str(folder), "RAY_TMPDIR": str(folder)}

    def command(self) -> list[str]:
        port = self.address.rpartition(":")[2]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        sizes = ["--num-cpus=1", f"--object-store-memory={100 * 2**20}"]
        return [*ray, f"--port={port}", *sizes, "--include-dashboard=false"]

    def join(self, address: str, **environment: str) -> str:
        """What becomes of an executor there, in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-c", _JOIN, address],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout or done.stderr


@pytest.fixture(scope="module")
def protected() -> Iterator[Protected]:
    # short names: sockets lie in the folder
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        cluster = Protected(Path(folder))
        with (Path(folder) / "log").open("w") as log:
            head = subprocess.Popen(
                cluster.command(), env=cluster.environment, stdout=log, stderr=log
            )
        try:
            host, port = cluster.address.split(":")
            for _ in range(600):
                assert head.poll() is None, (Path(folder) / "log").read_text()
                if "Ray runtime started" in (Path(folder) / "log").read_text():
                    break
                time.sleep(0.1)
            socket.create_connection((host, int(port)), 10.0).close()
            yield cluster
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(timeout=60)


@pytest.mark.slow
def test_a_cluster_with_a_token_is_joined(protected):
    assert protected.join("auto") == "answer 3\n"
    assert protected.join(protected.address) == "answer 3\n"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [{"RAY_AUTH_TOKEN": _OTHER}, {"RAY_AUTH_MODE": "disabled"}, {}])
def test_what_to_do_without_the_token_is_said(protected, wrong, tmp_path):
    told = protected.join(protected.address, **(wrong or {"HOME": str(tmp_path)}))
    assert "Authentication" in told
    assert "RAY_AUTH_MODE=token" in told
    assert "RAY_AUTH_TOKEN" in told


@pytest.mark.slow
def test_a_session_of_its_own_is_joined_and_ended():
    """Without a session: RAY_ADDRESS is joined, and the cluster outlives the driver."""
    script = (
        "import os, ray\n"
        "from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor\n"
        "from alchemi_bridge.ensembles import SchedulerHints\n"
        f"with RayExecutor(init_options={LOCAL!r}) as own:\n"
        "    assert ray.is_initialized()\n"
        "    address = ray.get_runtime_context().gcs_address\n"
        "    import subprocess, sys\n"
        "    child = '''\n"
        "import ray\n"
        "from alchemi_bridge.ensembles.executors.ray_executor import RayExecutor\n"
        "with RayExecutor(runtime_env={'env_vars': {'A': 'b'}}) as joined:\n"
        "    (r,) = joined.submit(len, ['abc'], name='n',\n"
        "        hints=__import__('alchemi_bridge.ensembles').ensembles.SchedulerHints())\n"
        "    print('joined', ray.get_runtime_context().gcs_address, joined.result(r))\n"
        "assert not ray.is_initialized()\n"
        "'''\n"
        "    environment = {**os.environ, 'RAY_ADDRESS': address}\n"
        "    out = subprocess.run([sys.executable, '-c', child], env=environment, text=True,\n"
        "                         stdout=subprocess.PIPE, check=True).stdout\n"
        "    assert f'joined {address} 3' in out, out\n"
        "    (r,) = own.submit(len, ['ab'], name='n', hints=SchedulerHints())\n"
        "    assert own.result(r) == 2\n"
        "assert not ray.is_initialized()\n"
        "print('done')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stderr[-3000:]
