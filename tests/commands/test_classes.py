"""The command ``classes``: a file as a tree, and a part of WordNet as a file to start from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

import pipeline
from pipeline.cli.completion import complete_classes
from pipeline.labels import imagenet_names
from pipeline.taxonomy.classes_file import parse_classes

PETS = """class,pet,animal
tabby,cat,mammal
tiger cat,cat,mammal
Persian cat,cat,mammal
Siamese cat,cat,mammal
Egyptian cat,cat,mammal
n02085620,dog,mammal
beagle,Dog,mammal
macaw,bird,bird
goldfish,fish,
sorrel,,mammal
"""
SHOWN = """pets.csv: 10 of 1,000 classes in 7 groups
level pet: 5 groups, 9 classes
level animal: 2 groups, 9 classes

    1  fish (pet): goldfish
    1  bird
    1    bird: macaw
    8  mammal
    1    dog: Chihuahua
    1    Dog: beagle
    5    cat: tabby, tiger cat, Persian cat, Siamese cat and 1 more
    1    in none of these: sorrel
  990  in no group: tench, great white shark, tiger shark and 987 more
"""


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets.csv").write_text(PETS)
    return "pets.csv"


def test_a_file_is_shown_as_a_tree(pets, shardlabel):
    done = shardlabel("classes", pets)
    assert (done.returncode, done.stdout) == (0, SHOWN)
    assert done.stderr == "note: pet: 'dog' and 'Dog' are 2 groups\n"
    assert (
        "    8  mammal: sorrel, Chihuahua, beagle, tabby and 4 more\n"
        in shardlabel("classes", pets, "--levels", 1).stdout
    )


def test_json_has_all_of_it(pets, shardlabel):
    found = json.loads(shardlabel("classes", pets, "--json").stdout)
    tree = pipeline.classes(pets)
    assert (found["num_leaves"], found["num_groups"], len(found["ungrouped"])) == (10, 7, 990)
    assert [level["name"] for level in found["levels"]] == ["pet", "animal"]
    mammal = found["groups"][2]
    assert (mammal["name"], mammal["level"], mammal["num_leaves"]) == ("mammal", "animal", 8)
    assert mammal["classes"] == ["sorrel"]
    assert found["content_hash"] == tree.content_hash
    assert repr(tree).startswith("ClassTree(source='pets.csv', num_classes=1000, num_leaves=10, num_groups=7")


def test_names_of_classes_may_be_given(pets, tmp_path, shardlabel):
    (tmp_path / "names.txt").write_text("tabby\ncoins\n")
    (tmp_path / "own.csv").write_text("class,kind\ncoins,thing\n")
    assert "1 of 2 classes in 1 group" in shardlabel("classes", "own.csv", "--labels", "names.txt").stdout
    done = shardlabel("classes", pets, "--labels", "names.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "shardlabel: pets.csv, row 3: 'tiger cat' is none of the 2 classes\n"
    assert shardlabel("classes", pets, "--labels", "imagenet").stdout == SHOWN


def test_columns_of_members_are_counted(pets, tmp_path, shardlabel):
    (tmp_path / "own.csv").write_text("class,kind,member:mine\ndomestic_cat.n.01,cat,0\nbeagle,dog,1\npug,dog,1\n")
    shown = shardlabel("classes", "own.csv").stdout
    assert shown.splitlines()[1:4] == [
        "level kind: 2 groups, 7 classes",
        "member mine: 2 classes of its own for 7 of 1,000 classes",
        "",
    ]
    assert pipeline.classes(Path("own.csv")).members[0].alias == "mine"


def test_files_of_classes_are_completed(pets, tmp_path):
    (tmp_path / "pictures.png").touch()
    (tmp_path / "p").mkdir()
    assert complete_classes("p") == ["p/", "pets.csv"]
    assert complete_classes("") == ["wordnet", "p/", "pets.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.csv"], "nowhere.csv: no such file"),
        (["wordnet", "--labels", "nowhere.txt"], "nowhere.txt: no such file"),
        (
            ["pets.csv", "--under", "dog.n.01"],
            "--under belongs to wordnet: shardlabel classes wordnet --under dog.n.01",
        ),
        (["wordnet", "--under", "dgo.n.01"], "wordnet: no group is called 'dgo.n.01'"),
        (["wordnet", "--under", "dog.n.01", "--levels", "0"], "--levels must be at least 1, not 0"),
        (["wordnet", "--levels", "0"], "--levels must be at least 1, not 0"),
    ],
)
def test_a_wrong_request_is_one_line(pets, shardlabel, words, message):
    done = shardlabel("classes", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_wordnet_is_readable_at_80_columns(shardlabel, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = shardlabel("classes", "wordnet").stdout.splitlines()
    assert lines[0] == "wordnet: 1,000 of 1,000 classes in 808 groups"
    assert max(map(cell_len, lines)) <= 80
    assert sum(line.endswith(" dog.n.01") for line in lines) == 1
    assert next(line for line in lines if " dog.n.01" in line).startswith("  118 ")


@pytest.mark.parametrize("words", [[], ["--levels", "1"], ["--levels", "4"], ["--json"]])
def test_a_part_of_wordnet_is_a_file_that_is_accepted(shardlabel, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    name = "dogs.json" if "--json" in words else "dogs.csv"
    (tmp_path / name).write_text(shardlabel("classes", "wordnet", "--under", "dog.n.01", *words).stdout)
    taxonomy = parse_classes(name, (tmp_path / name).read_bytes(), imagenet_names())
    assert taxonomy.level_names == tuple(f"level_{n + 1}" for n in range(int(words[-1]) if "--levels" in words else 2))
    assert "hunting dog" in taxonomy.levels[-1].names
    assert f"{name}: 11" in shardlabel("classes", name).stdout
