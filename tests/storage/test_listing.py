"""Answers to LIST that are none, or not all: they must not look like a prefix with less in it."""

from __future__ import annotations

import pytest
from fuzz.properties import AnsweringStore
from fuzz.seeds import listings

from pipeline.errors import StorageError

SOUND, EMPTY, UNFINISHED = listings()


@pytest.fixture(scope="module")
def store() -> AnsweringStore:
    return AnsweringStore()


def test_sound_answers(store):
    assert [entry.uri for entry in store.listed(SOUND)] == ["s3://bucket/p/a.jpg", "s3://bucket/p/é.jpg"]
    assert store.listed(EMPTY) == []


@pytest.mark.parametrize("body", [b"", b"<html><body>Please log in</body></html>", b"<ListBucketResult/>"])
def test_an_answer_that_is_no_listing(store, body):
    with pytest.raises(StorageError, match="no listing"):
        store.listed(body)


@pytest.mark.parametrize(
    "body", [UNFINISHED, UNFINISHED.replace(b"<NextContinuationToken>t</NextContinuationToken>", b"")]
)
def test_a_truncated_listing_without_a_token_is_an_error(store, body):
    """Without a token, or with the same one each time, which would never end."""
    with pytest.raises(StorageError, match="more to list"):
        store.listed(body)


@pytest.mark.parametrize("lost", [b"Size", b"ETag", b"LastModified", b"Key"])
def test_an_object_that_is_not_described(store, lost):
    start, end = SOUND.index(b"<%s>" % lost), SOUND.index(b"</%s>" % lost) + len(lost) + 3
    with pytest.raises(StorageError, match=r"without its size, version or time|makes no sense"):
        store.listed(SOUND[:start] + SOUND[end:])


def test_an_answer_torn_in_the_middle(store):
    for end in range(1, len(SOUND)):
        with pytest.raises(StorageError):
            store.listed(SOUND[:end])
