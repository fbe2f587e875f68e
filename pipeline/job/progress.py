"""What a person, or a log, sees of a running job."""

from __future__ import annotations

import html
import os
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TransferSpeedColumn,
)

from pipeline.job.facts_column import FactsColumn
from pipeline.job.tracking import Snapshot
from pipeline.text import fmt
from pipeline.text.safe import json_text, printable

_PLAIN_EVERY_S = 10.0
_JSON_EVERY_S = 1.0
_WIDTH_FOR_NAME, _WIDTH_FOR_BAR = 60, 80  # columns of the terminal; on a narrower one the numbers take their place
_BAR_WIDTH = 24
_DOWNLOAD_WIDTH = 32  # of the numbers of a download
_NOTEBOOK_EVERY_S = 0.5
_STARTING = "starting"


@dataclass(frozen=True, slots=True)
class Wording:
    """How a job speaks of itself.

    Attributes:
        doing: What it does to images.
        dropped: What becomes of those that it cannot do it to.
    """

    doing: str = "labelling"
    dropped: str = "quarantined"


class Reporter(Protocol):
    """Shows a job. ``update`` and ``download`` may be called as often as one likes."""

    def note(self, line: str) -> None:
        """Say one line."""

    def download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Show how much of a file is here."""

    def update(self, snapshot: Snapshot) -> None:
        """Show where things stand."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Show the end of a run that came to one."""

    def close(self) -> None:
        """Leave the terminal as it was; always called."""


class Silent:
    """Shows nothing."""

    def __init__(self, wording: Wording | None = None) -> None:
        self.wording = wording or Wording()

    def note(self, line: str) -> None:
        """Nothing."""

    def download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Nothing."""

    def update(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Plain(Silent):
    """A line on stderr now and then."""

    def __init__(self, wording: Wording | None = None, every_s: float = _PLAIN_EVERY_S) -> None:
        super().__init__(wording)
        self._every_s = every_s
        self._next = time.monotonic() + every_s
        self._downloading = ""

    def note(self, line: str) -> None:
        """Say one line."""
        print(printable(line), file=sys.stderr, flush=True)

    def download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """A line when a download begins, and every ten seconds."""
        if name != self._downloading or time.monotonic() >= self._next:
            self._downloading = name
            self._next = time.monotonic() + self._every_s
            of = "" if total_bytes is None else f" of {total_bytes / 2**20:,.1f}"
            self.note(f"downloading {name}: {done_bytes / 2**20:,.1f}{of} MB")

    def update(self, snapshot: Snapshot) -> None:
        """A line every ten seconds."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every_s
            self.note(describe(snapshot, self.wording))


class Json(Silent):
    """One JSON object a line on stdout, each with the time in UTC; the summary is the last one."""

    def __init__(self, wording: Wording | None = None) -> None:
        super().__init__(wording)
        self._next = 0.0

    def note(self, line: str) -> None:
        """A ``note`` object."""
        self._print({"event": "note", "message": line})

    def download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """A ``download`` object every second, and at the end."""
        if time.monotonic() >= self._next or done_bytes == total_bytes:
            self._next = time.monotonic() + _JSON_EVERY_S
            self._print({"event": "download", "name": name, "bytes": done_bytes, "total_bytes": total_bytes})

    def update(self, snapshot: Snapshot) -> None:
        """A ``progress`` object every second, and at the end."""
        if time.monotonic() < self._next and not snapshot.final:
            return
        self._next = time.monotonic() + _JSON_EVERY_S
        self._print(
            {
                "event": "progress",
                "images": snapshot.images,
                "published": snapshot.published,
                "total": snapshot.total,
                "total_exact": snapshot.exact,
                "images_per_s": round(snapshot.images_per_s, 2),
                "eta_s": None if snapshot.eta_s is None else round(snapshot.eta_s, 1),
                **self._dropped(snapshot),
                "units_done": snapshot.units_done,
                "units_total": snapshot.units_total,
                "failed_units": snapshot.failed_units,
            }
        )

    def _dropped(self, snapshot: Snapshot) -> dict[str, object]:
        """What could not be done, as in the summary: there ``quarantined`` is a number, ``omitted`` is by reason."""
        by_reason = dict(snapshot.quarantined)
        if self.wording.dropped != "quarantined":
            return {self.wording.dropped: by_reason}
        return {"quarantined": sum(by_reason.values()), "quarantined_by_reason": by_reason}

    def finish(self, summary: Mapping[str, object]) -> None:
        """The ``summary`` object."""
        self._print({"event": "summary", **summary})

    @staticmethod
    def _print(content: Mapping[str, object]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json_text({"time": now, **content}), flush=True)


class Bar(Silent):
    """A live bar on stderr."""

    def __init__(self, wording: Wording | None = None) -> None:
        super().__init__(wording)
        # a descriptor of its own, so that what silences libraries does not silence the bar
        self._file = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors)
        self._console = Console(file=self._file)
        self._shown: Progress | None = None
        self._downloading = ""

    def _bar(self, *columns: ProgressColumn) -> Progress:
        """The bar, begun anew where it is about something else than before."""
        if self._shown is None:
            self._shown = Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
            self._shown.start()
        return self._shown

    def note(self, line: str) -> None:
        """Say one line above the bar."""
        self._console.print(printable(line), markup=False, highlight=False)

    def download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Move the bar of a download."""
        if name != self._downloading:
            self._end()
            self._downloading = name
            columns: list[ProgressColumn] = [DownloadColumn(binary_units=True), TransferSpeedColumn()]
            room = self._console.width - _DOWNLOAD_WIDTH
            if self._has_bar:
                columns, room = [BarColumn(bar_width=_BAR_WIDTH), *columns], room - _BAR_WIDTH
            if self._console.width >= _WIDTH_FOR_NAME:
                columns = [TextColumn("{task.description}", markup=False), *columns]
            bar = self._bar(*columns)
            bar.add_task(_shorten(printable(name), room), total=total_bytes)
        bar = self._bar()
        bar.update(bar.task_ids[0], completed=done_bytes, total=total_bytes)
        if done_bytes == total_bytes:
            self._end()

    def update(self, snapshot: Snapshot) -> None:
        """Move the bar of the job."""
        if self._downloading:
            self._end()
        total = None if snapshot.total is None else max(snapshot.total, snapshot.images)
        bar = self._bar(*self._job_columns())
        task = bar.task_ids[0] if bar.task_ids else bar.add_task(self.wording.doing, total=total, snapshot=snapshot)
        bar.update(task, completed=snapshot.images, total=total, snapshot=snapshot)

    @property
    def _has_bar(self) -> bool:
        return self._console.width >= _WIDTH_FOR_BAR

    def _job_columns(self) -> list[ProgressColumn]:
        doing, dropped = self.wording.doing, self.wording.dropped
        if not self._has_bar:
            return [FactsColumn(self._console, 0, doing, dropped)]
        beside = len(doing) + _BAR_WIDTH + 2
        name = TextColumn("{task.description}", markup=False)
        return [name, BarColumn(bar_width=_BAR_WIDTH), FactsColumn(self._console, beside, "", dropped)]

    def _end(self) -> None:
        self._downloading = ""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    def close(self) -> None:
        """Take the bar away."""
        self._end()
        self._file.close()


def _shorten(name: str, room: int) -> str:
    """The end of a name, where there is no room for all of it."""
    return name if len(name) <= room else f"...{name[3 - max(4, room) :]}"


class Notebook(Silent):
    """A line under the cell of a notebook that renews itself, and stays as it was last."""

    def __init__(self, wording: Wording | None = None) -> None:
        super().__init__(wording)
        self._notes: list[str] = []
        self._line = _STARTING
        self._share: float | None = None
        self._next = 0.0
        self._display: Any = None
        self._show()

    def note(self, line: str) -> None:
        """Say one line above."""
        self._notes.append(printable(line))
        self._show()

    def download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Renew the line."""
        self._share = done_bytes / total_bytes if total_bytes else None
        self._renew(f"downloading {printable(name)}: {fmt.size(done_bytes)}", last=done_bytes == total_bytes)

    def update(self, snapshot: Snapshot) -> None:
        """Renew the line."""
        self._share = snapshot.images / snapshot.total if snapshot.total else None
        self._renew(describe(snapshot, self.wording) if snapshot.images else _STARTING)

    def finish(self, summary: Mapping[str, object]) -> None:
        """The number of images and the time."""
        self._share = 1.0
        self._renew(f"{summary['images']:,} images in {fmt.clock(float(str(summary['seconds'])))}", last=True)

    def close(self) -> None:
        """Leave the last line; none where nothing had begun."""
        if self._line == _STARTING:
            self._renew("", last=True)

    def _renew(self, line: str, *, last: bool = False) -> None:
        self._line = line
        if last or time.monotonic() >= self._next:
            self._next = time.monotonic() + _NOTEBOOK_EVERY_S
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        bar = "" if self._share is None else f'<progress max="1" value="{min(1.0, self._share):.4f}"></progress> '
        notes = "".join(f"{html.escape(note)}<br>" for note in self._notes)
        content = {
            "text/plain": "\n".join([*self._notes, self._line]),
            "text/html": f"{notes}{bar}{html.escape(self._line)}",
        }
        if self._display is None:
            self._display = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # IPython's
        else:
            self._display.update(content, raw=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook: it has no terminal, and shows what it is given."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def default_progress() -> Literal["auto", "none"]:
    """The progress of the Python API: none in a script, a line that renews itself in a notebook."""
    if not in_notebook():
        return "none"
    # Libraries import tqdm.auto, which warns in a notebook without ipywidgets; none of its bars is shown here
    warnings.filterwarnings("ignore", message="IProgress not found")
    return "auto"


def make_reporter(kind: str, wording: Wording | None = None) -> Reporter:
    """The reporter that ``--progress`` names; ``auto``: a bar on a terminal and in a notebook, else plain lines."""
    if kind in {"auto", "bar"} and in_notebook():
        return Notebook(wording)
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "plain"
    reporters: dict[str, type[Silent]] = {"bar": Bar, "plain": Plain, "json": Json, "none": Silent}
    return reporters[kind](wording)


def describe(snapshot: Snapshot, wording: Wording | None = None) -> str:
    """A snapshot in one line."""
    about = "" if snapshot.exact else "about "
    total = "" if snapshot.total is None else f" of {about}{snapshot.total:,}"
    many = "image" if (snapshot.total or snapshot.images) == 1 else "images"
    words = [f"{snapshot.images:,}{total} {many}", f"{snapshot.images_per_s:.1f} images/s"]
    if snapshot.eta_s is not None:
        words.append(f"{fmt.clock(snapshot.eta_s)} left")
    words.append(f"{sum(snapshot.quarantined.values()):,} {(wording or Wording()).dropped}")
    if snapshot.failed_units:
        words.append(fmt.plural(snapshot.failed_units, "failed unit"))
    return ", ".join(words)
