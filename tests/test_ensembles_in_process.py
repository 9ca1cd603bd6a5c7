"""Tasks in this process: when they run, what they get, and whose an error is."""

from __future__ import annotations

import pytest
import torch
from ensemble_units import note, notes

from alchemi_bridge.ensembles import InProcessExecutor, SchedulerHints
from alchemi_bridge.errors import ProtocolError


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path)


def divide(a, b):
    return a / b


def split(a, folder=None):
    if folder:
        note(folder, "split")
    return a, a + 1, torch.get_num_threads()


def submit(function, arguments, **options):
    return InProcessExecutor().submit(
        function, arguments, name="task", **{"hints": SchedulerHints(), **options}
    )


def test_tasks_run_when_they_are_waited_for_and_are_handed_values(folder):
    executor = InProcessExecutor()
    value = [1.0]
    (first, second, threads) = submit(split, [2, folder], returns=3)
    assert notes(folder, "split") == []
    (quotient,) = submit(divide, [first, second])
    assert executor.result(quotient) == pytest.approx(2 / 3)
    assert executor.wait([quotient, second]) == [quotient, second]
    assert len(notes(folder, "split")) == 1
    assert executor.result(executor.put(value)) is value
    assert executor.result(threads) == torch.get_num_threads()


def test_torch_gets_as_many_threads_as_cores():
    before = torch.get_num_threads()
    for cpus, expected in ((2, 2), (3.5, 3), (0.1, 1), (0, 1)):
        *_, threads = submit(split, [0], hints=SchedulerHints(num_cpus=cpus), returns=3)
        assert InProcessExecutor().result(threads) == expected
    assert torch.get_num_threads() == before


def test_errors_belong_to_their_tasks():
    executor = InProcessExecutor()
    (wrong,), (right,) = submit(divide, [1, 0]), submit(divide, [1, 2])
    (after,) = submit(divide, [wrong, 1])
    assert executor.wait([wrong, right]) == [wrong]
    for reference in (wrong, after):
        with pytest.raises(ZeroDivisionError):
            executor.result(reference)
    assert executor.result(right) == 0.5
    with pytest.raises(ProtocolError, match="2 results, got 3"):
        executor.result(submit(split, [1], returns=2)[0])


def test_cancelled_tasks_never_run(folder):
    executor = InProcessExecutor()
    references = submit(split, [1, folder], returns=3)
    executor.cancel(references[:1])
    with pytest.raises(ProtocolError, match="cancelled"):
        executor.result(references[1])
    assert notes(folder, "split") == []
