"""The log-stack: optimal, convex, no weight below 0, and better than one temperature where members are unequal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import RequestError
from pipeline.labels import NO_CLASS
from pipeline.trust import stack
from pipeline.trust import temperature as warm
from pipeline.trust.stack import MemberLogProbs, fit_stack, pool_members, score_stack

K = 12


def made_up(num_images: int, noises: list[float], seed: int = 0, sharpness: float = 1.0) -> MemberLogProbs:
    """Members that see the same evidence, each through noise of its own; 9 stands for one that sees nearly nothing."""
    rng = np.random.default_rng(seed)
    truth_N = rng.integers(K, size=num_images)
    evidence = 3.0 * (np.arange(K) == truth_N[:, None]) + rng.normal(size=(num_images, K))
    logits = [sharpness * (evidence + noise * rng.normal(size=(num_images, K))) / (1 + noise) for noise in noises]
    logs = torch.tensor(np.stack(logits, axis=1)).log_softmax(dim=2).float()
    return MemberLogProbs(logs, torch.from_numpy(truth_N))


def test_it_beats_one_temperature_on_unequal_members():
    log_probs = made_up(300, [0.2, 1.5, 9.0, 9.0])
    held = stack.cross_validate(log_probs)
    for rule in ("mean", "geometric"):
        alone = warm.cross_validate(pool_members(log_probs, np.ones(4), rule))
        assert held.nll_N.mean() < alone.nll_N.mean() - 0.05
    weights_M, strength = fit_stack(log_probs)
    assert strength in stack.STRENGTHS
    assert weights_M[0] > weights_M[1] >= 0
    assert (weights_M[2:] < 0.1 * weights_M[0]).all()


def test_where_no_class_fits_the_scores_of_a_log_stack_fall_and_its_weights_keep_their_shares():
    log_probs = made_up(300, [0.2, 1.5])
    with_none = MemberLogProbs(log_probs.logs_NMK, log_probs.truth_N.clone())
    with_none.truth_N[::3] = NO_CLASS
    plain_M, _ = fit_stack(log_probs.take(np.flatnonzero(with_none.fits_N)))
    weights_M, _ = fit_stack(with_none)
    np.testing.assert_allclose(weights_M / weights_M.sum(), plain_M / plain_M.sum())
    assert weights_M.sum() < 0.7 * plain_M.sum()
    held, before = stack.cross_validate(with_none), score_stack(with_none, plain_M)
    assert held.nll_N.mean() < before.nll_N.mean()
    assert held.right_N[::3].sum() == 0
    assert abs(held.scores_N.mean() - held.right_N.mean()) < 0.1 < before.scores_N.mean() - before.right_N.mean()
    # its scale is the best there is
    best = score_stack(with_none, weights_M).nll_N.mean()
    assert all(best <= score_stack(with_none, factor * weights_M).nll_N.mean() for factor in (0.9, 0.99, 1.01, 1.1))


def test_few_truths_do_no_harm_to_equal_members():
    log_probs, fresh = made_up(60, [1.0] * 4, seed=1), made_up(2_000, [1.0] * 4, seed=2)
    weights_M, _ = fit_stack(log_probs)
    temperature = warm.fit_temperature(pool_members(log_probs, np.ones(4), "geometric"))
    at_once = pool_members(fresh, np.ones(4), "geometric").nll(temperature).mean()
    assert score_stack(fresh, weights_M).nll_N.mean() < at_once + 0.02


def test_the_weights_are_the_best_there_are():
    log_probs = made_up(200, [0.3, 0.8, 9.0], seed=3)
    weights_M = stack._fit_weights(log_probs, 0.01, None)
    value, gradient_M, _ = stack._objective(log_probs, weights_M, 0.01)
    assert ((np.abs(gradient_M) < 1e-6) | ((weights_M == 0) & (gradient_M > 0))).all()
    rng = np.random.default_rng(0)
    for _ in range(20):
        other_M = np.clip(weights_M + rng.normal(size=3) * rng.choice([1e-3, 0.1, 2]), 0, None)
        assert stack._objective(log_probs, other_M, 0.01)[0] >= value - 1e-12
    np.testing.assert_allclose(stack._fit_weights(log_probs, 0.01, np.array([5.0, 0.0, 5.0])), weights_M, atol=1e-4)


def test_gradient_and_hessian_match_finite_differences():
    log_probs, at_M, step = made_up(50, [0.5, 2.0], seed=4), np.array([0.7, 0.4]), 1e-4
    _, gradient_M, hessian_MM = stack._objective(log_probs, at_M, 0.3)
    for place, unit_M in enumerate(np.eye(2)):
        ahead, behind = (stack._objective(log_probs, at_M + sign * step * unit_M, 0.3) for sign in (1, -1))
        assert (ahead[0] - behind[0]) / (2 * step) == pytest.approx(gradient_M[place], abs=1e-5)
        np.testing.assert_allclose((ahead[1] - behind[1]) / (2 * step), hessian_MM[place], atol=1e-4)


def test_one_member_is_a_temperature():
    log_probs = made_up(200, [0.5], seed=5, sharpness=2.0)
    weights_M, _ = fit_stack(log_probs)
    assert weights_M[0] == pytest.approx(
        1 / warm.fit_temperature(pool_members(log_probs, np.ones(1), "mean")), rel=1e-3
    )


def test_the_strongest_penalty_gives_the_geometric_pool_at_its_temperature():
    log_probs = made_up(200, [0.2, 2.0], seed=6)
    weights_M = stack._fit_weights(log_probs, 1e6, None)
    assert weights_M[0] == pytest.approx(weights_M[1], rel=1e-3)
    temperature = warm.fit_temperature(pool_members(log_probs, np.ones(2), "geometric"))
    assert weights_M.sum() == pytest.approx(1 / temperature, rel=1e-3)


@pytest.mark.parametrize("right", [True, False])
def test_truths_that_do_not_determine_the_weights_are_refused(right):
    truth_N = torch.arange(100) % K
    said = truth_N if right else (truth_N + 1 + torch.arange(100) // K) % K
    logs = torch.full((100, 2, K), -8.0).scatter_(2, said[:, None, None].expand(-1, 2, 1), 0.0)
    with pytest.raises(RequestError, match="do not determine the weights"):
        fit_stack(MemberLogProbs(logs, truth_N))
