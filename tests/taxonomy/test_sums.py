"""Sums of groups: those of the definition, whatever the type, the number of images, and the shape of the tree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.taxonomy.classes_file import parse_classes
from pipeline.taxonomy.sums import GroupSums
from pipeline.taxonomy.tree import NO_GROUP
from pipeline.taxonomy.wordnet import imagenet_class_names, wordnet_taxonomy


def made_up_probs(num_images, num_classes, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(num_classes, 0.05), num_images).astype(np.float32)


def defined_sums(taxonomy, probs_BK):
    return np.stack(
        [probs_BK[:, taxonomy.leaves_of(n)].sum(1, dtype=np.float64) for n in range(len(taxonomy.groups))], 1
    )


@pytest.fixture(scope="module")
def wordnet():
    return wordnet_taxonomy(imagenet_class_names())


def test_sums_are_those_of_the_definition_and_never_less_than_those_below(wordnet):
    probs_BK = made_up_probs(5, 1000)
    sums = GroupSums(wordnet, probs_BK).all_groups(probs_BK)
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, defined_sums(wordnet, probs_BK), atol=1e-7)
    for number, group in enumerate(wordnet.groups):
        if group.parent != NO_GROUP:
            assert (sums[:, number] <= sums[:, group.parent]).all()


def test_tensors_give_what_arrays_give_however_many_at_once(wordnet):
    probs_BK = made_up_probs(7, 1000, seed=1)
    tensor = torch.from_numpy(probs_BK)
    ours, torchs = GroupSums(wordnet, probs_BK), GroupSums(wordnet, tensor)
    whole = torchs.all_groups(tensor)
    assert whole.dtype == torch.float32
    np.testing.assert_array_equal(whole.numpy(), ours.all_groups(probs_BK))
    assert torch.equal(torch.cat([torchs.all_groups(row[None]) for row in tensor]), whole)
    turned = wordnet_taxonomy(imagenet_class_names()[::-1])  # other classes come first: another order to add in
    again = GroupSums(turned, tensor).all_groups(tensor.flip(1))
    by_name = {group.name: again[:, number] for number, group in enumerate(turned.groups)}
    assert all(torch.equal(by_name[group.name], whole[:, number]) for number, group in enumerate(wordnet.groups))
    exact = torchs.all_groups(tensor.double())
    assert exact.dtype == torch.float64
    np.testing.assert_allclose(exact.numpy(), defined_sums(wordnet, probs_BK), atol=1e-12)


NAMES = tuple("abcdefgh")
TABLE = b"class,fine,coarse\na,x,p\nc,x,p\nb,y,p\nh,z,q\ng,,q\n"


@pytest.mark.parametrize("of", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_the_first_group_of_a_level_and_what_is_in_none(of):
    taxonomy = parse_classes("a.csv", TABLE, NAMES)
    fine, coarse = taxonomy.levels
    probs_BK = of(
        np.array(
            [[0.2, 0.3, 0.2, 0, 0, 0, 0.2, 0.1], [0, 0, 0, 0.9, 0, 0, 0.1, 0], [0, 0.5, 0, 0, 0, 0, 0, 0.5]], np.float32
        )
    )
    sums = GroupSums(taxonomy, probs_BK)
    top = sums.top(fine, probs_BK)
    assert [fine.names[group] for group in top.groups_B.tolist()] == ["x", "x", "y"]  # of equal sums the first
    np.testing.assert_allclose(top.scores_B, [0.4, 0, 0.5], atol=1e-7)
    np.testing.assert_allclose(top.none_B, [0.2, 1, 0], atol=1e-7)
    top = sums.top(coarse, probs_BK)
    assert [coarse.names[group] for group in top.groups_B.tolist()] == ["p", "q", "p"]
    np.testing.assert_allclose(sums.level(coarse, probs_BK), [[0.7, 0.3], [0, 0.1], [0.5, 0.5]], atol=1e-7)
    np.testing.assert_allclose(top.none_B, [0, 0.9, 0], atol=1e-7)


@settings(max_examples=25)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=12), st.integers(0, 99))
def test_any_tree_adds_up(paths, seed):
    """Random nested levels with gaps: each group's name holds what is around it."""
    rows = ["class,l1,l2,l3"]
    for leaf, (a, b, c) in enumerate(paths):
        l3 = f"a{a}" if a else ""
        l2 = f"{l3}b{b}" if b else ""
        l1 = f"{l3}b{b}c{c}" if c else ""
        rows.append(f"{leaf},{l1},{l2},{l3}")
    names = [f"class {leaf}" for leaf in range(len(paths) + 1)]
    columns = list(zip(*(row.split(",") for row in rows), strict=True))
    used = [column for column in columns if any(column[1:])]
    if len(used) < 2:
        return
    taxonomy = parse_classes("a.csv", "\n".join(map(",".join, zip(*used, strict=True))).encode(), names)
    probs_BK = made_up_probs(3, len(names), seed)
    sums = GroupSums(taxonomy, probs_BK)
    np.testing.assert_allclose(sums.all_groups(probs_BK), defined_sums(taxonomy, probs_BK), atol=1e-7)
    for level in taxonomy.levels:
        cells = next(column[1:] for column in columns if column[0] == level.name)
        for at, name in enumerate(level.names):
            inside = [leaf for leaf, cell in enumerate(cells) if cell == name]
            expected = probs_BK[:, inside].sum(1)
            np.testing.assert_allclose(sums.level(level, probs_BK)[:, at], expected, atol=1e-6)
