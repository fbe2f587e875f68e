"""Class names: of a file, of ImageNet, or the indices as text."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.labels import (
    NO_CLASS,
    ClassResolver,
    ClsTruth,
    imagenet_names,
    nearest_names,
    no_class_text,
    parse_names,
)


def test_names_are_lines_or_a_json_list():
    assert parse_names(" cat\r\ndog, big\n\nowl\n\n", "f") == ("cat", "dog, big", "", "owl")
    assert parse_names('  ["cat", "caf\\u00e9"]', "f") == ("cat", "café")


@pytest.mark.parametrize("text", ["", "\n \n", "[]", '["cat"', "[1, 2]", "[" * 100_000, '["\\ud800"]'])
def test_text_without_names_is_refused(text: str):
    with pytest.raises(InputError, match=r"^--labels f: "):
        parse_names(text, "f")


# -- which class a text names --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet():
    return ClassResolver(imagenet_names())


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("goldfish", 1),
        (" Goldfish\r\n", 1),
        ("TIGER_SHARK", 3),
        ("great-white  shark", 2),
        ('"bald eagle"', 22),
        ("['bald eagle']", 22),
        ("n01440764", 0),
        ("N01440764", 0),
        ("n02085620-Chihuahua", 151),
        ("n01440764 tench, Tinca tinca", 0),
        ("tench, Tinca tinca", 0),
        ("Tinca tinca", 0),
        ("white shark", 2),
        ("jack-o\u2019-lantern", 607),
        ("Jack O Lantern", 607),
        ("yellow ladys slipper", 986),
        ("LAKELAND_TERRIER", 189),
        ("LakelandTerrier", 189),
        ("st bernard", 247),
        ("None", NO_CLASS),
        ("none of these", NO_CLASS),
        ("NO_CLASS", NO_CLASS),
        ("nothing", None),
        ("cardigan", 474),
        ("Cardigan", 264),
        ("CARDIGAN", None),  # a dog or a garment
        ("crane", 517),  # the class of this name; the bird is 'crane bird'
        ("crane bird", 134),
        ("maillot", 638),
        ("maillot, tank suit", 639),
        ("polecat, fitch, foulmart", 358),  # a skunk is called polecat, too
        ("goldfish, tiger shark", None),
        ("n99999999", None),
        ("zorblax", None),
        ("3", 3),
        ("+03", 3),
        ("3.0", 3),
        ("3.", 3),
        ("3,0", 3),
        ("3.000000000000000000e+00", 3),
        ("[3]", 3),
        ("3.5", None),
        ("3,5", None),
        ("1,000", None),
        ("1000", None),
        ("-1", None),
        ("9" * 5000, None),
        ("1_0", None),
        ("\u0663", None),
        ("", None),
    ],
)
def test_what_names_a_class_of_imagenet(imagenet, text, label):
    assert imagenet.resolve(text) == label


def test_every_name_id_and_list_of_synonyms_of_imagenet_is_its_class(imagenet):
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    assert [imagenet.resolve(name) for name in imagenet_names()] == list(range(1000))
    assert [imagenet.resolve(wordnet_id) for wordnet_id in info.label_names()] == list(range(1000))
    own = {label: imagenet.resolve(text) for label, text in enumerate(info.label_descriptions())}
    assert {label for label, found in own.items() if found != label} == {134}  # timm calls it 'crane', as 517


def test_imagenet_by_other_names_keeps_its_wordnet_ids():
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    for names in (info.label_names(), info.label_descriptions()):
        classes = ClassResolver(names)
        assert (classes.resolve("n01443537"), classes.resolve("goldfish")) == (1, 1)
        assert classes.resolve("crane") is None
    others = ClassResolver([f"class {label}" for label in range(1000)])
    assert others.resolve("n01443537") is others.resolve("goldfish") is None


OWN = ("cat", "Hot Dog", "dog, hound", "7", "caf\u00e9", "C++", "a_b", "a-b", "")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("CAT", 0),
        ("hot_dog", 1),
        ("hound", 2),
        ("dog", 2),
        ("7", 3),  # a name before an index
        ("7.0", 7),
        ("cafe\u0301", 4),  # the same letters, composed otherwise
        ("cafe", None),
        ("C", None),
        ("a-b", 7),
        ("a b", None),
        ("(8)", 8),  # as predictions call the class without a name
    ],
)
def test_what_names_an_own_class(text, label):
    assert ClassResolver(OWN).resolve(text) == label


@pytest.mark.parametrize(
    ("data", "label", "text"),
    [
        (None, None, ""),
        (b"", None, ""),
        (b" \r\n", None, ""),
        (b"1", 1, ""),
        (b"1.0\n", 1, ""),
        (b"\xef\xbb\xbf1\r\n", 1, ""),
        ("hot dog".encode("utf-16"), 1, ""),
        ("caf\u00e9".encode("latin-1"), 4, ""),
        (b"2\0\0", 2, ""),
        (b"3", 3, ""),
        (b"7", 7, ""),  # an index, even where it is a name
        (b"9", 9, "9"),
        (b"-1", None, "-1"),  # what data sets write for an unknown truth
        (b"None of these", NO_CLASS, ""),
        (b"2147483648", None, "2147483648"),
        (b"owl\n", None, "owl"),
        (b"\xff", None, "\xff"),
    ],
)
def test_what_a_cls_says(data, label, text):
    assert ClassResolver(OWN).resolve_cls(data) == ClsTruth(label, text)


def test_a_class_of_the_reserved_name_comes_before_it():
    classes = ClassResolver(["cat", "None"])
    assert [classes.resolve(text) for text in ("none", "NONE", "none of these")] == [1, 1, NO_CLASS]
    assert (no_class_text(["cat", "None"]), no_class_text(["cat"])) == ("none of these", "none")
    assert classes.resolve_index("-1") is None


def test_separators_are_left_out_where_one_class_remains():
    classes = ClassResolver(["t-shirt", "Tshirt", "lens 1.4", "lens 14", "a 1 2"])
    assert classes.resolve("t shirt") == 0
    assert classes.resolve("tsh-irt") is None  # two classes
    assert [classes.resolve(text) for text in ("lens1.4", "Lens14", "a12", "a1 2")] == [2, 3, None, 4]


def test_what_is_meant_is_found_among_the_names(imagenet):
    assert nearest_names("tabby caat", imagenet_names())[0] == "tabby"
    assert nearest_names("Sorrel_horse", ["Horse", "sorrel", "dog"], 1) == ("sorrel",)


def test_columns_of_numbers_hold_no_names():
    classes = ClassResolver(OWN)
    assert (classes.resolve_index("7"), classes.resolve_index("9"), classes.resolve_index("cat")) == (7, None, None)
