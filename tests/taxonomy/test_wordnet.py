"""WordNet's tree above ImageNet's classes, against what timm and torchvision ship of the same synsets."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from pipeline.errors import InputError
from pipeline.labels import imagenet_meanings, imagenet_names
from pipeline.taxonomy.parts import take_part
from pipeline.taxonomy.wordnet import find_group, imagenet_class_names, read_wordnet, wordnet_taxonomy

DATABASE = Path("/usr/share/wordnet")


@pytest.fixture(scope="module")
def wordnet():
    return wordnet_taxonomy(imagenet_class_names())


def path_names(taxonomy, leaf):
    return [taxonomy.groups[number].name for number in taxonomy.path_from(int(taxonomy.parent_of_leaf_K[leaf]))]


def timm_lemmas() -> dict[str, str]:
    """Lemmas of 21,000 synsets by their WordNet ids, as timm ships them."""
    import timm.data

    file = Path(timm.data.__path__[0]) / "_info" / "imagenet_synset_to_lemma.txt"
    return dict(line.split("\t", 1) for line in file.read_text("utf-8").splitlines())


def test_ids_and_names_are_those_of_timm_and_torchvision():
    shipped = read_wordnet()
    names = imagenet_names()
    assert shipped.class_names == names
    assert shipped.class_ids == tuple(wordnet_id for wordnet_id, _ in imagenet_meanings(names))
    lemmas = timm_lemmas()
    known = [
        (wordnet_id, group)
        for wordnet_id, group in zip(shipped.ids, shipped.groups, strict=True)
        if wordnet_id in lemmas
    ]
    assert len(known) > 700
    for wordnet_id, group in known:
        first = lemmas[wordnet_id].split(", ")[0]
        assert group.title == first
        assert group.name[:-5] == first.lower().replace(" ", "_")


def test_it_is_a_tree_with_one_root(wordnet):
    assert len(wordnet.groups) == 808
    assert len({group.name for group in wordnet.groups}) == 808
    assert [wordnet.groups[root].name for root in wordnet.roots] == ["entity.n.01"]
    assert wordnet.leaf_paths.shape == (1000, 18)
    assert (wordnet.leaf_paths[:, 3] >= 0).all()
    assert all(group.parent < number for number, group in enumerate(wordnet.groups))
    assert sorted(wordnet.leaves_L.tolist()) == list(range(1000))
    assert wordnet.levels == ()


def test_of_several_hypernyms_the_first_is_taken(wordnet):
    names = imagenet_class_names()
    assert path_names(wordnet, names.index("Chihuahua"))[:4] == [
        "toy_dog.n.01",
        "dog.n.01",
        "canine.n.02",
        "carnivore.n.01",
    ]
    assert path_names(wordnet, names.index("tabby"))[:3] == ["domestic_cat.n.01", "cat.n.01", "feline.n.01"]
    assert "cutlery.n.02" in path_names(wordnet, names.index("wooden spoon"))
    dogs = wordnet.leaves_of(find_group(wordnet, "dog.n.01"))
    assert dogs == list(range(151, 269))


def test_groups_are_found_by_name_id_and_word(wordnet):
    dog = find_group(wordnet, "dog.n.01")
    assert find_group(wordnet, "n02084071") == find_group(wordnet, " Dog ") == dog
    assert wordnet.groups[find_group(wordnet, "hunting dog")].name == "hunting_dog.n.01"
    with pytest.raises(InputError, match=r"wordnet: 'food' may be food\.n\.01, food\.n\.02"):
        find_group(wordnet, "food")
    with pytest.raises(InputError, match=r"no group is called 'hunting_dgo'; did you mean hunting_dog\.n\.01"):
        find_group(wordnet, "hunting_dgo")
    with pytest.raises(InputError, match="no group is called 'tabby'"):
        find_group(wordnet, "tabby")


def test_a_job_may_have_some_of_imagenets_classes():
    few = wordnet_taxonomy(["macaw", "n02123045", "Egyptian cat"])
    cats = find_group(few, "domestic_cat.n.01")
    assert few.leaves_of(cats) == [1, 2]
    assert len(few.groups) < 30
    for names, unknown in (
        (["macaw", "coins"], "1 class is none of them: 'coins'"),
        (["0", "1"], "2 classes are none"),
    ):
        with pytest.raises(InputError, match=unknown):
            wordnet_taxonomy(names)


def test_a_part_has_no_group_that_adds_nothing(wordnet):
    part = take_part(wordnet, find_group(wordnet, "cat.n.01"), 3)
    assert part.header == ("class", "level_1")
    assert {row[1] for row in part.rows} == {"domestic cat", "wildcat"}
    whole = take_part(wordnet, find_group(wordnet, "carnivore"), 3)
    assert whole.header == ("class", "level_1", "level_2", "level_3")
    assert ("n02085620 Chihuahua", "toy dog", "dog", "canine") in whole.rows
    alone = take_part(wordnet, find_group(wordnet, "domestic_cat.n.01"), 2)
    assert alone.header == ("class", "level_1")
    assert {row[1] for row in alone.rows} == {"domestic cat"}


@pytest.mark.skipif(not DATABASE.is_dir(), reason="WordNet's database is not installed: apt install wordnet-base")
def test_the_file_is_what_the_script_makes(tmp_path, monkeypatch):
    script = REPOSITORY / "examples" / "make_wordnet.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--to", str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    for name in ("wordnet.tsv", "LICENSE.wordnet"):
        assert (tmp_path / name).read_text() == (REPOSITORY / "pipeline" / "taxonomy" / name).read_text()
