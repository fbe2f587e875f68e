"""Between a driver and its workers: whether to stop, what workers report, and which died.

Plain Python, run as an actor.
"""

from __future__ import annotations


class Supervisor:
    """Remembers whether to stop, what workers report, and in how many processes each has run."""

    def __init__(self) -> None:
        self._stop_requested = False
        self._reports: list[str] = []
        self._failures: list[str] = []
        self._processes: dict[str, set[str]] = {}

    def request_stop(self) -> None:
        """Workers are to take no more items."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        """Whether somebody has asked for a stop."""
        return self._stop_requested

    def register(self, worker: str, process: str) -> None:
        """A worker starts in a process; in another one than before, if that died."""
        self._processes.setdefault(worker, set()).add(process)

    def report(self, text: str) -> None:
        """Keep a result until the driver takes it."""
        self._reports.append(text)

    def note_failure(self, text: str) -> None:
        """Keep why a worker ends its process until the driver takes it."""
        self._failures.append(text)

    def take_reports(self) -> tuple[list[str], list[str], dict[str, int]]:
        """The results since the last call, why workers have ended since then, and how often each worker has died."""
        reports, self._reports = self._reports, []
        failures, self._failures = self._failures, []
        return reports, failures, {worker: len(processes) - 1 for worker, processes in self._processes.items()}
