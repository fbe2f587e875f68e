"""Loading torch, which takes seconds, beside what has to be waited for."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

_loading: list[threading.Thread] = []
_SILENCE_S = 0.7
_PATIENCE_S = 2.0


def load_in_background(module: str) -> None:
    """Begin to import a module. Whoever imports it next waits for it, and gets what it raises.

    It gains time only where this process waits for others: Python runs one thread at a time.
    """

    def load() -> None:
        with contextlib.suppress(BaseException):  # raised again where it is imported for use
            importlib.import_module(module)

    thread = threading.Thread(target=load, name="loading", daemon=True)
    _loading.append(thread)
    thread.start()


def load(module: str) -> None:
    """Import a module, or wait for the import that has begun.

    Nothing is collected meanwhile, and what is there then is looked at no more: a seventh of the time of the import
    goes into looking for garbage among a million objects that stay.
    """
    for thread in _loading:  # not by the import's own lock: so Ctrl-C ends the waiting
        thread.join()
    _loading.clear()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module(module)
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def leave_if_loading(code: int) -> None:
    """End this process at once if a library is still being imported: ending in its middle may crash."""
    if any(thread.is_alive() for thread in _loading):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def loading_if_slow(module: str, note: Callable[[str], None], line: str) -> Iterator[None]:
    """Say a line if something takes longer than people like, and begin to load a module if it takes longer still.

    What fails soon has loaded nothing.

    Args:
        module: What is needed afterwards.
        note: Called with the line, from another thread.
        line: What takes long.
    """
    timers = [
        threading.Timer(_SILENCE_S, note, [line]),
        threading.Timer(_PATIENCE_S, load_in_background, [module]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
