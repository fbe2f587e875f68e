"""Throughput from the times of publication."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.page.timeline import timeline


def test_a_steady_run():
    found = timeline(1e9 + np.arange(101) * 10.0, np.full(101, 500))
    assert found.images_per_s == pytest.approx(50)
    assert found.pauses == ()
    assert (found.images_T[0], found.images_T[-1]) == (500, 50_500)
    assert len(found.bins) == 12
    assert [rate for _, _, rate in found.bins] == pytest.approx([50] * 12, rel=0.2)
    widths = np.array([end - start for start, end, _ in found.bins])
    assert (widths * [rate for _, _, rate in found.bins]).sum() == pytest.approx(50_000)


def test_a_pause_counts_neither_as_time_nor_what_was_done_in_it():
    times = np.concatenate([np.arange(20) * 10.0, 100_000 + np.arange(20) * 10.0])
    found = timeline(1e9 + times[::-1], np.full(40, 500))
    assert found.pauses == ((190.0, 100_000.0),)
    assert found.images_per_s == pytest.approx(50)
    assert found.images_T[-1] == 20_000


def test_large_parts_and_bursts_are_no_pauses():
    assert timeline(1e9 + np.arange(10) * 600.0, np.full(10, 1)).pauses == ()
    bursts = np.repeat(np.arange(10) * 30.0, 8) + np.tile(np.arange(8) * 0.01, 10)
    assert timeline(1e9 + bursts, np.full(80, 1)).pauses == ()


@pytest.mark.parametrize("times", [[], [5.0], [5.0, 5.0, 5.0], [5.0, 90.0]])
def test_too_few_or_too_fast_to_tell(times):
    found = timeline(np.array(times, np.float64), np.full(len(times), 100))
    assert found.images_per_s is None
    assert found.bins == ()
    assert found.images_T.tolist() == [100 * (at + 1) for at in range(len(times))]
