"""File names and sample keys made from keys and class names: safe and unique."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exporting.names import file_stem, sample_key

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
