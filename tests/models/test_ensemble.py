"""The ensemble: each member gets its own crop, and the predictions are those of the pool."""

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
from pipeline.models.weights import resolve
from pipeline.storage import Storage
from pipeline.taxonomy.classes_file import parse_classes

SPECS = ("shufflenet_v2_x0_5*2", "b:squeezenet1_1", "c:mobilenet_v3_large*0.5")


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Three members, and the plain network of each; the last has another recipe."""
    folder, resolved, networks = tmp_path_factory.mktemp("members"), [], []
    for seed, text in enumerate(SPECS):
        torch.manual_seed(seed)
        request = MemberRequest.parse(text)
        network = tv.get_model(request.arch, weights=None, num_classes=6).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith(("fc", "classifier")):
                    parameter.mul_(5).add_(torch.randn_like(parameter) * 0.1)
        torch.save(network.state_dict(), folder / f"{request.arch}.pth")
        resolved.append(resolve(request, str(folder), Storage()))
        networks.append(network)
    return resolved, networks


@pytest.fixture(scope="module")
def crops(members):
    """For each geometry other random pixels, so that a member that gets a wrong crop is noticed."""
    resolved, _ = members
    geometries = dict.fromkeys(item.spec.recipe.geometry for item in resolved)
    generator = torch.Generator().manual_seed(0)
    return {
        geometry: torch.randint(0, 256, (5, 3, geometry.crop_px, geometry.crop_px), generator=generator).to(torch.uint8)
        for geometry in geometries
    }


def ensemble(resolved, rule="mean", top_k=3, **more):
    blobs = {item.spec.alias: item.blob for item in resolved}
    specs = [item.spec for item in resolved]
    return Ensemble(specs, blobs, EnsembleOptions(device="cpu", precision="fp32", rule=rule, top_k=top_k, **more))


def own_logits(item, network, crops):
    recipe = item.spec.recipe
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std))
    with torch.inference_mode():
        return network((crops[recipe.geometry] / 255 - mean) / std)


def test_members_that_share_a_geometry_share_the_crop(members):
    resolved, _ = members
    geometries = ensemble(resolved).geometries
    assert [geometry.resize_px for geometry in geometries] == [256, 232]


@pytest.mark.parametrize("rule", ["mean", "geometric", "vote"])
def test_predictions_are_the_pool_of_the_plain_networks(members, crops, rule):
    resolved, networks = members
    predictions = ensemble(resolved, rule).predict(crops)
    logits = [own_logits(item, network, crops) for item, network in zip(resolved, networks, strict=True)]
    probs = torch.stack([batch.softmax(dim=1) for batch in logits])
    expected = combine(probs, torch.tensor([2.0, 1.0, 0.5]), rule, 3)
    np.testing.assert_array_equal(predictions.labels_Bk, expected.labels_Bk)
    for name in ("scores_Bk", "agreement_B", "entropy_B", "disagreement_B"):
        np.testing.assert_allclose(getattr(predictions, name), getattr(expected, name), atol=1e-4)
    for own, batch in zip(predictions.members, logits, strict=True):
        scores, labels = batch.softmax(dim=1).topk(3)
        np.testing.assert_array_equal(own.labels_Bk, labels)
        np.testing.assert_allclose(own.scores_Bk, scores, atol=1e-4)
        np.testing.assert_allclose(own.energy_B, batch.logsumexp(dim=1), rtol=1e-4)
    assert predictions.disagreement_B.max() > 1e-3


@pytest.mark.parametrize(("rule", "temperature"), [("mean", 1.0), ("geometric", 0.4), ("vote", 1.0)])
def test_groups_are_those_of_the_whole_distribution(members, crops, rule, temperature):
    table = b"class,fine,coarse\n0,x,p\n1,y,p\n2,y,p\n4,z,q\n5,,q\n"
    tree = parse_classes("tree.csv", table, tuple("012345"))
    made = ensemble(members[0], rule, 2, temperature=temperature, keep_probs=True, taxonomy=tree)
    found = made.predict(crops)
    whole = ensemble(members[0], rule, 6, temperature=temperature).predict(crops)  # the top 6 of 6 classes
    probs_BK = np.zeros((5, 6))
    np.put_along_axis(probs_BK, whole.labels_Bk.astype(np.int64), whole.scores_Bk, axis=1)
    for column, groups in zip(found.groups, (([0], [1, 2], [4]), ([0, 1, 2], [4, 5])), strict=True):
        sums_BG = np.stack([probs_BK[:, leaves].sum(1) for leaves in groups], 1)
        none_B = 1 - sums_BG.sum(1)
        is_in_B = none_B <= sums_BG.max(1)
        np.testing.assert_array_equal(column.groups_B, np.where(is_in_B, sums_BG.argmax(1), -1))
        np.testing.assert_allclose(column.scores_B, np.where(is_in_B, sums_BG.max(1), 0), atol=1e-6)
        assert (column.groups_B.dtype, column.scores_B.dtype) == (np.int32, np.float32)
    plain = ensemble(members[0], rule, 2, temperature=temperature, keep_probs=True).predict(crops)
    assert plain.groups == ()
    np.testing.assert_array_equal(plain.probs_MBK, found.probs_MBK)
    np.testing.assert_array_equal(plain.labels_Bk, found.labels_Bk)
    assert made.subset(["b"]).predict(crops).groups == ()
    np.testing.assert_array_equal(found.take(np.array([3, 1])).groups[0].groups_B, found.groups[0].groups_B[[3, 1]])


def test_the_types_are_those_of_the_output(members, crops):
    predictions = ensemble(members[0], top_k=9).predict(crops)
    parts = [predictions, *predictions.members]
    assert {part.labels_Bk.dtype for part in parts} == {np.dtype(np.int32)}
    assert {part.scores_Bk.dtype for part in parts} == {np.dtype(np.float32)}
    assert {part.scores_Bk.shape for part in parts} == {(5, 6)}
    assert {predictions.agreement_B.dtype, predictions.entropy_B.dtype, predictions.disagreement_B.dtype} == {
        np.dtype(np.float32)
    }


def test_tiny_factors_do_not_vanish(members, crops):
    """1e-60 is 0 in float32; only the ratio of factors counts."""
    resolved, networks = members
    one = dataclasses.replace(resolved[1], spec=dataclasses.replace(resolved[1].spec, factor=1e-60))
    predictions = ensemble([one], top_k=6).predict(crops)
    expected = own_logits(one, networks[1], crops).softmax(dim=1).sort(dim=1, descending=True).values
    np.testing.assert_allclose(predictions.scores_Bk, expected, atol=1e-4)


@pytest.mark.usefixtures("with_bfloat16")
def test_only_members_that_have_a_second_pass_get_one(members, crops, monkeypatch):
    """One member may run in fp32 alone while its neighbours look at near ties again."""
    resolved, networks = members
    blobs = {item.spec.alias: item.blob for item in resolved}
    options = EnsembleOptions(device="cpu", precision="mixed", rule="mean", top_k=3)
    together = Ensemble([item.spec for item in resolved], blobs, options)
    alone, *others = together._members
    monkeypatch.setattr(alone, "_first", alone._second)
    monkeypatch.setattr(alone, "_second", None)
    for member in others:
        monkeypatch.setattr(member, "near_tie_margin", math.inf)
    first = together.first_pass(crops)
    assert first.recompute_MB.tolist() == [[False] * 5, [True] * 5, [True] * 5]
    predictions = together.predict(crops)
    for item, network, own in zip(resolved, networks, predictions.members, strict=True):
        scores, labels = own_logits(item, network, crops).softmax(dim=1).topk(3)
        np.testing.assert_array_equal(own.labels_Bk, labels)
        np.testing.assert_allclose(own.scores_Bk, scores, atol=1e-4)
