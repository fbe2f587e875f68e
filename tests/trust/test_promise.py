"""Promised precision: it holds at its rate, on thousands of truths drawn from synthetic collections."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy  # its statistics take a second to import: they are where they are used

from pipeline.errors import RequestError
from pipeline.trust.intervals import binomial_tail, clopper_pearson_lower, hypergeometric_tail, wilson_upper
from pipeline.trust.levels import NUM_LEVELS, choose_levels, count_scores
from pipeline.trust.promise import Judged, PrecisionTest, certify, certifying_mask, choose_and_certify
from pipeline.trust.thresholds import find_operating_points

SIZE = 20_000
DELTA = 0.1


def photographs(rng, size=SIZE):
    """Calibrated scores, most of them high: 85 % right."""
    scores = 1 / (1 + np.exp(-rng.normal(3.2, 2.6, size)))
    return scores.astype(np.float32), rng.random(size) < scores


def ties(rng):
    """Few scores, as the shares of a vote have them, and the best is not the most precise."""
    places = rng.integers(0, 5, SIZE)
    scores, precisions = np.array([0.2, 0.4, 0.6, 0.8, 1], np.float32), np.array([0.5, 0.9, 0.99, 1, 0.96])
    return scores[places], rng.random(SIZE) < precisions[places]


def sure_mistakes(rng):
    """The best twentieth is worse than what follows, as near duplicates of a wrong picture make it."""
    scores, right = photographs(rng)
    best = np.argsort(-scores, kind="stable")[: SIZE // 20]
    right[best] = rng.random(len(best)) < 0.97
    return scores, right


def hopeless(rng):
    """Scores that say nothing, of labels a little less precise than asked for: whatever passes is a broken promise."""
    return rng.random(SIZE), rng.random(SIZE) < 0.947


class Collection:
    """A selection of which truths are drawn: its scores, and the precision at each threshold."""

    def __init__(self, scores, right):
        self.scores, self.right = scores, right
        self.counts = list(count_scores(scores))
        order = np.argsort(-scores, kind="stable")
        self._descending = -scores[order]
        self._precisions = np.cumsum(right[order]) / np.arange(1, len(scores) + 1)

    def is_broken(self, promise):
        """Whether there is a promise, and it does not hold."""
        if promise.threshold is None:
            return False
        accepted = np.searchsorted(self._descending, -promise.threshold, side="right")
        return self._precisions[accepted - 1] < promise.target

    def certify(self, test, drawn, fitted=None):
        """A promise from these images, and from those that scores were fitted on."""
        known = None if fitted is None else self.judged(fitted)
        return choose_and_certify(test, self.judged(drawn), self.counts, len(self.scores), known)

    def judged(self, rows):
        """The truth of these images."""
        return Judged(self.scores[rows], self.right[rows])

    def promises(self, test, num_truths, repeats, seed=7):
        """Promises of as many random draws."""
        rng = np.random.default_rng(seed)
        levels = choose_levels(self.counts, len(self.scores), num_truths, test.passes, test.max_first_share)
        return [
            certify(test, self.judged(rng.choice(len(self.scores), num_truths, replace=False)), levels)
            for _ in range(repeats)
        ]


@pytest.mark.parametrize("make", [photographs, ties, sure_mistakes, hopeless])
@pytest.mark.parametrize(("target", "num_truths", "is_proven"), [(0.95, 500, False), (0.98, 1000, True)])
def test_a_promise_is_broken_no_more_often_than_delta(make, target, num_truths, is_proven):
    collection = Collection(*make(np.random.default_rng(7)))
    found = collection.promises(PrecisionTest(target, DELTA, is_proven), num_truths, 60 if make is hopeless else 150)
    assert sum(map(collection.is_broken, found)) <= scipy.stats.binom.ppf(0.999, len(found), DELTA)
    if make is photographs:
        assert np.mean([promise.threshold is not None for promise in found]) > 0.85


def test_it_holds_for_a_small_collection_of_which_most_is_known():
    """Without replacement the draw tells more, and the risk stays what it is."""
    rng = np.random.default_rng(3)
    for make in (lambda: photographs(rng, 300), lambda: (rng.random(300), np.arange(300) % 16 != 0)):
        collection = Collection(*make())
        kept = {}
        for is_proven in (False, True):
            found = collection.promises(PrecisionTest(0.95, DELTA, is_proven), 200, 40)
            assert sum(map(collection.is_broken, found)) <= scipy.stats.binom.ppf(0.999, len(found), DELTA)
            kept[is_proven] = np.mean([promise.coverage for promise in found])
        assert kept[True] >= kept[False]
    everything = collection.certify(PrecisionTest(0.9, 1e-9, proven_random=True), np.arange(300))
    assert (everything.coverage, everything.precision_low) == (1, collection.right.mean())


def test_images_that_scores_were_fitted_on_count_as_what_they_are():
    """They are all right here, or all wrong, unlike the others: a promise that forgot them would be broken."""
    rng = np.random.default_rng(5)
    for kind in (True, False):
        scores, right = photographs(rng, 3000)
        fitted = rng.choice(3000, 150, replace=False)
        right[fitted] = kind
        collection, others = Collection(scores, right), np.setdiff1d(np.arange(3000), fitted)
        for is_proven in (False, True):
            test = PrecisionTest(0.9, DELTA, is_proven)
            found = [collection.certify(test, rng.choice(others, 500, replace=False), fitted) for _ in range(40)]
            assert sum(map(collection.is_broken, found)) <= scipy.stats.binom.ppf(0.999, len(found), DELTA)
            assert np.mean([promise.threshold is not None for promise in found]) > 0.9
            assert {(promise.num_fitted, promise.num_certifying) for promise in found} == {(150, 500)}
    forgetful = [collection.certify(test, rng.choice(others, 500, replace=False)) for _ in range(50)]
    assert np.mean(list(map(collection.is_broken, forgetful))) > 0.5


def test_an_observed_threshold_misses_its_target_half_of_the_time():
    """So the proofs above can fail."""
    rng = np.random.default_rng(7)
    collection = Collection(*photographs(rng))
    bad = []
    for _ in range(100):
        judged = collection.judged(rng.choice(SIZE, 1000, replace=False))
        (point,) = find_operating_points(judged.scores_n, judged.right_n, (0.95,))
        promise = collection.certify(PrecisionTest(0.95, DELTA), np.arange(0))
        object.__setattr__(promise, "threshold", point.threshold)
        bad.append(collection.is_broken(promise))
    assert 0.35 < np.mean(bad) < 0.75


def test_the_risk_is_close_to_delta_in_the_worst_case():
    """Where all levels are a little too bad, the first test is a coin of the stated risk, and not far from it."""
    collection = Collection(*hopeless(np.random.default_rng(7)))
    found = collection.promises(PrecisionTest(0.95, 0.4), 1000, 60)
    assert np.mean([promise.threshold is not None for promise in found]) > 0.15


@pytest.mark.parametrize(("target", "num_truths", "least"), [(0.95, 500, 0.69), (0.98, 1000, 0.40)])
def test_how_much_is_kept(target, num_truths, least):
    """Half of the truths for thresholds, half to certify, kept 61 and 26 %; no test could keep 80 or 63 %."""
    collection = Collection(*photographs(np.random.default_rng(7)))
    found = collection.promises(PrecisionTest(target, DELTA), num_truths, 60)
    assert least < np.mean([promise.coverage for promise in found]) < {0.95: 0.8, 0.98: 0.63}[target]


@pytest.mark.parametrize(("target", "least"), [(0.95, 45), (0.98, 114), (0.99, 230)])
def test_the_smallest_number_of_truths_that_certifies(target, least):
    """ceil(ln delta / ln target) of them, all accepted and right; with one less nothing is promised."""
    assert least == math.ceil(math.log(0.1) / math.log(target))
    collection, test = Collection(np.ones(9999, np.float32), np.ones(9999, bool)), PrecisionTest(target, DELTA)
    promise = collection.certify(test, np.arange(least))
    assert (promise.threshold, promise.missing, promise.accepted, promise.coverage) == (1, 0, least, 1)
    assert promise.precision_low == pytest.approx(0.1 ** (1 / least), abs=1e-8)
    assert promise.least_certifying == least
    fewer = collection.certify(test, np.arange(least - 1))
    assert (fewer.threshold, fewer.missing, fewer.levels) == (None, 1, ())
    none = collection.certify(test, np.arange(0))
    assert (none.threshold, none.missing, none.precision_low) == (None, least, 0)


def test_the_missing_truths_suffice_if_all_are_right():
    collection = Collection(np.full(9999, 0.7, np.float32), np.arange(9999) >= 20)
    test = PrecisionTest(0.95, DELTA)
    promise = collection.certify(test, np.arange(200))
    assert (promise.threshold, promise.accepted, promise.right) == (None, 200, 180)
    more = promise.missing
    assert collection.certify(test, np.arange(200 + more)).threshold == np.float32(0.7)
    assert collection.certify(test, np.arange(199 + more)).threshold is None


@pytest.mark.parametrize("is_proven", [False, True])
def test_the_expected_number_of_truths_suffices_about_half_of_the_time_and_much_fewer_do_not(is_proven):
    test = PrecisionTest(0.95, DELTA, is_proven)
    collection = Collection(np.full(SIZE, 0.5), np.arange(SIZE) % 100 >= 3)  # 97 % are right
    needed = collection.certify(test, np.arange(100)).needed
    assert needed is not None
    assert (needed.judged, needed.right) == (100, 97)
    for truths, low, high in ((needed.truths, 0.4, 0.9), (needed.truths // 3, 0, 0.4)):
        found = collection.promises(test, truths, 80)
        assert low < np.mean([promise.threshold is not None for promise in found]) < high


def test_no_more_truths_are_missing_at_the_least_than_are_expected_to_do():
    """Once "at least 4,367 more" where about 180 more would do, because they allow a stricter threshold."""
    collection, rng = Collection(*photographs(np.random.default_rng(7))), np.random.default_rng(0)
    found = [collection.certify(PrecisionTest(0.99, DELTA), rng.choice(SIZE, 240, replace=False)) for _ in range(4)]
    pairs = [(each.missing, each.needed.truths - 240) for each in found if each.needed and each.needed.truths]
    assert pairs
    assert all(0 < missing <= expected for missing, expected in pairs)


def test_no_number_of_truths_is_named_where_labels_are_too_rarely_right():
    """Once "at least 3 more are needed" was said of labels of which each second one is wrong."""
    rng = np.random.default_rng(0)
    for num_truths, target in ((100, 0.98), (200, 0.95)):
        collection = Collection(rng.random(5000), rng.random(5000) < 0.5)
        promise = collection.certify(PrecisionTest(target, DELTA), rng.choice(5000, num_truths, replace=False))
        assert promise.threshold is None
        assert promise.needed.truths is None
        assert promise.needed.right < target * promise.needed.judged
    assert collection.certify(PrecisionTest(0.95, DELTA), np.arange(10)).needed is None  # too few to tell


def test_levels_are_nested_tested_in_order_and_stop_at_the_first_failure():
    collection = Collection(*photographs(np.random.default_rng(7)))
    drawn = np.random.default_rng(8).choice(SIZE, 2000, replace=False)
    promise = collection.certify(PrecisionTest(0.95, DELTA), drawn)
    thresholds = [level.threshold for level in promise.levels]
    assert thresholds == sorted(set(thresholds), reverse=True)
    assert 1 < len(thresholds) <= NUM_LEVELS
    for level in promise.levels:
        above = collection.scores[drawn] >= np.float32(level.threshold)
        assert (level.accepted, level.right) == (above.sum(), collection.right[drawn][above].sum())
        assert level.images == (collection.scores >= np.float32(level.threshold)).sum()
    lows = [scipy.stats.beta.ppf(DELTA, level.right, level.accepted - level.right + 1) for level in promise.levels]
    assert all(low >= 0.95 for low in lows[:-1])
    assert lows[-1] < 0.95
    assert promise.threshold == thresholds[-2]
    assert promise.precision_low == pytest.approx(lows[-2], abs=1e-7)
    assert promise.coverage == (collection.scores >= np.float32(promise.threshold)).mean()


def test_labels_do_not_move_the_levels_and_batches_do_not_either():
    scores, right = photographs(np.random.default_rng(7))
    test = PrecisionTest(0.95, DELTA)
    drawn = np.arange(1000)
    everything = Collection(scores, right | True).certify(test, drawn)
    nothing = Collection(scores, right & False).certify(test, drawn)
    assert len(everything.levels) == NUM_LEVELS
    assert [level.threshold for level in nothing.levels] == [everything.levels[0].threshold]
    ((values, images),) = count_scores(scores)
    batches = zip(np.array_split(values, 7), np.array_split(images, 7), strict=True)
    cut = choose_levels(batches, len(scores), 1000, test.passes, test.max_first_share)
    assert cut.thresholds_L.tolist() == [level.threshold for level in everything.levels]
    assert cut.images_L.tolist() == [level.images for level in everything.levels]
    assert everything.levels[-1].images == len(scores)


def test_the_bounds_are_those_of_the_exact_distributions():
    for right, total in ((1, 1), (45, 45), (99, 100), (857, 1000), (9900, 10_000)):
        for delta in (0.01, 0.1, 0.5):
            expected = scipy.stats.beta.ppf(delta, right, total - right + 1)
            assert clopper_pearson_lower(right, total, delta) == pytest.approx(expected, abs=1e-8)
        assert binomial_tail(right, total, 0.9) == pytest.approx(scipy.stats.binom.sf(right - 1, total, 0.9), rel=1e-9)
    assert clopper_pearson_lower(0, 0, 0.1) == clopper_pearson_lower(0, 9, 0.1) == 0
    share = wilson_upper(45, 250, z=1.0)
    assert 250 * share - math.sqrt(250 * share * (1 - share)) == pytest.approx(45)
    rng = np.random.default_rng(1)
    for _ in range(300):
        total = rng.integers(1, 300)
        good, drawn = rng.integers(0, total + 1, 2)
        right = rng.integers(0, drawn + 1)
        expected = scipy.stats.hypergeom.sf(right - 1, total, good, drawn)
        assert hypergeometric_tail(int(right), int(drawn), int(good), int(total)) == pytest.approx(expected, abs=1e-12)


def test_the_lower_bound_is_where_the_test_begins_to_pass():
    for is_proven in (False, True):
        for wrong, truths, images, known in ((0, 40, 60, (0, 0)), (3, 90, 200, (50, 47)), (1, 30, 30, (0, 0))):
            low = PrecisionTest(0.5, DELTA, is_proven).lower_bound(wrong, truths, images, known)
            assert 0.5 < low < 1
            steps = [round(low, 6) - 1e-5, round(low, 6) + 1e-5]
            passes = [PrecisionTest(step, DELTA, is_proven).passes(wrong, truths, images, known) for step in steps]
            assert passes == [True, False]


def test_a_draw_without_replacement_never_passes_less_than_the_larger_of_both_chances():
    """On somebody's word, truths may be a draw of either kind: so both have to pass."""
    for wrong in range(5):
        proven, said = PrecisionTest(0.9, DELTA, proven_random=True), PrecisionTest(0.9, DELTA)
        for images in (60, 100, 1000):
            assert said.chance(wrong, 50, images) >= proven.chance(wrong, 50, images)
            assert said.chance(wrong, 50, images) >= binomial_tail(50 - wrong, 50, 0.9)
    assert proven.chance(0, 10, 100, known=(90, 90)) == 0
    assert proven.chance(0, 5, 100, known=(90, 70)) == 1


@pytest.mark.parametrize(("target", "delta"), [(0, 0.1), (1, 0.1), (98, 0.1), (0.9, 0), (0.9, 1)])
def test_wrong_numbers(target, delta):
    with pytest.raises(RequestError, match="must be above 0 and below 1"):
        PrecisionTest(target, delta)


def test_for_old_calibrations_half_of_the_truths_certify_in_every_run():
    keys = [f"{number:06d}" for number in range(4000)]
    half = certifying_mask(["s3://b/a.tar"] * 4000, keys)
    assert 0.47 < half.mean() < 0.53
    assert 0.47 < (half == certifying_mask(["s3://b/b.tar"] * 4000, keys)).mean() < 0.53
    assert certifying_mask(["s3://b/a.tar"], keys[7:8])[0] == half[7]
