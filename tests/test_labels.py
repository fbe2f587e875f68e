"""Class names: of a file, of ImageNet, or the indices as text."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.labels import imagenet_names, names_for, parse_names


def test_names_are_lines_or_a_json_list():
    assert parse_names(" cat\r\ndog, big\n\nowl\n\n", "f") == ("cat", "dog, big", "", "owl")
    assert parse_names('  ["cat", "caf\\u00e9"]', "f") == ("cat", "café")


@pytest.mark.parametrize("text", ["", "\n \n", "[]", '["cat"', "[1, 2]"])
def test_text_without_names_is_refused(text: str):
    with pytest.raises(InputError, match=r"^--labels f: "):
        parse_names(text, "f")


def test_there_is_a_name_for_each_class():
    assert names_for(1000, None) == imagenet_names()
    assert (imagenet_names()[0], len(imagenet_names())) == ("tench", 1000)
    assert names_for(3, None) == ("0", "1", "2")
    assert names_for(2, ("a", "b")) == ("a", "b")
    with pytest.raises(InputError, match="2 names, but the models have 3 classes"):
        names_for(3, ("a", "b"))
