"""File names and sample keys made from keys and class names: safe and unique."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exporting.names import class_folders, file_stem, same_on_disk, sample_key
from pipeline.labels import imagenet_names

ODD = st.text(st.sampled_from("aA.%/25E_ \\:~#ü\n\x7f") | st.characters(), max_size=12)


@pytest.mark.parametrize(
    ("text", "key", "stem"),
    [
        ("dir/0001", "dir/0001", "dir%2F0001"),
        ("ünï cöde-1_x", "ünï cöde-1_x", "ünï cöde-1_x"),
        ("100% sure", "100% sure", "100% sure"),
        ("a%20b", "a%2520b", "a%2520b"),
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("/abs", "%FF/abs", "%2Fabs"),
        ("a.b", "a%2Eb", "a.b"),
        (".hidden", "%2Ehidden", "%2Ehidden"),
        ("__meta__/x", "%5F_meta__/x", "__meta__%2Fx"),
        ("CON", "%43ON", "%43ON"),
        ("nul .txt", "%6Eul %2Etxt", "%6Eul .txt"),
        ("com\xb9", "%63om\xb9", "%63om\xb9"),
        ("CONOUT$", "%43ONOUT$", "%43ONOUT$"),
        ("console", "console", "console"),
        ("", "%FF", "%FF"),
    ],
)
def test_names_that_are_known(text, key, stem):
    assert (sample_key(text), file_stem(text)) == (key, stem)


@given(ODD, ODD)
def test_different_texts_have_different_names(one, other):
    if one != other:
        assert sample_key(one) != sample_key(other)
        assert file_stem(one) != file_stem(other)
    elif one:
        assert sample_key(one) == sample_key(other)


@given(st.text(max_size=300) | ODD)
def test_names_are_safe(text):
    key, stem = sample_key(text), file_stem(text)
    for name in (*key.split("/"), stem):
        assert name not in {"", ".", ".."}
        assert "\\" not in name
        assert name.isprintable() or not name.isascii()
    assert "/" not in stem
    assert not key.startswith(("/", "__"))
    assert "." not in key.rpartition("/")[2]
    assert max(len(key.encode()), len(stem.encode())) <= 200


def test_long_keys_that_begin_alike_differ():
    assert sample_key("x" * 300) != sample_key("x" * 301)
    assert file_stem("ü" * 300) != file_stem("ü" * 301)


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("Cardigan", "cardigan", "tench"), ("Cardigan (0)", "cardigan (1)", "tench")),
        (("a", "A", "A (1)"), ("a (0)", "A (1) (1)", "A (1)")),
        (("caf\u00e9", "cafe\u0301"), ("caf\u00e9 (0)", "cafe\u0301 (1)")),
        (("Stra\xdfe", "STRASSE"), ("Stra\xdfe (0)", "STRASSE (1)")),
        (("x.", "x", "x "), ("x%2E", "x", "x%20")),
        (("con", "CON", "nul.tar"), ("%63on", "%43ON", "%6Eul.tar")),
    ],
)
def test_folders_of_classes(names, folders):
    assert class_folders(names) == folders


@given(st.lists(ODD, max_size=8, unique=True))
def test_folders_of_classes_are_distinct_on_every_file_system(names):
    assert len({same_on_disk(name) for name in class_folders(names)}) == len(names)


def test_folders_of_imagenet():
    names = imagenet_names()
    folders = class_folders(names)
    assert {name for name, folder in zip(names, folders, strict=True) if name != folder} == {"Cardigan", "cardigan"}
    assert (folders[264], folders[474]) == ("Cardigan (264)", "cardigan (474)")
