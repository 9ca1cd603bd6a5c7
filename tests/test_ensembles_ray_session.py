"""Ray sessions: addresses without a cluster, and processes that have no session yet."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

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
