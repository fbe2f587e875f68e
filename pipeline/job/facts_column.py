"""What a bar says of a job, in one line of a terminal of any width: whole numbers, or none."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from pipeline.job.tracking import Snapshot
from pipeline.text import fmt


class FactsColumn(ProgressColumn):
    """Images, rate, time left, what could not be done and time elapsed; as much of it as there is room for.

    Args:
        console: The terminal. It may change its width while the bar is shown.
        beside: Columns of it that others take.
        doing: What the job does with images.
        dropped: What becomes of images that it can do nothing with.
    """

    def __init__(self, console: Console, beside: int, doing: str, dropped: str) -> None:
        super().__init__(Column(no_wrap=True))
        self._console = console
        self._beside = beside
        self._doing = doing
        self._dropped = dropped

    def render(self, task: Task) -> Text:
        """The line, with what matters least left out first where it would be too long."""
        snapshot: Snapshot = task.fields["snapshot"]
        total = "?" if task.total is None else str(int(task.total))
        facts = [("doing", self._doing), ("images", f"{int(task.completed):{len(total)}d}/{total}")]
        facts += self._done(snapshot) if snapshot.images else [("rate", "starting")]
        facts.append(("elapsed", str(timedelta(seconds=int(task.elapsed or 0)))))
        room = self._console.width - self._beside
        for least in ("doing", "elapsed", "rate", "dropped", "failed", "left"):
            if len(line := _join(facts)) <= room:
                return Text(line)
            facts = [fact for fact in facts if fact[0] != least]
        return Text(_join(facts))

    def _done(self, snapshot: Snapshot) -> list[tuple[str, str]]:
        facts = [("rate", f"{snapshot.images_per_s:.1f} images/s")]
        if snapshot.eta_s is not None:
            facts.append(("left", f"{fmt.clock(snapshot.eta_s)} left"))
        if dropped := sum(snapshot.quarantined.values()):
            facts.append(("dropped", f"{dropped} {self._dropped}"))
        if snapshot.failed_units:
            facts.append(("failed", fmt.plural(snapshot.failed_units, "failed unit")))
        return facts


def _join(facts: list[tuple[str, str]]) -> str:
    apart = {name: text for name, text in facts if name in {"doing", "images", "elapsed"}}
    listed = ", ".join(text for name, text in facts if name not in apart)
    words = (apart.get("doing"), apart.get("images"), listed, apart.get("elapsed"))
    return " ".join(text for text in words if text)
