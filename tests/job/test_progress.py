"""Receipts added up, and what is shown of them."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from datetime import datetime, timedelta

import pytest

from pipeline.job.progress import Bar, Json, Plain, Silent, Wording, describe, make_reporter
from pipeline.job.tracking import Snapshot, Tracker
from pipeline.records import UNWRITABLE, Receipt, Unit


def unit(number: int, size_bytes: int = 1000) -> Unit:
    return Unit(f"{number:016x}", "tar", f"/{number}.tar", size_bytes)


def receipt(number: int, num_samples: int, **more) -> Receipt:
    return Receipt(f"{number:016x}", num_samples=num_samples, started_at=time.time() - 10, **more)


def tracker(*known: int | None) -> Tracker:
    return Tracker({f"{number:016x}": (unit(number), count) for number, count in enumerate(known)})


def test_the_latest_receipt_of_a_unit_counts_and_a_repeated_one_does_not():
    found = tracker(100, 100)
    found.take(receipt(0, 10, num_quarantined={"empty": 1}))
    found.take(receipt(0, 30, num_quarantined={"empty": 2}, parts={"a": [28, 2]}))
    found.take(receipt(0, 20, num_quarantined={"empty": 1}))  # a restarted worker begins again
    found.take(receipt(1, 5, num_quarantined={"no_image": 5}))
    shown = found.snapshot()
    assert (shown.images, shown.total, shown.exact) == (35, 200, True)
    assert shown.quarantined == {"empty": 2, "no_image": 5}
    assert found.bad_rate == pytest.approx(7 / 35)
    found.take(receipt(0, 90, finished=True, parts={"b": [60, 0]}))
    assert found.receipts["0" * 16].parts == {"a": [28, 2], "b": [60, 0]}
    assert (found.snapshot().units_done, found.snapshot().total) == (1, 190)


def test_the_total_is_estimated_from_bytes_until_it_is_known():
    found = tracker(None, None)
    assert (found.snapshot().total, found.snapshot().exact) == (None, False)
    found.take(receipt(0, 10, num_bytes=500))
    assert (found.snapshot().total, found.snapshot().exact) == (40, False)
    found.take(receipt(0, 24, num_bytes=1000, finished=True))
    assert found.snapshot().total == 48
    found.take(receipt(1, 30, num_bytes=1000, finished=True))
    assert (found.snapshot().total, found.snapshot().exact) == (54, True)


def test_failed_units_and_an_unwritable_out_are_seen():
    found = tracker(None, None)
    found.take(receipt(0, 0, failure="shard_missing"))
    assert (found.snapshot().failed_units, found.unwritable) == (1, None)
    found.take(receipt(1, 3, failure=UNWRITABLE, message="disk full"))
    assert (found.snapshot().failed_units, found.unwritable) == (2, "disk full")


def test_a_line_says_how_long_it_will_take():
    found = tracker(100)
    found.take(receipt(0, 50, num_quarantined={"empty": 3}))
    line = describe(found.snapshot())
    assert re.match(r"50 of 100 images, \d\.\d images/s, 0:\d\d left", line)
    assert "3 quarantined" in line


def test_a_job_speaks_of_what_it_does(capsys):
    wording = Wording(doing="exporting", dropped="omitted")
    found = tracker(100)
    found.take(receipt(0, 50, num_quarantined={"changed": 3}))
    Plain(wording, every_s=0.0).update(found.snapshot())
    Json(wording).update(found.snapshot())
    shown = capsys.readouterr()
    assert "3 omitted" in shown.err
    assert json.loads(shown.out)["omitted"] == {"changed": 3}
    Json().update(found.snapshot())
    said = json.loads(capsys.readouterr().out)
    assert (said["quarantined"], said["quarantined_by_reason"]) == (3, {"changed": 3})


def test_plain_lines_come_now_and_then(capsys):
    found, reporter = tracker(10), Plain(every_s=0.0)
    reporter.update(found.snapshot())
    reporter.note("resuming")
    assert capsys.readouterr().err == "0 of 10 images, 0.0 images/s, 0 quarantined\nresuming\n"


def test_json_lines_are_one_object_each(capsys):
    reporter = Json()
    reporter.note("x")
    reporter.update(tracker(10).snapshot())
    reporter.finish({"images": 1})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["note", "progress", "summary"]
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert all(said.utcoffset() == timedelta(0) for said in times)


def test_auto_is_a_bar_on_a_terminal_only(monkeypatch):
    assert isinstance(make_reporter("auto"), Plain)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 2

    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = make_reporter("auto")
    assert isinstance(bar, Bar)
    bar.update(tracker(10).snapshot())
    bar.close()


def test_downloads_are_shown_in_every_way(capsys):
    for reporter, wanted in (
        (Plain(every_s=1e9), ["downloading a.pth: 1.0 of 3.0 MB", "downloading b.pth: 2.0 MB"]),
        (Silent(), []),
    ):
        for done in (1, 2, 3):
            reporter.download("a.pth", done << 20, 3 << 20)
        reporter.download("b.pth", 2 << 20, None)
        shown = capsys.readouterr()
        assert (shown.out, shown.err.splitlines()) == ("", wanted)
    reporter = Json()
    for done in (1, 2, 3):
        reporter.download("a.pth", done, 3)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["bytes"] for event in events] == [1, 3]  # one a second, and the last
    del events[-1]["time"]
    assert events[-1] == {"event": "download", "name": "a.pth", "bytes": 3, "total_bytes": 3}


def test_the_bar_of_a_download_gives_way_to_that_of_the_job(capfd, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    bar = Bar()
    for done in (1, 2):
        bar.download("weights.pth", done << 20, 2 << 20)
    bar.update(Snapshot(0, 100, True, {}, 0, 1, 0, 0.0))
    bar.update(Snapshot(40, 100, True, {}, 0, 1, 0, 2.0))
    bar.close()
    shown = capfd.readouterr().err
    first, then = shown.index("weights.pth"), shown.index("labelling")
    assert first < then
    assert "weights.pth" not in shown[then:]
    assert "40/100" in shown[then:]
    assert "20.0 images/s" in shown[then:]


@pytest.mark.parametrize("width", [24, 40, 60, 79, 80, 100, 140])
def test_the_bar_is_one_line_of_whole_numbers_at_any_width(width, capfd, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    bar = Bar()
    for done in (0, 768, 1540):
        bar.update(Snapshot(done, 1540, True, {"empty": done // 30}, done // 700, 3, done // 700, 156.84))
        bar._shown.refresh()
    bar.download("a-network-of-a-rather-long-name-0123abcd.pth", 1 << 20, 20 << 20)
    bar.close()
    lines = [
        line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err)) if line
    ]
    assert max(map(len, lines)) <= width
    labelling = [line for line in lines if "/1540" in line]
    assert re.search(r"   0/1540 starting", labelling[0])
    for line in labelling:
        assert "…" not in line
        assert len(re.findall(r"\d+/1540\b", line)) == 1
    said = {24: "left", 40: "left", 60: "quarantined", 80: "left", 140: "9.8 images/s"}
    assert said.get(width, "left") in labelling[-1]
    assert ("51 quarantined, 2 failed units" in labelling[-1]) == (width in (60, 79, 100, 140))
    assert any("1.0/20.0 MiB" in line for line in lines)
