"""Between a driver and its workers: whether to stop, what was said, and who died. Plain Python, run as an actor."""

from __future__ import annotations


class Supervisor:
    """Remembers whether to stop, what workers report, and in how many processes each has lived."""

    def __init__(self) -> None:
        self._stopping = False
        self._reports: list[str] = []
        self._lives: dict[str, set[str]] = {}

    def stop(self) -> None:
        self._stopping = True

    def is_stopping(self) -> bool:
        return self._stopping

    def begin(self, worker: str, process: str) -> None:
        self._lives.setdefault(worker, set()).add(process)

    def report(self, text: str) -> None:
        self._reports.append(text)

    def news(self) -> tuple[list[str], dict[str, int]]:
        reports, self._reports = self._reports, []
        return reports, {worker: len(lives) - 1 for worker, lives in self._lives.items()}
