"""Temperature scaling of overconfident and underconfident pools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_outputs import calibrated, top_k

from pipeline.errors import RequestError
from pipeline.trust.reliability import compute_reliability
from pipeline.trust.temperature import PooledProbs, cross_validate, fit_temperature

NUM_CLASSES = 20


def at(probs, temperature):
    powers = probs ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def pooled(probs, truth, k):
    labels, scores = top_k(probs, k)
    same = labels == np.array(truth)[:, None]
    places = np.where(same.any(axis=1), same.argmax(axis=1), -1)
    return PooledProbs.from_top_k(scores, places, probs.shape[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.2, 5))
def test_likelihood_and_scores_are_those_of_the_whole_distribution(seed, k, temperature):
    """Against K numbers written out, the rest spread evenly."""
    probs, truth = calibrated(6, 6, seed)
    labels, scores = top_k(probs, k)
    whole = np.repeat((1 - scores.sum(axis=1, keepdims=True)) / max(1, 6 - k), 6, axis=1).clip(2**-24 / 6)
    np.put_along_axis(whole, labels, scores, axis=1)
    expected = at(whole, temperature)
    found = pooled(probs, truth, k)
    np.testing.assert_allclose(np.exp(-found.nll(temperature)), expected[range(6), truth], rtol=1e-3)
    np.testing.assert_allclose(found.scores(temperature), expected.max(axis=1), rtol=1e-3)


@pytest.mark.parametrize("true_temperature", [0.3, 0.6, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_found_again(true_temperature):
    """Truths are drawn from p; shown is p^T, so that T brings p back. All classes are stored."""
    probs, truth = calibrated(4_000, NUM_CLASSES)
    found = fit_temperature(pooled(at(probs, 1 / true_temperature), truth, NUM_CLASSES))
    assert found == pytest.approx(true_temperature, rel=0.06)


def test_it_is_the_best_there_is():
    probs, truth = calibrated(300, NUM_CLASSES, seed=3)
    images = pooled(at(probs, 0.4), truth, 5)
    found = fit_temperature(images)
    others = [images.nll(found * factor).mean() for factor in np.geomspace(0.1, 10, 400)]
    assert images.nll(found).mean() <= min(others) + 1e-9


@pytest.mark.parametrize(("shown", "k"), [(0.4, 5), (2.2, 10)])
def test_overconfident_and_underconfident_pools_are_calibrated(shown, k):
    probs, truth = calibrated(1_500, NUM_CLASSES, seed=2, sharpness=4)
    images = pooled(at(probs, shown), truth, k)
    right = images.log_truth_N == images.logs_Nk[:, 0]
    before, held = compute_reliability(images.scores(1.0), right), cross_validate(images)
    after = compute_reliability(held.scores_N, right)
    assert before.ece > 4 * before.floor
    assert after.ece < 2 * after.floor
    assert held.nll_N.mean() < images.nll(1.0).mean() - 0.05


@pytest.mark.parametrize("everything", [True, False])
def test_truths_that_do_not_determine_a_temperature_are_refused(everything):
    probs, _ = calibrated(100, NUM_CLASSES)
    truth = probs.argmax(axis=1) if everything else probs.argmin(axis=1)
    with pytest.raises(RequestError, match="100 truths do not determine the temperature"):
        fit_temperature(pooled(probs, truth, NUM_CLASSES))
