"""Answers at any level: a name for each class and group that is found again, paths, and what people agree on."""

from __future__ import annotations

import pytest

from pipeline.labels import NO_CLASS
from pipeline.taxonomy.answers import AnswerResolver
from pipeline.taxonomy.classes_file import parse_classes
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.votes import settle
from pipeline.taxonomy.wordnet import imagenet_class_names, wordnet_taxonomy

NAMES = ("carp", "pike", "tabby", "beagle", "pug", "crane", "crane", "none")
# `fish` is a kind and a family; `crane` the name of two classes and of a kind; `none of these` a kind
TABLE = b"""class,kind,family
carp,fish,fish
pike,fish,fish
tabby,cat,pet
beagle,dog,pet
pug,dog,pet
5,crane,bird
6,none of these,machine
"""


@pytest.fixture(scope="module")
def tree():
    return parse_classes("t.csv", TABLE, NAMES)


@pytest.fixture(scope="module")
def answers(tree):
    return AnswerResolver(tree)


@pytest.fixture(scope="module")
def wordnet():
    return AnswerResolver(wordnet_taxonomy(imagenet_class_names()))


def test_every_name_is_found_again(answers, wordnet):
    for resolver in (answers, wordnet):
        assert [resolver.resolve(name) for name in resolver.names] == list(range(len(resolver.names)))
    assert answers.names[:8] == (*NAMES[:5], "crane (5)", "crane (6)", "none")
    assert {"fish", "fish (kind)", "crane", "dog", "none of these"} <= set(answers.names[8:])
    assert answers.resolve("FISH (Family)") == answers.resolve("fish")
    assert answers.none == "none of the above"
    assert "dog" in wordnet.names
    assert "crane" in wordnet.names[:1000]  # a class comes before a group


def test_of_wordnet_only_groups_are_offered_that_say_something_of_their_own(answers, wordnet):
    sizes = nodes_of(wordnet.taxonomy).sizes_V
    offered = {wordnet.names[node]: sizes[node] for node in wordnet.offered_groups}
    assert 300 < len(offered) < 450
    assert min(offered.values()) > 1
    assert max(offered.values()) < 900
    classes = {tuple(wordnet.taxonomy.leaves_of(node - 1000)) for node in wordnet.offered_groups}
    assert len(classes) == len(offered)
    assert offered["dog"] == 118
    assert len(answers.offered_groups) == len(answers.taxonomy.groups)  # a file's are all meant


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (["pet", "dog", "pug"], "pug"),
        (["pet", "dog"], "dog"),
        (["fish", "fish"], "fish (kind)"),
        (["fish"], "fish"),
        (["bird", "crane", "crane"], "crane (5)"),
        (["MACHINE", "crane"], "crane (6)"),
        (["my own group", "pug"], "pug"),
        (["none of the above"], None),
        (["pet", "hamster"], ""),
    ],
)
def test_a_path_tells_which(answers, path, name):
    expected = {None: NO_CLASS, "": None}.get(name, answers.names.index(name) if name else None)
    assert answers.resolve_path(path) == expected


@pytest.mark.parametrize(
    ("votes", "truth"),
    [
        ("", None),
        ("pug", "pug"),
        ("pug beagle", "dog"),
        ("pug tabby", "pet"),
        ("pug carp", None),
        ("pug dog", "dog"),
        ("pug pug dog", "pug"),
        ("pug dog dog", "dog"),
        ("pug beagle tabby", "dog"),
        ("pug pug beagle tabby", "pug"),  # as without a tree
        ("pug beagle dog tabby tabby", "dog"),  # not tabby: three of five say dog
        ("pet pet pug beagle dog", "dog"),
        ("none pug", None),
        ("none pug beagle", "dog"),
        ("none none pug beagle", "none"),
        ("hamster pug", None),
        ("hamster hamster pug", "hamster"),
        ("hamster pug beagle", "dog"),
    ],
)
def test_what_several_people_agree_on(answers, tree, votes, truth):
    known = {"none": NO_CLASS} | {name: at for at, name in enumerate(answers.names) if name != "none"}
    found = settle([known.get(name, name) for name in votes.split()], tree)
    assert found == known.get(truth, truth)
    assert settle(votes.split()) in (*votes.split(), None)


def test_a_group_of_nearly_all_classes_says_nothing(wordnet):
    tree = parse_classes("t.csv", b"class,kind\na,x\nb,x\n", ("a", "b"))
    assert settle([0, 1], tree) is None
    for text, truth in (("beagle pug", "dog"), ("beagle tench", "vertebrate"), ("beagle abacus", None)):
        found = settle([wordnet.resolve(name) for name in text.split()], wordnet.taxonomy)
        assert (None if found is None else wordnet.names[found]) == truth
