"""Nodes: classes and groups in one set of numbers, what lies below what, and which one a text names."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.labels import NO_CLASS
from pipeline.taxonomy.answers import AnswerResolver
from pipeline.taxonomy.classes_file import parse_classes
from pipeline.taxonomy.nodes import NOT_TOLD, nodes_of
from pipeline.taxonomy.stored import classes_in_job, classes_in_results, stored_classes
from pipeline.taxonomy.tree import NO_GROUP
from pipeline.taxonomy.wordnet import imagenet_class_names, wordnet_taxonomy

NAMES = ("carp", "cat", "dog", "plane", "pike", "chair")
# `fish` is a kind and a family, the kind in the family; `Chair` is a kind of one class, and in no family
TABLE = b"class,kind,family\ncarp,fish,fish\npike,fish,fish\ncat,,animal\ndog,dogs,animal\nchair,Chair,\n"


@pytest.fixture(scope="module")
def tree():
    return parse_classes("t.csv", TABLE, NAMES)


@pytest.fixture(scope="module")
def imagenet():
    return wordnet_taxonomy(imagenet_class_names())


def test_classes_come_first_and_every_name_is_one_of_its_own(tree):
    nodes = nodes_of(tree)
    assert nodes.names[:6] == NAMES
    assert sorted(nodes.names[6:]) == ["Chair", "animal", "dogs", "fish (family)", "fish (kind)"]
    assert nodes.levels[:6] == ("class",) * 6
    sizes = dict(zip(nodes.names, nodes.sizes_V.tolist(), strict=True))
    assert sizes == dict.fromkeys(NAMES, 1) | {"Chair": 1, "animal": 2, "dogs": 1, "fish (kind)": 2, "fish (family)": 2}
    assert nodes.bits[nodes.names.index("animal")] == pytest.approx(np.log2(3))


def test_a_class_keeps_its_name_where_a_group_has_it_too():
    tree = parse_classes("t.csv", b"class,kind\ncat,dog\ndog,dog\n", NAMES)
    assert nodes_of(tree).names == (*NAMES, "dog (kind)")
    assert [AnswerResolver(tree).resolve(text) for text in ("dog", "dog (kind)", "DOG (KIND)")] == [2, 6, 6]


def test_a_level_of_a_file_may_be_called_wordnet():
    tree = parse_classes("t.csv", b"class,wordnet\ncat,pet\n", NAMES)
    job = {"class_names": NAMES, "results": classes_in_results(tree), **classes_in_job(tree)}
    assert stored_classes(job).groups == tree.groups


def test_what_lies_at_or_below_what(tree):
    nodes = nodes_of(tree)
    number = {name: at for at, name in enumerate(nodes.names)}
    dog, dogs, animal, cat = (number[name] for name in ("dog", "dogs", "animal", "cat"))
    inner = np.array([dog, dog, dogs, dogs, animal, cat, dog, NO_CLASS, dog])
    outer = np.array([dog, animal, dog, animal, dogs, dogs, dogs, animal, NO_CLASS])
    assert nodes.is_at_or_below(inner, outer).tolist() == [True, True, False, True, False, False, True, False, False]
    kind, family = sorted((number["fish (kind)"], number["fish (family)"]), key=lambda node: -nodes.depths_V[node])
    assert nodes.is_at_or_below(np.array([kind, family]), np.array([family, kind])).tolist() == [True, False]


def test_the_group_of_a_node_at_each_level(tree):
    nodes = nodes_of(tree)
    kind, family = tree.levels
    of = {name: nodes.at_level(kind)[at] for at, name in enumerate(nodes.names)}
    assert of["plane"] == of["cat"] == NO_GROUP
    assert of["animal"] == NOT_TOLD  # a cat has no kind, a dog has one
    assert kind.names[of["dog"]] == kind.names[of["dogs"]] == "dogs"
    assert kind.names[of["fish (kind)"]] == kind.names[of["fish (family)"]] == "fish"  # a family of one kind
    above = {name: nodes.at_level(family)[at] for at, name in enumerate(nodes.names)}
    assert family.names[above["dogs"]] == "animal"
    assert above["Chair"] == NO_GROUP


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dog", "dog"),  # a class before a group that is called alike
        ("dogs", "dogs"),
        ("4", "pike"),
        ("ANIMAL", "animal"),
        ("chair", "chair"),
        ("Chair", "Chair"),  # as it is written
        ("fish (kind)", "fish (kind)"),  # `fish` alone is the family around it
        ("none", None),
        ("elephant", ...),
    ],
)
def test_a_text_names_a_class_or_a_group(tree, text, name):
    nodes = nodes_of(tree)
    found = AnswerResolver(tree).resolve(text)
    expected = NO_CLASS if name is None else None if name is ... else nodes.names.index(name)
    assert found == expected


def test_of_groups_of_one_name_the_one_around_the_others_is_meant(tree):
    nodes = nodes_of(tree)
    found = AnswerResolver(tree).resolve("fish")
    assert nodes.levels[found] == "family"


def test_groups_of_wordnet_by_name_id_and_title(imagenet):
    nodes, resolver = nodes_of(imagenet), AnswerResolver(imagenet)
    dog = nodes.names.index("dog.n.01")
    assert [resolver.resolve(text) for text in ("dog.n.01", "n02084071", "dog", "Dog")] == [dog] * 4
    assert resolver.resolve("beagle") == 162
    assert nodes.sizes_V[dog] == 118
    beagle, terrier = 162, nodes.names.index("terrier.n.01")
    assert nodes.is_at_or_below(np.array([beagle, terrier, dog]), np.array([dog, dog, terrier])).tolist() == [
        True,
        True,
        False,
    ]
