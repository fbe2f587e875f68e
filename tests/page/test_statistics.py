"""The one pass over the predictions, compared with the whole columns."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_outputs import MARK, calibrated, write_output

from pipeline.output.ledger import Ledger
from pipeline.page.row_choice import tie_breakers
from pipeline.page.rows import read_labelled
from pipeline.page.statistics import ROWS_PER_CLASS, ROWS_PER_SHEET, collect_statistics
from pipeline.storage import Storage

NUM_IMAGES, NUM_CLASSES = 300, 12


@pytest.fixture(scope="module")
def views():
    """Three members' probabilities: two alike, one of its own."""
    probs, _ = calibrated(NUM_IMAGES, NUM_CLASSES)
    other, _ = calibrated(NUM_IMAGES, NUM_CLASSES, seed=1)
    return np.stack([probs, probs, other])


@pytest.fixture
def taken(views, tmp_path):
    def take(rows_per_part, **more):
        out = write_output(
            tmp_path / f"{rows_per_part}", views, [None] * NUM_IMAGES, rows_per_part=rows_per_part, **more
        )
        ledger = Ledger(str(out), Storage())
        stats = collect_statistics(ledger, ledger.job())
        return stats, read_labelled(ledger, stats.row_refs)

    return take


def test_counts_are_those_of_the_arrays(taken, views):
    stats, _ = taken(7)
    pool = views.mean(axis=0)
    first_PN = np.stack([pool.argmax(axis=1), *views.argmax(axis=2)])
    assert stats.images == NUM_IMAGES
    assert stats.truths == 0
    assert stats.counts_K.tolist() == np.bincount(first_PN[0], minlength=NUM_CLASSES).tolist()
    assert (stats.same_top1_PP / NUM_IMAGES == (first_PN[:, None] == first_PN[None]).mean(axis=2)).all()
    edges, images = stats.score.bins(20)
    assert images.tolist() == np.histogram(pool.max(axis=1).astype(np.float32), edges)[0].tolist()
    assert stats.score.mean == pytest.approx(pool.max(axis=1).mean(), abs=1e-6)
    assert stats.score.quantile(0.5) == pytest.approx(np.median(pool.max(axis=1)), abs=0.01)
    assert sum(stats.agreement.values()) == NUM_IMAGES
    assert stats.agreement[1.0] == (first_PN[1:] == first_PN[0]).all(axis=0).sum()
    assert stats.entropy.images == 0  # this output has none


def test_the_best_and_the_worst_are_shown_in_order(taken, views):
    stats, rows = taken(7)
    scores = np.sort(views.mean(axis=0).max(axis=1).astype(np.float32))
    shown = [rows[row_ref].score for row_ref in stats.most_certain]
    assert shown == pytest.approx(scores[::-1][:ROWS_PER_SHEET].tolist())
    assert [rows[row_ref].score for row_ref in stats.least_certain] == pytest.approx(scores[:ROWS_PER_SHEET].tolist())
    assert stats.most_disagreeing == ()


def test_what_is_shown_does_not_depend_on_the_parts(taken):
    keys = []
    for rows_per_part in (7, 100, 1000):
        stats, rows = taken(rows_per_part)
        sheets = [stats.most_certain, stats.least_certain, *stats.of_classes.values()]
        keys.append([[rows[row_ref].key for row_ref in sheet] for sheet in sheets])
    assert keys[0] == keys[1] == keys[2]


def test_each_common_class_shows_some_of_its_own(taken):
    stats, rows = taken(40)
    counts = [int(stats.counts_K[label]) for label in stats.of_classes]
    assert counts == sorted(stats.counts_K.tolist(), reverse=True)[: len(counts)]
    for label, row_refs in stats.of_classes.items():
        assert len({rows[row_ref].key for row_ref in row_refs}) == min(ROWS_PER_CLASS, stats.counts_K[label])
        assert {rows[row_ref].class_name for row_ref in row_refs} == {f"class {label}"}


def test_rows_are_drawn_evenly_and_from_few_units():
    index = np.arange(100_000)
    units = {f"{unit:016x}": tie_breakers(f"{unit:016x}", index) for unit in range(5)}
    for ties in units.values():
        assert len(np.unique(ties)) == len(ties)
        lowest = np.argsort(ties)[:1000]
        assert np.histogram(lowest, 10, (0, 100_000))[0].min() > 60
    highest = {unit: ties.max() for unit, ties in units.items()}
    first = min(highest, key=highest.get)
    assert all(highest[first] < ties.min() for unit, ties in units.items() if unit != first)


def test_parts_of_other_jobs_do_not_count(views, tmp_path):
    out = write_output(tmp_path / "out", views, [0] * NUM_IMAGES)
    for path in list((out / "predictions").iterdir())[:2]:
        path.with_name(path.name.replace(MARK[:8], "cd" * 4)).write_bytes(path.read_bytes())
    ledger = Ledger(str(out), Storage())
    stats = collect_statistics(ledger, ledger.job())
    assert (stats.images, stats.truths) == (NUM_IMAGES, NUM_IMAGES)
