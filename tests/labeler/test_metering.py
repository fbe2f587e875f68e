"""From receipts to counters, from snapshots to gauges: what is counted once, and what was others' work."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline import metrics
from pipeline.job.metering import JobMeter
from pipeline.job.tracking import Snapshot
from pipeline.labeler.metering import Timed, UnitMeter, sample_memory
from pipeline.records import Receipt


class Noted:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.gauges: dict[tuple[str, ...], float] = {}
        self.observed: list[str] = []

    def add(self, metric, value, **labels) -> None:
        assert set(labels) == set(metric.labels)
        self.counts[metric.name, *labels.values()] += value

    def observe(self, metric, value, **labels) -> None:
        self.observed.append(metric.name)

    def set(self, metric, value, **labels) -> None:
        assert set(labels) == set(metric.labels)
        self.gauges[metric.name, *labels.values()] = value

    def sample(self, metric, read, **labels) -> None:
        self.set(metric, read(), **labels)


def test_cumulative_receipts_are_counted_once():
    noted, receipt = Noted(), Receipt("u")
    unit = UnitMeter(noted, receipt, 0)
    for _ in range(3):
        receipt.num_labelled += 10
        receipt.num_quarantined["empty"] = receipt.num_quarantined.get("empty", 0) + 1
        receipt.num_bytes += 500
        receipt.stage_s["decode"] = receipt.stage_s.get("decode", 0.0) + 0.5
        unit.take(receipt)
        unit.take(receipt)  # nothing new
    receipt.parts = {"part": [30, 3]}
    receipt.num_events = {"shard_truncated": 1}
    receipt.wait_s = {"read": 2.0}
    receipt.finished = True
    unit.end(receipt)
    assert +noted.counts == {
        ("images", "labelled"): 30,
        ("images", "empty"): 3,
        ("read_bytes",): 1500,
        ("stage_seconds", "decode"): 1.5,
        ("parts",): 1,
        ("shard_events", "shard_truncated"): 1,
        ("wait_seconds", "read"): 2.0,
        ("units", "finished"): 1,
    }
    assert noted.observed == ["unit_seconds"]


def test_what_an_earlier_attempt_did_is_not_counted_again():
    before = Receipt(
        "u", num_labelled=20, num_quarantined={"empty": 2}, num_events={"shard_corrupt": 1}, parts={"a": [20, 2]}
    )
    noted = Noted()
    unit = UnitMeter(noted, before, 4096)
    before.num_labelled += 5
    before.num_bytes = 5096  # the whole way from the tar's beginning
    before.parts["b"] = [5, 0]
    unit.end(before)
    assert +noted.counts == {("images", "labelled"): 5, ("read_bytes",): 1000, ("parts",): 1, ("units", "stopped"): 1}


def test_bytes_that_were_skipped_are_none_that_were_read():
    noted = Noted()
    UnitMeter(noted, Receipt("u"), 4096).end(Receipt("u", failure="shard_missing"))
    assert +noted.counts == {("units", "shard_missing"): 1}


@pytest.mark.parametrize("total", [None, 100, 30])
def test_the_driver_says_where_the_job_stands(total):
    noted = Noted()
    JobMeter(noted, 0.5, 100).update(Snapshot(40, total, True, {"empty": 3, "too_large": 1}, 2, 9, 1, 8.0))
    expected = {} if total is None else {("job_images_expected",): max(40, total)}
    assert noted.gauges == expected | {
        ("job_images",): 40,
        ("job_units", "done"): 2,
        ("job_units", "failed"): 1,
        ("job_units", "left"): 6,
        ("job_bad_ratio",): 0.1,
        ("job_bad_ratio_limit",): 0.5,
        ("job_failed_units_limit",): 100,
    }


def test_memory_is_sampled_here_and_now():
    noted = Noted()
    sample_memory(noted, on_gpu=False)
    assert noted.gauges[metrics.PROCESS_MEMORY.name,] > 10 << 20
    assert noted.gauges[metrics.AVAILABLE_MEMORY.name,] > 0
    assert len(noted.gauges) == 2


def test_a_timed_iterator_passes_everything_on_and_closes_its_source():
    closed = []

    def source():
        try:
            yield from range(5)
        finally:
            closed.append(True)

    timed = Timed(source())
    assert next(timed) == 0
    timed.close()
    assert closed == [True]
    whole = Timed(iter(range(3)))
    assert list(whole) == [0, 1, 2]
    assert whole.seconds > 0
