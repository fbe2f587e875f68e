"""Ends a process in which a library keeps the interpreter lock, so that no Python code runs, nor any watchdog."""

from __future__ import annotations

import faulthandler
import threading
import time

STUCK_S = 300.0


def exit_when_stuck() -> None:
    """From now on, end this process when no Python code has run in it for five minutes. It says where it was."""

    def beat() -> None:
        while True:
            faulthandler.dump_traceback_later(STUCK_S, exit=True, file=2)
            time.sleep(STUCK_S / 10)

    threading.Thread(target=beat, name="beat", daemon=True).start()
