"""Messages, warnings and what is logged behind the C interface: to each what is its own."""

from __future__ import annotations

import ctypes
import logging
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import c_callers as c
import numpy as np
import pytest
from c_callers import BOX, N, places, refused
from kernel_parts import needs_compiler

from alchemi_bridge import Search
from alchemi_bridge.compiling import require_compiler
from alchemi_bridge.engines import plugins
from alchemi_bridge.engines.interface import structs
from alchemi_bridge.engines.interface import table as table_module


@pytest.fixture
def engine(models: Callable[[str], Path]) -> Iterator[c.Engine]:
    """One that is ready for a step."""
    with c.Engine(models("pair"), {"device": "cpu"}) as found:
        found.set_atoms(np.full(N, 6))
        found.set_pairs(Search(0.5), BOX)
        yield found


def test_messages_of_threads_are_not_mixed_up(engine: c.Engine) -> None:
    """Each thread reads its own, also long after others failed."""
    with refused(c.PROTOCOL):
        engine.set_atoms(None)
    mine, found = c.message(), {}
    barrier = threading.Barrier(4)

    def fail(number: int) -> None:
        before = c.message()
        for _ in range(20):
            barrier.wait()
            engine.functions.set_atoms(1000 + number, c.sized(structs.Atoms))
            barrier.wait()
            found.setdefault(number, set()).add((before, c.message()))

    threads = [threading.Thread(target=fail, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert c.message() == mine
    for number, told in found.items():
        assert len({text for _, text in told}) == 1
        assert all(f"{1000 + number:#x}" in text for _, text in told)


FOREIGN = """
#include "alchemi_bridge.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
struct work { const ab_functions *ab; int32_t code; char text[400]; };
static void *fail(void *given) {
    struct work *work = (struct work *)given;
    char later[400];
    work->code = work->ab->set_pairs((ab_provider *)0x4d2, NULL);
    const char *text = work->ab->message();
    snprintf(work->text, sizeof work->text, "%s", text);
    for (int k = 0; k < 100; ++k) snprintf(later, sizeof later, "%s", work->ab->message());
    if (strcmp(later, work->text) || text != work->ab->message()) work->code = -1;
    return NULL;
}
int32_t in_a_thread(const ab_functions *ab, char *text) {
    struct work work[2] = {{ab, 0, ""}, {ab, 0, ""}};
    pthread_t threads[2];
    for (int k = 0; k < 2; ++k) pthread_create(&threads[k], NULL, fail, &work[k]);
    for (int k = 0; k < 2; ++k) pthread_join(threads[k], NULL);
    strcpy(text, work[1].text);
    return work[0].code == work[1].code ? work[0].code : -1;
}
"""


@needs_compiler
def test_messages_of_threads_that_python_does_not_know(tmp_path: Path) -> None:
    """An engine's own threads: Python forgets all of one's locals when a call returns."""
    source, library = tmp_path / "foreign.c", tmp_path / "foreign.so"
    source.write_text(FOREIGN)
    include = f"-I{(plugins.folder() / plugins.HEADER).parent}"
    flags = ["-x", "c", "-shared", "-fPIC", "-pthread", include]
    subprocess.run([require_compiler(), *flags, str(source), "-o", str(library)], check=True)
    text = ctypes.create_string_buffer(400)
    functions = ctypes.c_void_p(ctypes.addressof(c.table()))
    assert ctypes.CDLL(str(library)).in_a_thread(functions, text) == c.PROTOCOL
    assert "0x4d2" in text.value.decode()


def test_warnings_of_two_providers_in_threads(models: Callable[[str], Path]) -> None:
    """Each log gets those of its own provider, and Python's warnings are left alone."""
    hook, told = warnings.showwarning, {}

    def run(number: int) -> None:
        told[number] = []
        log = structs.LOG(lambda _user, _level, text: told[number].append(text.decode()))
        with c.Engine(models("uncertain"), {"device": "cpu"}, log=log) as engine:
            engine.set_atoms(np.full(N, 6), ids=np.arange(N) + 100 * number)
            engine.set_pairs(Search(0.5), BOX)
            for _ in range(20):
                engine.compute(places(), BOX, c.buffers(N))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, texts in told.items():
        assert len(texts) == 20
        assert all(f"atoms {100 * number}, " in text for text in texts)
    assert warnings.showwarning is hook


def test_what_the_bridge_logs(models: Callable[[str], Path], capfd: Any) -> None:
    """Goes to the engine during its calls, and else where Python's goes."""
    told: list[tuple[int, str]] = []
    log = structs.LOG(lambda _user, level, text: told.append((level, text.decode())))
    logger = logging.getLogger("alchemi_bridge.somewhere")
    session = None
    with c.Engine(models("pair"), {"device": "cpu"}, log=log) as engine:
        session = table_module._sessions[engine.handle.value]
        with session._heard():
            logger.warning("of this step")
            logging.getLogger("alchemi_bridge").setLevel(logging.INFO)
            logger.info("by the way")
    assert told == [(structs.WARNING, "of this step"), (structs.INFO, "by the way")]
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        logger.warning("of nobody's step")
        logger.info("not this")
    finally:
        root.handlers = handlers
    assert len(told) == 2
    assert capfd.readouterr().err == "of nobody's step\n"
