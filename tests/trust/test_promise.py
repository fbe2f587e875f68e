"""Promised precision: it holds at its rate, on thousands of truths drawn from synthetic collections."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up_outputs import calibrated, write_csv, write_output
from scipy.stats import beta, binom

from pipeline.errors import RequestError
from pipeline.output.opening import open_ledger
from pipeline.trust.intervals import binomial_tail, clopper_pearson_lower, wilson_upper
from pipeline.trust.matched import read_matched_images
from pipeline.trust.promise import NUM_LEVELS, certify, certifying_mask
from pipeline.trust.thresholds import find_operating_points
from pipeline.trust.truth_file import read_truth

SIZE = 200_000  # so large that drawing 2,000 of it is quick
DELTA = 0.1


def photographs(rng):
    """Calibrated scores, most of them high: 85 % right."""
    scores = 1 / (1 + np.exp(-rng.normal(3.2, 2.6, SIZE)))
    return scores.astype(np.float32), rng.random(SIZE) < scores


def ties(rng):
    """Few scores, as the shares of a vote have them, and the best is not the most precise."""
    places = rng.integers(0, 5, SIZE)
    scores, precisions = np.array([0.2, 0.4, 0.6, 0.8, 1], np.float32), np.array([0.5, 0.9, 0.99, 1, 0.96])
    return scores[places], rng.random(SIZE) < precisions[places]


def hopeless(rng):
    """Scores that say nothing, of labels a little less precise than asked for: whatever passes is a broken promise."""
    return rng.random(SIZE), rng.random(SIZE) < 0.947


def draws(make, num_truths, repeats=200):
    """Truths drawn at random, some of which certify, and whether a threshold keeps a promise for the collection."""
    rng = np.random.default_rng(7)
    scores, right = make(rng)
    order = np.argsort(-scores, kind="stable")
    precisions = np.cumsum(right[order]) / np.arange(1, SIZE + 1)

    def broken(threshold, target):
        return precisions[np.searchsorted(-scores[order], -threshold, side="right") - 1] < target

    for _ in range(repeats):
        drawn = rng.choice(SIZE, num_truths, replace=False)
        yield scores[drawn], right[drawn], rng.random(num_truths) < 0.5, broken


@pytest.mark.parametrize("make", [photographs, ties, hopeless])
@pytest.mark.parametrize(("target", "num_truths"), [(0.95, 500), (0.95, 2000), (0.98, 2000)])
def test_a_promise_is_broken_no_more_often_than_delta(make, target, num_truths):
    found = [
        (certify(scores, right, target, DELTA, certifying_N=certifies).threshold, broken)
        for scores, right, certifies, broken in draws(make, num_truths)
    ]
    bad = sum(threshold is not None and broken(threshold, target) for threshold, broken in found)
    assert bad <= binom.ppf(0.999, len(found), DELTA)
    if make is photographs:
        assert np.mean([threshold is not None for threshold, _ in found]) > 0.8


def test_it_holds_with_levels_from_the_whole_collection():
    collection, _ = photographs(np.random.default_rng(7))
    found = [
        (certify(s, r, 0.95, DELTA, certifying_N=c, levels_from=collection).threshold, broken)
        for s, r, c, broken in draws(photographs, 500)
    ]
    bad = sum(threshold is not None and broken(threshold, 0.95) for threshold, broken in found)
    assert bad <= binom.ppf(0.999, len(found), DELTA)
    assert np.mean([threshold is not None for threshold, _ in found]) > 0.8


def test_an_observed_threshold_misses_its_target_half_of_the_time():
    """So the proof above can fail."""
    bad = [
        broken(find_operating_points(scores, right, (0.95,))[0].threshold, 0.95)
        for scores, right, _, broken in draws(photographs, 1000)
    ]
    assert 0.35 < np.mean(bad) < 0.75


def test_the_risk_is_close_to_delta_in_the_worst_case():
    """Where all levels are a little too bad, the first test is a coin of the stated risk, and not far from it."""
    bad = [
        certify(scores, right, 0.95, DELTA, certifying_N=certifies).threshold is not None
        for scores, right, certifies, _ in draws(hopeless, 2000)
    ]
    assert np.mean(bad) > 0.02


def test_with_more_truth_more_is_kept_and_never_much_more_than_is_possible():
    kept = [
        np.mean([certify(s, r, 0.95, certifying_N=c).coverage for s, r, c, _ in draws(photographs, number, 100)])
        for number in (500, 1000, 4000)
    ]
    assert 0.4 < kept[0] < kept[1] < kept[2] < 0.8


@pytest.mark.parametrize(("target", "least"), [(0.95, 45), (0.98, 114), (0.99, 230)])
def test_the_smallest_number_of_truths_that_certifies(target, least):
    """ceil(ln delta / ln target) of them, all accepted and right; with one less nothing is promised."""
    assert least == math.ceil(math.log(0.1) / math.log(target))
    scores = np.ones(2 * least)
    certifies = np.arange(2 * least) % 2 == 0
    promise = certify(scores, scores > 0, target, certifying_N=certifies)
    assert (promise.threshold, promise.missing, promise.accepted, promise.coverage) == (1, 0, least, 1)
    assert promise.precision_low == pytest.approx(0.1 ** (1 / least), abs=1e-8)
    assert promise.least_certifying == least
    fewer = certify(scores[1:], scores[1:] > 0, target, certifying_N=certifies[1:])
    assert (fewer.threshold, fewer.missing, fewer.levels) == (None, 2, ())
    none = certify(scores[:0], scores[:0] > 0, target, certifying_N=certifies[:0])
    assert (none.threshold, none.missing, none.precision_low) == (None, 2 * least, 0)


def test_the_missing_truths_suffice_if_all_are_right():
    scores = np.full(400, 0.7)
    right = np.arange(400) >= 40
    certifies = np.arange(400) % 2 == 0
    promise = certify(scores, right, 0.95, certifying_N=certifies)
    assert (promise.threshold, promise.accepted, promise.right) == (None, 200, 180)
    more = promise.missing

    def with_more(number):
        return certify(
            np.full(400 + number, 0.7),
            np.append(right, np.ones(number, bool)),
            0.95,
            certifying_N=np.arange(400 + number) % 2 == 0,
        ).threshold

    assert with_more(more) == 0.7
    assert with_more(more - 4) is None


def test_levels_are_nested_tested_in_order_and_stop_at_the_first_failure():
    scores, right, certifies, _ = next(draws(photographs, 2000, 1))
    promise = certify(scores, right, 0.95, certifying_N=certifies)
    thresholds = [level.threshold for level in promise.levels]
    assert thresholds == sorted(set(thresholds), reverse=True)
    assert 1 < len(thresholds) <= NUM_LEVELS
    assert set(np.float32(thresholds)) <= set(scores[~certifies])
    for level in promise.levels:
        above = certifies & (scores >= np.float32(level.threshold))
        assert (level.accepted, level.right) == (above.sum(), right[above].sum())
    lows = [beta.ppf(DELTA, level.right, level.accepted - level.right + 1) for level in promise.levels]
    assert all(low >= 0.95 for low in lows[:-1])
    assert lows[-1] < 0.95
    assert promise.threshold == thresholds[-2]
    assert promise.precision_low == pytest.approx(lows[-2], abs=1e-7)
    assert promise.coverage == (scores >= np.float32(promise.threshold)).mean()


def test_labels_that_certify_do_not_move_the_levels():
    scores, right, certifies, _ = next(draws(photographs, 2000, 1))
    one = certify(scores, right | certifies, 0.95, certifying_N=certifies)
    assert len(one.levels) == NUM_LEVELS
    other = certify(scores, right & ~certifies, 0.95, certifying_N=certifies)
    assert [level.threshold for level in other.levels] == [one.levels[0].threshold]


def test_the_bound_is_that_of_the_beta_distribution():
    for right, total in ((1, 1), (45, 45), (99, 100), (857, 1000), (9900, 10_000)):
        for delta in (0.01, 0.1, 0.5):
            expected = beta.ppf(delta, right, total - right + 1)
            assert clopper_pearson_lower(right, total, delta) == pytest.approx(expected, abs=1e-8)
        assert binomial_tail(right, total, 0.9) == pytest.approx(binom.sf(right - 1, total, 0.9), rel=1e-9)
    assert clopper_pearson_lower(0, 0, 0.1) == clopper_pearson_lower(0, 9, 0.1) == 0
    share = wilson_upper(45, 250, z=1.0)
    assert 250 * share - math.sqrt(250 * share * (1 - share)) == pytest.approx(45)


@pytest.mark.parametrize(("target", "delta"), [(0, 0.1), (1, 0.1), (98, 0.1), (0.9, 0), (0.9, 1)])
def test_wrong_numbers(target, delta):
    with pytest.raises(RequestError, match="must be above 0 and below 1"):
        certify(np.ones(3), np.ones(3, bool), target, delta, certifying_N=np.ones(3, bool))


def test_half_of_the_truths_certify_in_every_run_and_order(tmp_path):
    keys = [f"{number:06d}" for number in range(4000)]
    half = certifying_mask(["s3://b/a.tar"] * 4000, keys)
    assert 0.47 < half.mean() < 0.53
    assert 0.47 < (half == certifying_mask(["s3://b/b.tar"] * 4000, keys)).mean() < 0.53
    assert certifying_mask(["s3://b/a.tar"], keys[7:8])[0] == half[7]

    probs, truth = calibrated(100, 4)
    out = write_output(tmp_path / "out", probs[None], truth)
    ledger, storage = open_ledger(out, None, no_sign_request=False)
    rows = [(f"{number:05d}", truth[number]) for number in range(99, 39, -1)]
    given = read_truth(str(write_csv(tmp_path / "t.csv", rows)), storage, [f"class {c}" for c in range(4)])
    matched = read_matched_images(ledger, ledger.job(), given)
    same = certifying_mask(["/data/a.tar"] * 60, [f"{number:05d}" for number in range(40, 100)])
    assert matched.certifying_N.tolist() == same.tolist()
    assert read_matched_images(ledger, ledger.job(), None).certifying_N[40:].tolist() == same.tolist()
