"""The names that ship are those of the pinned libraries, and are silent about others."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import ModelError
from pipeline.models import catalog, known_names
from pipeline.models.known_names import collect_names, shipped_names


def test_the_list_that_ships_is_that_of_the_libraries():
    assert json.loads(known_names._FILE.read_text()) == json.loads(json.dumps(collect_names()))


@pytest.mark.parametrize(
    "name", ["resnet5O", "ResNet-50", "timm/resnet5O", "timm/", "efficient", "xyz", "", "xception"]
)
def test_an_unknown_name_is_refused_as_the_libraries_refuse_it(name):
    with pytest.raises(ModelError) as later:
        catalog.find(name)
    with pytest.raises(ModelError) as early:
        shipped_names().check(name)
    assert str(early.value) == str(later.value)


def test_weights_that_do_not_exist_are_refused_alike():
    with pytest.raises(ModelError) as later:
        catalog.find("resnet18").choose("V9")
    with pytest.raises(ModelError) as early:
        shipped_names().check("resnet18").choose("V9")
    assert str(early.value) == str(later.value)
    assert shipped_names().check("resnet18").choose("imagenet1k_v1").file_name == "resnet18-f37072fd.pth"


@pytest.mark.parametrize("name", ["timm/resnet50.a1_in1k", "timm/legacy_xception", "timm/xception", "timm/resnet50.no"])
def test_what_only_timm_can_judge_is_left_to_it(name):
    assert shipped_names().check(name) is None


def test_with_other_libraries_the_list_is_silent(monkeypatch):
    monkeypatch.setattr(known_names, "version", lambda library: "999")
    shipped_names.cache_clear()
    assert shipped_names() is None
    shipped_names.cache_clear()
