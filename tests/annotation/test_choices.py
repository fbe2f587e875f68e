"""Label Studio's configuration of a tree: it parses, its size is bearable, and each choice is another answer."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from pipeline.annotation.choices import ListChoices
from pipeline.taxonomy.answers import AnswerResolver
from pipeline.taxonomy.classes_file import parse_classes
from pipeline.taxonomy.wordnet import imagenet_class_names, wordnet_taxonomy

NAMES = ('a "b" & <c>', "it's / that", "tab\tbed", "plain", "plain", "left out")
TABLE = [
    {"class": "0", "kind": '"quoted" & <tagged>', "family": "x > y"},
    {"class": "1", "kind": "same", "family": "same"},
    {"class": "2", "kind": "same", "family": "same"},
    {"class": "3", "kind": "plain", "family": ""},
    {"class": "4", "kind": "plain", "family": ""},
]


@pytest.fixture(scope="module", params=["file", "wordnet"])
def tree(request):
    if request.param == "wordnet":
        return wordnet_taxonomy(imagenet_class_names())
    return parse_classes("t.json", json.dumps(TABLE).encode(), NAMES)


def paths_of(control):
    """Every path that can be chosen, as Label Studio writes it."""
    waiting = [([choice.get("value")], choice) for choice in control]
    while waiting:
        path, choice = waiting.pop()
        yield path
        waiting += [([*path, inner.get("value")], inner) for inner in choice]


def test_each_choice_of_a_tree_is_another_answer(tree):
    choices, answers = ListChoices(tree.class_names, tree), AnswerResolver(tree)
    config = choices.studio_config()
    control = ET.fromstring(config).find("Taxonomy")
    assert {name: control.get(name) for name in ("toName", "maxUsages", "leafsOnly")} == {
        "toName": "image",
        "maxUsages": "1",
        "leafsOnly": "false",
    }
    paths = list(paths_of(control))
    assert control[0].get("value") == choices.none == "none"
    found = [answers.resolve_path(path) for path in paths]
    assert found == [answers.resolve(path[-1]) for path in paths]  # whoever reads the names alone finds the same
    assert sorted(found) == sorted([-1, *range(tree.num_classes), *answers.offered_groups])
    separator = control.get("pathSeparator")  # the page cuts paths apart at it
    assert not any(separator.strip() in name for path in paths for name in path)
    for label in range(tree.num_classes):
        (path,) = choices.studio_result(label)["value"]["taxonomy"]
        assert path in paths if label < 6 else path[-1] == answers.names[label]
    assert len(config) < 100_000
