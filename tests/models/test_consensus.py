"""The consensus against a plain float64 reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.models.consensus import combine, entropy, stable_topk

RULES = ("mean", "geometric", "vote")
TINY = float(np.finfo(np.float32).tiny)


@st.composite
def ensembles(draw, max_members=5):
    """Probabilities (M, B, K) with near certainties and exact zeros and ones, and factors (M,)."""
    num_members, batch, classes = draw(st.integers(1, max_members)), draw(st.integers(1, 3)), draw(st.integers(1, 7))
    logits = draw(arrays(np.float64, (num_members, batch, classes), elements=st.integers(-40, 40).map(lambda n: n / 4)))
    sharp = draw(arrays(np.bool_, (num_members, batch)))  # these rows are one-hot
    probs = np.exp(logits - logits.max(axis=2, keepdims=True))
    probs = np.where(
        sharp[:, :, None], np.eye(classes)[logits.argmax(axis=2)], probs / probs.sum(axis=2, keepdims=True)
    )
    factors = draw(
        st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 7.0]), min_size=num_members, max_size=num_members)
    )
    return probs.astype(np.float32), np.array(factors)


def h(p):
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=-1)


def reference(probs, factors, rule):
    """Pooled distribution, weighted votes, and disagreement by the formulas of SPEC section 4."""
    p = probs.astype(np.float64)
    w = factors / factors.sum()
    mean = np.einsum("m,mbk->bk", w, p)
    votes = np.zeros_like(mean)
    for m in range(len(w)):
        for b in range(mean.shape[0]):
            votes[b, p[m, b].argmax()] += w[m]
    if rule == "mean":
        pooled = mean
    elif rule == "geometric":
        product = np.prod(np.maximum(p, TINY) ** w[:, None, None], axis=0)
        pooled = product / product.sum(axis=1, keepdims=True)
    else:
        pooled = votes
    return pooled, mean, votes, h(mean) - np.einsum("m,mb->b", w, h(p))


def run(probs, factors, rule, top_k=3):
    return combine(torch.from_numpy(probs), torch.tensor(factors), rule, top_k)


@settings(max_examples=150, deadline=None)
@given(ensembles(), st.sampled_from(RULES), st.integers(1, 9))
def test_it_agrees_with_the_formulas(ensemble, rule, top_k):
    probs, factors = ensemble
    result = run(probs, factors, rule, top_k)
    pooled, mean, votes, disagreement = reference(probs, factors, rule)
    labels, scores = result.labels_Bk.numpy(), result.scores_Bk.numpy()
    assert labels.shape == scores.shape == (probs.shape[1], min(top_k, probs.shape[2]))
    np.testing.assert_allclose(scores, -np.sort(-pooled, axis=1)[:, : labels.shape[1]], atol=1e-6)
    np.testing.assert_allclose(scores, np.take_along_axis(pooled, labels, axis=1), atol=1e-6)
    np.testing.assert_allclose(result.agreement_B, np.take_along_axis(votes, labels[:, :1], axis=1)[:, 0], atol=1e-6)
    np.testing.assert_allclose(result.entropy_B, h(pooled), atol=1e-5)
    np.testing.assert_allclose(result.disagreement_B, disagreement, atol=1e-5)
    assert (result.disagreement_B >= 0).all()
    assert all(len(set(row)) == len(row) for row in labels.tolist())
    if rule == "vote":
        for row, share, average in zip(labels, votes, mean, strict=True):
            for better, worse in itertools.pairwise(row):
                if abs(share[better] - share[worse]) < 1e-9:
                    assert average[better] >= average[worse] - 1e-6


@settings(max_examples=60, deadline=None)
@given(ensembles(), st.sampled_from(RULES), st.sampled_from([1e-30, 0.01, 3.0, 1e30, 1e300]))
def test_only_the_ratio_of_factors_counts(ensemble, rule, scale):
    probs, factors = ensemble
    plain, scaled = run(probs, factors, rule), run(probs, factors * scale, rule)
    torch.testing.assert_close(plain.scores_Bk, scaled.scores_Bk, atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.disagreement_B, scaled.disagreement_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.agreement_B.max(), scaled.agreement_B.max(), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(ensembles(), st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_count(ensemble, rule, random):
    probs, factors = ensemble
    order = list(range(len(factors)))
    random.shuffle(order)
    plain, shuffled = run(probs, factors, rule), run(probs[order], factors[order], rule)
    torch.testing.assert_close(plain.scores_Bk, shuffled.scores_Bk, atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.entropy_B, shuffled.entropy_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.disagreement_B, shuffled.disagreement_B, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(ensembles(max_members=1), st.sampled_from(["mean", "geometric"]))
def test_one_member_is_its_own_consensus(ensemble, rule):
    probs, factors = ensemble
    result = run(probs, factors, rule, top_k=9)
    scores, labels = stable_topk(torch.from_numpy(probs[0]), 9)
    torch.testing.assert_close(result.scores_Bk, scores, atol=1e-6, rtol=0)
    if rule == "mean":
        assert torch.equal(result.labels_Bk, labels)
        assert torch.equal(result.scores_Bk, scores)
        assert (result.agreement_B == 1).all()
    assert (result.disagreement_B == 0).all()


def test_a_tied_vote_goes_to_the_higher_mean():
    probs = np.array([[[0.50, 0.10, 0.40]], [[0.05, 0.90, 0.05]]], dtype=np.float32)
    result = run(probs, np.array([1.0, 1.0]), "vote")
    assert result.labels_Bk.tolist() == [[1, 0, 2]]
    assert result.scores_Bk.tolist() == [[0.5, 0.5, 0.0]]
    assert result.agreement_B.tolist() == [0.5]


@pytest.mark.parametrize("shares", [(1, 2, 3), (0.1, 0.2, 0.3), (1, 6, 7), (3, 8, 11), (0.7, 0.1, 0.8)])
def test_votes_that_are_equal_on_paper_are_tied(shares):
    """Members 0 and 1 together weigh as much as member 2; rounding must not decide between them."""
    loser, winner = [0.51, 0.49], [0.01, 0.99]
    for order in ([0, 1, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1]):
        probs = np.array([[[loser, loser, winner][m]] for m in order], dtype=np.float32)
        assert run(probs, np.array(shares, dtype=float)[order], "vote").labels_Bk[0, 0] == 1


def test_a_majority_beats_a_higher_mean():
    probs = np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]], dtype=np.float32)
    assert run(probs, np.ones(3), "vote").labels_Bk[0, 0] == 0
    assert run(probs, np.ones(3), "mean").labels_Bk[0, 0] == 1


def test_the_geometric_pool_lets_one_member_veto():
    probs = np.array([[[0.98, 0.01, 0.01]], [[0.0, 0.6, 0.4]]], dtype=np.float32)
    result = run(probs, np.ones(2), "geometric")
    assert result.labels_Bk[0].tolist() == [1, 2, 0]
    assert result.scores_Bk[0, 2] < 1e-15
    assert run(probs, np.ones(2), "mean").labels_Bk[0, 0] == 0


@pytest.mark.parametrize("rule", RULES)
def test_members_that_are_certain_of_different_classes(rule):
    probs = np.eye(3, dtype=np.float32)[:2, None, :]
    result = run(probs, np.ones(2), rule)
    assert result.scores_Bk[0].tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert result.labels_Bk[0].tolist() == [0, 1, 2]  # of equal ones the first class comes first
    assert result.agreement_B.item() == 0.5
    assert result.entropy_B.item() == pytest.approx(np.log(2))
    assert result.disagreement_B.item() == pytest.approx(np.log(2))


@settings(max_examples=60, deadline=None)
@given(ensembles(), st.sampled_from(["mean", "geometric"]), st.sampled_from([0.05, 0.3, 0.9, 2.0, 20.0]))
def test_a_temperature_changes_scores_and_entropy_alone(ensemble, rule, temperature):
    probs, factors = ensemble
    plain = run(probs, factors, rule, top_k=9)
    warm = combine(torch.from_numpy(probs), torch.tensor(factors), rule, 9, temperature)
    powers = np.exp(np.log(np.maximum(reference(probs, factors, rule)[0], TINY)) / temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert torch.equal(warm.labels_Bk, plain.labels_Bk)
    assert torch.equal(warm.agreement_B, plain.agreement_B)
    assert torch.equal(warm.disagreement_B, plain.disagreement_B)
    np.testing.assert_allclose(warm.scores_Bk, -np.sort(-expected, axis=1), atol=1e-4)
    np.testing.assert_allclose(warm.entropy_B, h(expected), atol=1e-3)


def test_a_near_tie_stays_what_it_was_at_any_temperature():
    """At 20 both logarithms round to one number; the label must not become the class that comes first."""
    probs = np.array([[[0.3, np.nextafter(np.float32(0.3), np.float32(1)), 0.4 - 2**-26]]], np.float32)
    probs[0, 0, 2] = 0.1
    for temperature in (0.05, 0.7, 20.0):
        result = combine(torch.from_numpy(probs), torch.ones(1), "mean", 2, temperature)
        assert result.labels_Bk.tolist() == [[1, 0]]


def test_equal_values_keep_their_order():
    values = torch.zeros(2, 1000)
    values[1, 500] = 1
    scores, labels = stable_topk(values, 4)
    assert labels.tolist() == [[0, 1, 2, 3], [500, 0, 1, 2]]
    assert scores.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]


def test_entropy_of_a_certainty_is_zero_and_of_a_guess_is_the_largest():
    assert entropy(torch.tensor([1.0, 0.0])).item() == 0
    assert entropy(torch.full((8,), 1 / 8)).item() == pytest.approx(np.log(8))
