"""Files of classes: each format, and what is wrong with a file in one line that names the row."""

from __future__ import annotations

import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.storage import Storage
from pipeline.taxonomy.classes_file import parse_classes, read_classes
from pipeline.taxonomy.member_columns import NOT_KNOWN, find_own_classes
from pipeline.taxonomy.tree import NO_GROUP

NAMES = ("tabby", "Siamese cat", "beagle", "pug", "macaw", "goldfish", "truck", "07")
CSV = """class,pet,animal
beagle,dog,mammal
1,cat,mammal
tabby,cat,mammal
macaw,,bird
goldfish,fish,
"""
ENTRIES = [
    {"class": "beagle", "pet": "dog", "animal": "mammal"},
    {"class": 1, "pet": "cat", "animal": "mammal"},
    {"class": "tabby", "pet": "cat", "animal": "mammal"},
    {"class": "macaw", "pet": None, "animal": "bird"},
    {"class": "goldfish", "pet": "fish"},
]
YAML = """
- &cat {class: 1, pet: cat, animal: mammal}
- <<: *cat
  class: tabby
- {class: beagle, pet: dog, animal: mammal}
- {class: goldfish, pet: fish, animal: ~}
- {class: macaw, pet: , animal: bird}
"""


def parse(text, path="pets.csv"):
    return parse_classes(path, text if isinstance(text, bytes) else text.encode(), NAMES)


def refusal(text, path="pets.csv"):
    with pytest.raises(InputError) as refused:
        parse(text, path)
    message = str(refused.value)
    assert message.startswith(path)
    assert "\n" not in message
    assert refused.value.exit_code == 2
    return message.removeprefix(path)


def test_a_file_becomes_groups_numbered_from_above():
    taxonomy = parse(CSV)
    assert [(group.name, group.level, group.parent) for group in taxonomy.groups] == [
        ("mammal", "animal", NO_GROUP),
        ("cat", "pet", 0),
        ("dog", "pet", 0),
        ("bird", "animal", NO_GROUP),
        ("fish", "pet", NO_GROUP),
    ]
    pet, animal = taxonomy.levels
    assert (pet.name, pet.names, pet.group_of_leaf_K.tolist()) == (
        "pet",
        ("cat", "dog", "fish"),
        [0, 0, 1, -1, -1, 2, -1, -1],
    )
    assert (animal.names, animal.group_of_leaf_K.tolist()) == (("mammal", "bird"), [0, 0, 0, -1, 1, -1, -1, -1])
    assert pet.groups_G.tolist() == [1, 2, 4]
    assert [taxonomy.leaves_of(number) for number in range(5)] == [[0, 1, 2], [0, 1], [2], [4], [5]]
    assert taxonomy.leaf_paths.tolist() == [[1, 0], [1, 0], [2, 0], [-1, -1], [3, -1], [4, -1], [-1, -1], [-1, -1]]
    assert taxonomy.leaves_right_below(NO_GROUP) == [3, 6, 7]
    assert (taxonomy.roots, taxonomy.children) == ((0, 3, 4), ((1, 2), (), (), (), ()))
    assert pickle.loads(pickle.dumps(taxonomy)).content_hash == taxonomy.content_hash  # it travels to workers
    for array in (pet.group_of_leaf_K, taxonomy.leaves_L, taxonomy.leaf_paths):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pets.csv", "\ufeff" + CSV),
        ("pets.csv", CSV.replace("\n", "\r\n")),
        ("pets.csv", CSV.replace("beagle,dog", '"beagle", "dog"').replace("\n", "\n\n").rstrip()),
        ("pets.csv", CSV.replace("\n", ",,\n")),  # as spreadsheets write columns that are blank
        ("pets.csv", CSV.replace(",", "\t")),
        ("PETS.TSV", CSV.replace(",", "\t")),
        ("pets.json", json.dumps(ENTRIES)),
        ("pets.json", "\ufeff" + json.dumps(ENTRIES[::-1][1:] + ENTRIES[-1:], indent=1)),
        ("pets", json.dumps(ENTRIES)),
        ("pets.yaml", YAML),
        ("pets.yml", json.dumps(ENTRIES)),  # JSON is YAML
    ],
)
def test_the_same_content_in_any_format_and_order_is_the_same(path, text):
    taxonomy, plain = parse(text, path), parse(CSV)
    assert taxonomy.content_hash == plain.content_hash
    assert (taxonomy.groups, taxonomy.level_names) == (plain.groups, plain.level_names)


def test_what_changes_results_changes_the_hash():
    others = [
        CSV.replace("beagle,dog", "pug,dog"),
        CSV.replace("mammal", "beast"),
        CSV.replace("pet,", "kind,"),
        CSV.replace("goldfish,fish,\n", ""),
        CSV.replace("goldfish,fish,", "goldfish,,fish"),
    ]
    assert len({parse(text).content_hash for text in [CSV, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,pet\ntabby,cat\nbeagel,dog\n", ", row 3: 'beagel' is none of the 8 classes; did you mean 'beagle'"),
        ("class,pet\ntabby,cat\n8,dog\n", ", row 3: '8' is none of the 8 classes"),
        ("class,pet\ntabby,cat\nnone,dog\n", ", row 3: 'none' is none of the 8 classes"),
        ("class,pet\n07,cat\n\n7,dog\n", ", row 4: '7' is class 7 (07), as in row 2"),
        ("class,pet\ntabby,cat\n0,cat\n", ", row 3: '0' is class 0 (tabby), as in row 2"),
        ("class,pet\n,cat\n", ", row 2: no class in it"),
        (
            "class,pet,animal\ntabby,cat,mammal\n1,cat,bird\n",
            ", row 3: pet 'cat' is in animal 'bird', but in animal 'mammal' in row 2",
        ),
        (
            "class,pet,animal\ntabby,cat,\n1,cat,bird\n",
            ", row 3: pet 'cat' is in animal 'bird', but in no animal in row 2",
        ),
        (
            "class,animal,pet\ntabby,mammal,cat\npug,mammal,dog\n1,bird,parrot\n",
            ", row 3: animal 'mammal' is in pet 'dog', but in pet 'cat' in row 2; the finest level must come first",
        ),
        ("class,a,b,c\ntabby,cat,,x\n1,cat,,y\npug,dog,d,z\n", ", row 3: a 'cat' is in c 'y', but in c 'x' in row 2"),
        ("name,pet\ntabby,cat\n", ", row 1: the first column must be 'class', not 'name'"),
        ("class\ntabby\n", ", row 1: no levels; it takes a column for each, behind 'class', the finest first"),
        ("class,pet,pet\ntabby,cat,cat\n", ", row 1: 'pet' cannot be a level: 'pet' is a column already"),
        ("class,class\ntabby,cat\n", ", row 1: 'class' cannot be the name of a level"),
        ("class,pet,Pet\ntabby,cat,cat\n", ", row 1: 'Pet' cannot be a level: 'Pet' is a column already"),
        ("class,pet,pet_score\ntabby,cat,cat\n", ", row 1: 'pet_score' cannot be a level"),
        ("class,Label\ntabby,cat\n", ", row 1: 'Label' cannot be a level: 'Label' is a column of predictions"),
        ("class,my pet\ntabby,cat\n", ", row 1: 'my pet' cannot be the name of a level: letters, digits and _ only"),
        ("class,pet,,animal\ntabby,cat,,x\n", ", row 1: '' cannot be the name of a level"),
        ("class,pet\ntabby,\n", ", row 1: the level 'pet' has no group in it"),
        ("class,pet\n", ", row 1: no row behind the header"),
        ("class,member:a\ntabby,1\n", ", row 1: no levels; it takes a column for each"),
        ("class,pet,member:a,member: a\ntabby,cat,1,1\n", ", row 1: member:a is a column already"),
        ("class,pet,member:\ntabby,cat,1\n", ", row 1: member: names no member: it takes the alias of one"),
        ("class,pet,member:a b\ntabby,cat,1\n", ", row 1: member:a b names no member"),
        ("class,pet,member:a\ntabby,cat,\n", ", row 1: member:a has no class in it"),
        ("class,pet,Member:a\ntabby,cat,1\n", ", row 1: 'Member:a' cannot be the name of a level"),
        ("class,pet\ntabby,cat,mammal\n", ", row 2: 3 cells, but the header has 2"),
        ("class,pet,animal\ntabby,cat\n", ", row 2: 2 cells, but the header has 3"),
        ("class;pet\ntabby;cat\n", ", row 1: columns are separated by semicolons; save it with commas or tabs"),
        ('class,pet\ntabby,"cat\n', ", row 2: not CSV: unexpected end of data"),
        ("class,pet\ntabby,c\x1bat\n", r", row 2: 'c\x1bat' holds a character that cannot be printed"),
        ("", ": empty; it takes a header 'class,LEVEL' and a row for each class"),
        (",\n,,\n", ": empty; it takes a header"),
        (" \n\n", ": empty; it takes a header 'class,LEVEL' and a row for each class"),
        (b"class,pet\ntabby,K\xe4tzchen\n", ": not UTF-8 text"),
        (b"PK\x03\x04\0\0\0", ": not a text file: it holds NUL characters"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line_that_names_the_row(text, message):
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("a.json", '{"tabby": "cat"}', ": expected a list of entries such as {class: tabby, pet: cat}"),
        ("a.json", '["tabby"]', ": expected a list of entries"),
        ("a.json", "[]", ": expected a list of entries"),
        ("a.json", "[{]", ": not JSON: "),
        ("a.json", "[" * 5000, ": not JSON: "),
        ("a.json", '[{"class": "tabby", "pet": ["cat"]}]', ", entry 1: 'pet' is neither text nor a number"),
        ("a.json", '[{"class": true, "pet": "cat"}]', ", entry 1: 'class' is neither text nor a number"),
        ("a.json", '[{"class": "tabby", "pet": "a", "pet": "b"}]', ", entry 1: 'pet' stands there twice"),
        ("a.json", '[{"class": 0, "pet": "a"}, {"pet": "b"}]', ", entry 2: no 'class' in it"),
        (
            "a.json",
            '[{"class": 0, "pet": "a"}, {"class": 1, "pets": "b"}]',
            ", entry 2: 'pets' is no level of the first",
        ),
        (
            "a.json",
            '[{"class": 0, "pet": "a"}, {"class": "0", "pet": "a"}]',
            ", entry 2: '0' is class 0 (tabby), as in entry 1",
        ),
        ("a.json", '[{"class": 0}]', ", entry 1: no levels"),
        ("a.yaml", "tabby: cat\n", ": expected a list of entries"),
        ("a.yaml", "- {class: tabby, pet: [cat]}\n", ", entry 1: 'pet' is neither text nor a number"),
        ("a.yaml", "- {class: tabby, pet: a, pet: b}\n", ", entry 1: 'pet' stands there twice"),
        ("a.yaml", "- {class: tabby, [a]: b}\n", ", entry 1: 'a key' is neither text nor a number"),
        ("a.yaml", "- {class: tabby, pet: cat\n", ": not YAML: "),
        ("a.yaml", "- *cat\n", ": not YAML: "),
    ],
)
def test_what_is_wrong_with_a_list_is_one_line_that_names_the_entry(path, text, message):
    assert refusal(text, path).startswith(message)


def test_names_of_yaml_are_what_stands_there():
    taxonomy = parse("- {class: tabby, pet: no}\n- {class: 1, pet: 1_0}\n- {class: pug, pet: 2024-01-01}\n", "a.yaml")
    assert taxonomy.levels[0].names == ("no", "1_0", "2024-01-01")


def test_one_name_has_one_form():
    taxonomy = parse("class,größe\ntabby,Hu\u0308ndin  x\n1,H\u00fcndin x\n")
    assert taxonomy.levels[0].names == ("H\u00fcndin x",)


def test_a_group_of_wordnet_stands_for_its_classes_without_a_row_of_their_own():
    rows = ["class,pet", "macaw,parrot", "domestic_cat.n.01,cat", "Egyptian cat,pharaoh", "feline.n.01,big cat"]
    names = ("macaw", "Egyptian cat", "tabby", "tiger", "Siamese cat")
    for order in (rows[1:], rows[:0:-1]):
        taxonomy = parse_classes("a.csv", "\n".join([rows[0], *order]).encode(), names)
        (level,) = taxonomy.levels
        groups = [level.names[group] for group in level.group_of_leaf_K]
        assert groups == ["parrot", "pharaoh", "cat", "big cat", "cat"]
    for wrong, message in (
        ("n02121808,cat", "row 6: 'n02121808' is the same group, as in row 3"),
        ("carr.n.01,car", "row 6: wordnet: no group is called 'carr.n.01'"),
    ):
        with pytest.raises(InputError, match=message):
            parse_classes("a.csv", "\n".join([*rows, wrong]).encode(), names)
    assert refusal("class,pet\ndog.n.01,dog\n").startswith(", row 2: wordnet: its leaves are ImageNet's classes")


def test_columns_of_members_are_no_levels():
    rows = ["class,member:b,pet,member:a", "domestic_cat.n.01,0,cat,purrs", "macaw,,parrot,7", "Egyptian cat,,cat,7"]
    names = ("macaw", "Egyptian cat", "tabby", "Siamese cat")
    taxonomy = parse_classes("a.csv", "\n".join(rows).encode(), names)
    assert taxonomy.level_names == ("pet",)
    first, second = taxonomy.member_columns
    assert (first.alias, first.cells, first.num_own, first.num_leaves) == ("a", ("7", "7", "purrs", "purrs"), 2, 4)
    assert (second.alias, second.cells, second.num_own, second.num_leaves) == ("b", ("", "", "0", "0"), 1, 2)
    assert find_own_classes("a.csv", first, 3, ("hums", "7", "purrs")) == (1, 1, 2, 2)  # a name before an index
    assert find_own_classes("a.csv", second, 1) == (NOT_KNOWN, NOT_KNOWN, 0, 0)
    for own_names, says in (((), ", which its file does not name: an index, 0 to 7, does"), (("purr", *"bcdefgh"), "")):
        with pytest.raises(InputError, match=rf"a.csv, row 2: member:a: 'purrs' is none of its 8 classes{says}"):
            find_own_classes("a.csv", first, 8, own_names)


def test_columns_of_members_are_in_the_hash_and_without_them_it_is_that_of_earlier_versions():
    assert parse(CSV).content_hash == "ba1a6db62b078ed16c09f513aee69cdada66e871f023d57ae78c9191084a4071"
    table = "class,pet,member:a,member:b\ntabby,cat,0,1\n"
    same = "class,member:b,member:a,pet\ntabby,1,0,cat\n"
    entry = '[{"class": 0, "pet": "cat", "member:b": 1, "member:a": "0"}]'
    yaml = "- {member:a: 0, class: tabby, pet: cat, member:b: 1}"
    hashes = {parse(table).content_hash, parse(same).content_hash}
    hashes |= {parse(entry, "a.json").content_hash, parse(yaml, "a.yaml").content_hash}
    assert len(hashes) == 1
    assert len({*hashes, *(parse(text).content_hash for text in (table.replace("0,1", "1,0"), CSV))}) == 3


def test_files_are_read_where_they_lie(tmp_path):
    (tmp_path / "pets.csv").write_text(CSV)
    assert read_classes(str(tmp_path / "pets.csv"), Storage(), NAMES).content_hash == parse(CSV).content_hash
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/none.csv: no such file")):
        read_classes(str(tmp_path / "none.csv"), Storage(), NAMES)


PIECES = ["class", "pet", "tabby", "0", "1", "cat", ",", "\t", ";", "\n", "\r", '"', " ", "\ufeff", "\u2028", "\x1b"]
PIECES += ["- ", "{", "}", "[", "]", ": ", "&a ", "*a", "<<: ", "~", "? ", "!!set ", "null", "dog.n.01", "n02084071"]


@given(
    st.lists(st.sampled_from(PIECES), max_size=40).map(lambda pieces: "".join(pieces).encode())
    | st.binary(max_size=60),
    st.sampled_from(["a.csv", "a.json", "a.yaml"]),
)
def test_whatever_is_in_a_file_it_is_read_or_refused(data, path):
    try:
        read = bool(parse_classes(path, data, NAMES).groups)
    except InputError as refused:
        read = str(refused).startswith(path)
    assert read
