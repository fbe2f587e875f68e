"""Intervals, reliability, operating points and class metrics against published values, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_outputs import calibrated

from pipeline.trust.intervals import Z_95, paired_gain, wilson_interval
from pipeline.trust.per_class import compute_class_metrics, find_confused_classes, macro_f1
from pipeline.trust.reliability import compute_reliability
from pipeline.trust.thresholds import find_operating_points, group_by_agreement, group_by_score

scored = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60).map(
    lambda rows: (np.array([score / 20 for score, _ in rows], np.float32), np.array([right for _, right in rows]))
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (0, 10, 0, 0.2775327999),
        (5, 10, 0.2365930905, 0.7634069095),
        (10, 10, 0.7224672001, 1),
        (90, 100, 0.8256343385, 0.9447708629),
        (857, 1000, 0.8339350119, 0.8773326825),
        (0, 0, 0, 1),
    ],
)
def test_wilson_has_the_published_values(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=1e-9)


@given(st.integers(1, 10**7).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_solves_the_equation_of_the_score_test(counts):
    successes, total = counts
    share = successes / total
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) == pytest.approx(Z_95 * np.sqrt(end * (1 - end) / total), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [(5, 0, 0.0625), (3, 3, 1), (1, 9, 0.021484375), (150, 86, 3.7159361e-5), (600, 500, 2.81954499e-3), (0, 0, 1)],
)
def test_mcnemar_has_the_values_of_the_binomial_distribution(wins, losses, p_value):
    assert paired_gain("x", wins, losses, 2000).p_value == pytest.approx(p_value, rel=1e-6)


def test_the_paired_interval_by_hand():
    """794 both, 150 and 86 alone, 570 neither: (150.5 - 86.5) / 1602 -+ 1.96 sqrt(237 - 64^2 / 1602) / 1602."""
    gain = paired_gain("best", 150, 86, 1600)
    assert gain.difference == 0.04
    assert gain.interval == pytest.approx((0.0212176, 0.0586825), abs=1e-6)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 500))
def test_swapping_the_predictors_flips_the_sign(wins, losses, neither):
    one, other = (
        paired_gain("x", wins, losses, wins + losses + neither),
        paired_gain("x", losses, wins, wins + losses + neither),
    )
    assert one.difference == -other.difference
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert one.interval[0] <= one.difference <= one.interval[1]
    assert one.p_value == other.p_value
    assert 0 < one.p_value <= 1


def test_the_calibration_error_by_hand():
    """Two bins: 0.5 with one of two right, 0.9 with one of two right: (2 x 0 + 2 x 0.4) / 4."""
    found = compute_reliability(np.array([0.9, 0.5, 0.5, 0.9]), np.array([True, True, False, False]), num_bins=2)
    assert found.ece == pytest.approx(0.2)
    assert [(b.low, b.high, b.images, b.accuracy) for b in found.bins] == [(0.5, 0.5, 2, 0.5), (0.9, 0.9, 2, 0.5)]


@pytest.mark.parametrize(
    ("images", "score", "deviation"), [(7, 0.3, 0.9529569), (100, 0.98, 1.0717825), (50, 0.5, 2.8068793)]
)
def test_the_floor_of_one_bin_is_the_mean_deviation_of_the_binomial(images, score, deviation):
    assert compute_reliability(np.full(images, score), np.ones(images, bool)).floor == pytest.approx(deviation / images)


@pytest.mark.parametrize("images", [200, 1_000, 10_000])
def test_the_floor_is_what_a_calibrated_predictor_shows(images):
    """Two hundred collections of truths drawn from the scores themselves."""
    probs, _ = calibrated(images, 10)
    scores = probs.max(axis=1)
    rng = np.random.default_rng(1)
    shown = [compute_reliability(scores, rng.random(images) < scores).ece for _ in range(200)]
    floor = compute_reliability(scores, scores > 0).floor
    assert np.mean(shown) == pytest.approx(floor, rel=0.1)
    assert 0.5 < floor * np.sqrt(images) / np.sqrt(15 * 2 / np.pi) / np.sqrt((scores * (1 - scores)).mean()) < 1.01


@settings(deadline=None)
@given(scored, st.integers(1, 15), st.randoms())
def test_bins_hold_every_image_once_in_order_and_do_not_depend_on_it(rows, num_bins, random):
    scores, right = rows
    found = compute_reliability(scores, right, num_bins)
    assert sum(b.images for b in found.bins) == len(scores)
    assert sum(b.images * b.accuracy for b in found.bins) == pytest.approx(right.sum())
    assert len(found.bins) <= num_bins
    assert all(one.high < other.low for one, other in zip(found.bins, found.bins[1:], strict=False))
    assert abs(scores.mean() - right.mean()) - 1e-6 <= found.ece <= 1 + 1e-6
    order = list(range(len(scores)))
    random.shuffle(order)
    assert compute_reliability(scores[order], right[order], num_bins).ece == pytest.approx(found.ece, abs=1e-12)


@settings(deadline=None)
@given(scored, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_operating_points_reach_the_target_and_no_lower_threshold_does(rows, target):
    scores, right = rows
    (kept,) = find_operating_points(scores, right, (target,))
    precisions = {float(t): right[scores >= t].mean() for t in np.unique(scores)}
    enough = [t for t, precision in precisions.items() if precision >= target]
    assert kept.threshold == (min(enough) if enough else None)
    if enough:
        above = scores >= np.float32(kept.threshold)
        assert (kept.images, kept.precision) == (above.sum(), right[above].mean())
        assert kept.coverage == kept.images / len(scores)
        assert kept.interval == wilson_interval(int(right[above].sum()), kept.images)


@given(scored)
def test_groups_hold_every_image_once(rows):
    scores, right = rows
    for groups in (group_by_score(scores, right), group_by_agreement(scores, right)):
        assert sum(group.images for group in groups) == len(scores)
        assert sum(group.images * group.accuracy for group in groups) == pytest.approx(right.sum())
    for group in group_by_score(scores, right):
        inside = (scores >= np.float32(group.low)) & ((scores < np.float32(group.high)) | (group.high == 1))
        assert inside.sum() == group.images


def test_agreement_is_grouped_by_its_values():
    shares = np.array([1 / 3, 2 / 3, 0.1 + 0.2 + 1 / 3 + 1 / 30, 1], np.float32)
    groups = group_by_agreement(shares, np.array([False, True, False, True]))
    assert [(group.low, group.images, group.accuracy) for group in groups] == [
        (0.3333, 1, 0),
        (0.6667, 2, 0.5),
        (1, 1, 1),
    ]


def test_classes_by_hand():
    """The figures of a textbook: three cats (two found), two dogs (one found), one bird (none)."""
    truth = np.array([0, 0, 0, 1, 1, 2], np.int32)
    label = np.array([0, 0, 1, 1, 0, 0], np.int32)
    cat, dog, bird = compute_class_metrics(truth, label, ["cat", "dog", "bird", "fish"])
    assert (cat.images, cat.predicted, cat.precision, cat.recall) == (3, 4, 2 / 4, 2 / 3)
    assert cat.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert (dog.precision, dog.recall, dog.f1) == (0.5, 0.5, 0.5)
    assert (bird.precision, bird.recall, bird.f1, bird.precision_interval) == (None, 0, 0, (0, 1))
    assert macro_f1((cat, dog, bird)) == pytest.approx((cat.f1 + 0.5) / 3)
    pairs = find_confused_classes(truth, label, ["cat", "dog", "bird", "fish"])
    assert [(p.truth_name, p.label_name, p.images, p.share) for p in pairs] == [
        ("cat", "dog", 1, 1 / 3),
        ("dog", "cat", 1, 1 / 2),
        ("bird", "cat", 1, 1),
    ]


def test_without_images_all_figures_are_empty():
    none, nothing = np.zeros(0, np.float32), np.zeros(0, bool)
    assert (
        compute_reliability(none, nothing).bins
        == group_by_score(none, nothing)
        == group_by_agreement(none, nothing)
        == ()
    )
    assert [kept.threshold for kept in find_operating_points(none, nothing)] == [None, None, None]
    assert compute_class_metrics(np.zeros(0, np.int32), np.zeros(0, np.int32), ["cat"]) == ()
