"""Members with classes of their own: what their probabilities become over the job's, by hand and by the formula."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torchvision import models as tv

from pipeline.config.members import MemberRequest
from pipeline.models.consensus import combine
from pipeline.models.ensemble import Ensemble, EnsembleOptions
from pipeline.models.lifting import Lifting
from pipeline.models.weights import resolve
from pipeline.storage import Storage

K = 5
OWN = (2, 2, 0, -1, -1)  # two classes of the job are one of its own, and it knows nothing of two


@pytest.fixture(scope="module")
def member(tmp_path_factory):
    """Makes a member of some number of classes, with a name of its own."""
    folder = tmp_path_factory.mktemp("members")

    def make(alias, num_classes, own_classes=(), factor=1.0):
        path = folder / f"{alias}.pth"
        torch.manual_seed(num_classes)
        torch.save(tv.squeezenet1_1(weights=None, num_classes=num_classes).state_dict(), path)
        found = resolve(MemberRequest.parse(f"{alias}:squeezenet1_1={path}"), None, Storage())
        spec = dataclasses.replace(found.spec, own_classes=own_classes, factor=factor)
        return dataclasses.replace(found, spec=spec)

    return make


@pytest.fixture(scope="module")
def usual(member):
    return member("usual", K).spec


def lift(usual, own_probs, *pool, rule="mean", factors=(1.0,), own_classes=OWN):
    """What becomes of a member's probabilities beside some that have the job's classes."""
    own = dataclasses.replace(usual, num_classes=len(own_probs), own_classes=own_classes)
    specs = [own, *(usual for _ in pool)]
    stack = Lifting(specs, torch.tensor([9.0, *factors], dtype=torch.float64), rule).stack
    return stack([torch.tensor([values]) for values in (own_probs, *pool)])[0, 0].tolist()


@pytest.mark.parametrize(
    ("own_probs", "pool", "lifted"),
    [
        # it has 0.4 and 0.6 of what it knows, which is 0.8 of all; 0.6 is divided as 4 to 1
        ((0.2, 0.5, 0.3), (0.4, 0.1, 0.3, 0.15, 0.05), (0.384, 0.096, 0.32, 0.15, 0.05)),
        # it agrees: nothing moves
        ((0.3, 0.2, 0.5), (0.4, 0.1, 0.3, 0.15, 0.05), (0.4, 0.1, 0.3, 0.15, 0.05)),
        # nothing is known of how to divide its 0.6: evenly
        ((0.4, 0.0, 0.6), (0.0, 0.0, 0.5, 0.5, 0.0), (0.15, 0.15, 0.2, 0.5, 0.0)),
        # shares of what is next to nothing are shares all the same
        ((0.4, 0.0, 0.6), (3e-30, 1e-30, 0.5, 0.5, 0.0), (0.225, 0.075, 0.2, 0.5, 0.0)),
        # it is certain of a class that nobody else has: it follows
        ((0.0, 1.0, 0.0), (0.4, 0.1, 0.3, 0.15, 0.05), (0.4, 0.1, 0.3, 0.15, 0.05)),
        ((1e-9, 1.0, 0.0), (0.4, 0.1, 0.3, 0.15, 0.05), (0.4, 0.1, 0.3, 0.15, 0.05)),
        # what it knows cannot be: it has nothing to divide
        ((0.5, 0.0, 0.5), (0.0, 0.0, 0.0, 0.25, 0.75), (0.0, 0.0, 0.0, 0.25, 0.75)),
    ],
)
def test_by_hand(usual, own_probs, pool, lifted):
    assert lift(usual, own_probs, pool) == pytest.approx(lifted, abs=1e-7)


@pytest.mark.parametrize(
    ("rule", "pooled"),
    [
        ("mean", (0.35, 0.25, 0.2, 0.1, 0.1)),
        ("vote", (0.35, 0.25, 0.2, 0.1, 0.1)),
        ("geometric", tuple(np.array([0.2**0.25 * 0.4**0.75, 0.4**0.25 * 0.2**0.75, 0.2, 0.1, 0.1]))),
    ],
)
def test_it_follows_the_pool_of_those_that_have_the_classes(usual, rule, pooled):
    """Its own factor of 9 does not count there, and those of the others count as ever: 1 to 3."""
    pool = [(0.2, 0.4, 0.2, 0.1, 0.1), (0.4, 0.2, 0.2, 0.1, 0.1)]
    found = lift(usual, (0.0, 1.0, 0.0), *pool, rule=rule, factors=(1e-200, 3e-200))
    assert found == pytest.approx(np.array(pooled) / sum(pooled), abs=1e-7)


def test_the_classes_of_the_job_lifted_are_themselves(usual):
    probs = (0.4, 0.1, 0.3, 0.15, 0.05)
    assert lift(usual, probs, (0.1, 0.2, 0.3, 0.3, 0.1), own_classes=range(K)) == pytest.approx(probs, abs=1e-7)


def test_rows_are_the_definitions_however_many_at_once(usual):
    draw = np.random.default_rng(0)
    own_classes = tuple(draw.integers(-1, 40, 1000).tolist())
    own = dataclasses.replace(usual, num_classes=40, own_classes=own_classes)
    lifting = Lifting([usual, own], torch.ones(2, dtype=torch.float64), "mean")
    pool_BK, own_BC = (draw.dirichlet(np.full(size, 0.05), 7).astype(np.float32) for size in (1000, 40))
    found = lifting.stack([torch.from_numpy(pool_BK), torch.from_numpy(own_BC)])
    assert torch.equal(found[0], torch.from_numpy(pool_BK))
    expected_BK = pool_BK.astype(np.float64)
    known = np.flatnonzero(np.array(own_classes) >= 0)
    for row, own_row in zip(expected_BK, own_BC.astype(np.float64), strict=True):
        total, mass = row[known].sum(), own_row[sorted({*own_classes} - {-1})].sum()
        for at in {*own_classes} - {-1}:
            leaves = np.flatnonzero(np.array(own_classes) == at)
            row[leaves] *= total * own_row[at] / mass / row[leaves].sum()
    np.testing.assert_allclose(found[1], expected_BK, rtol=1e-6, atol=1e-12)
    single = [lifting.stack([torch.from_numpy(some[at : at + 1]) for some in (pool_BK, own_BC)]) for at in range(7)]
    assert torch.equal(torch.cat(single, dim=1), found)


@pytest.mark.usefixtures("with_bfloat16")
def test_an_ensemble_pools_them_and_looks_at_near_ties_again(member, monkeypatch):
    resolved = [member("own", 3, OWN, factor=2.0), member("usual", K)]
    specs, blobs = [item.spec for item in resolved], {item.spec.alias: item.blob for item in resolved}
    ensemble = Ensemble(specs, blobs, EnsembleOptions(device="cpu", precision="mixed", rule="mean", top_k=9))
    for made in ensemble._members:
        monkeypatch.setattr(made, "near_tie_margin", math.inf)
    geometry = specs[0].recipe.geometry
    generator = torch.Generator().manual_seed(0)
    crops = {geometry: torch.randint(0, 256, (2, 3, 224, 224), generator=generator, dtype=torch.uint8)}
    assert ensemble.first_pass(crops).recompute_MB.all()
    found = ensemble.predict(crops)
    logits = [
        Ensemble([spec], blobs, EnsembleOptions(device="cpu", precision="fp32", rule="mean", top_k=9))
        .first_pass(crops)
        .logits_MBK[0]
        for spec in specs
    ]
    factors = torch.tensor([2.0, 1.0], dtype=torch.float64)
    probs_MBK = Lifting(specs, factors, "mean").stack([logits_BX.softmax(1) for logits_BX in logits])
    expected = combine(probs_MBK, factors, "mean", 9)
    np.testing.assert_array_equal(found.labels_Bk, expected.labels_Bk)
    np.testing.assert_allclose(found.scores_Bk, expected.scores_Bk, atol=1e-5)
    np.testing.assert_allclose(found.disagreement_B, expected.disagreement_B, atol=1e-5)
    np.testing.assert_allclose(found.members[0].energy_B, logits[0].logsumexp(1), rtol=1e-4)
    scores, labels = probs_MBK[0].sort(dim=1, descending=True, stable=True)
    np.testing.assert_array_equal(found.members[0].labels_Bk, labels)
    np.testing.assert_allclose(found.members[0].scores_Bk, scores, atol=1e-5)
    assert found.is_finite.all()
