"""Stores that list in no order, and listings that memory does not hold: each object comes out once, in order."""

from __future__ import annotations

import datetime
import random

import pytest
from servers import FaultProxy, S3Server

from pipeline.config.settings import StorageConfig
from pipeline.errors import ListingUnordered
from pipeline.output.ledger import Ledger
from pipeline.output.parts import PartName, Progress
from pipeline.storage import Entry, Storage, sorting
from pipeline.storage.s3 import S3Store
from pipeline.storage.sorting import sort_entries
from pipeline.verifying.loose_images import find_present


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 25, 95])
def test_sorting_on_disk_gives_each_uri_once_in_order(monkeypatch: pytest.MonkeyPatch, count: int):
    monkeypatch.setattr(sorting, "_MOST_IN_MEMORY", 10)
    monkeypatch.setattr(sorting, "_MOST_FILES", 3)  # so that files are merged into others
    names = ["a", "a-b", "a/b", "é", "\U0001f600", "\udcff", '\n"\\']
    entries = [Entry(f"/{names[n % 7]}/{n}", n, f"v{n}", n / 3) for n in range(count)]
    shuffled = random.Random(0).sample(entries, count) + entries[: count // 2]
    assert list(sort_entries(iter(shuffled))) == sorted(entries, key=lambda entry: entry.uri)


class PagedStore(S3Store):
    """A store with given pages of listings."""

    def __init__(self, *pages: list[str]) -> None:
        super().__init__(StorageConfig())
        self._given = pages

    def _pages(self, prefix: str, after: str):
        assert not after
        for page in self._given:
            yield [Entry(f"{prefix}{name}", 1, "") for name in page]


def listed(store: S3Store, prefix: str = "s3://b/", **options) -> str:
    return "".join(entry.uri[-1] for entry in store.list(prefix, **options))


def test_a_bucket_that_was_seen_to_list_in_no_order_is_sorted():
    assert listed(PagedStore(["a", "b"], [], ["c"])) == "abc"
    assert listed(PagedStore(["c", "b"], ["d", "a"])) == "abcd"
    late = PagedStore(["b", "c"], ["a", "d"])
    assert listed(late, any_order=True) == "bcad"  # one pass in any order tells
    assert listed(late) == "abcd"
    assert listed(PagedStore(["b"], ["a"]), "s3://b--use1-az4--x-s3/") == "ab"  # S3 Express says so by its name


def test_what_was_begun_in_order_and_went_on_in_none_is_refused_not_cut_short():
    late = PagedStore(["b", "c"], ["a", "d"])
    with pytest.raises(ListingUnordered, match="in no order"):
        listed(late)
    assert listed(late) == "abcd"
    with pytest.raises(ListingUnordered):
        list(late.list("s3://b/", "s3://b/b"))


def test_a_directory_bucket_is_asked_for_folders_only(monkeypatch: pytest.MonkeyPatch):
    """S3 Express refuses other prefixes; moto has no such buckets."""
    asked = []

    class Client:
        def list_objects_v2(self, **words):
            asked.append(words)
            keys = ["p/b.jpg", "p/a2.jpg", "p/a1.jpg"]
            described = {"LastModified": datetime.datetime.now(datetime.UTC), "ETag": '"e"', "Size": 1}
            return {"IsTruncated": False, "Contents": [{"Key": key, **described} for key in keys]}

    monkeypatch.setattr(S3Store, "client", Client())
    bucket = "express--use1-az4--x-s3"
    found = [entry.uri for entry in S3Store(StorageConfig()).list(f"s3://{bucket}/p/a")]
    assert found == [f"s3://{bucket}/p/a1.jpg", f"s3://{bucket}/p/a2.jpg"]
    assert asked == [{"Bucket": bucket, "Prefix": "p/"}]


@pytest.fixture
def reversing(s3: S3Server, fault_proxy: FaultProxy) -> Storage:
    fault_proxy.reverses = True
    return s3.storage(s3_endpoint=fault_proxy.endpoint)


def test_images_of_a_slice_are_found_whatever_the_order(s3: S3Server, reversing: Storage):
    bucket = s3.bucket()
    planned = [reversing.stat(s3.put(bucket, f"p/{n}.jpg", b"x")) for n in range(9)]
    s3.client.delete_object(Bucket=bucket, Key="p/4.jpg")
    for some in (planned, planned[2:7]):
        for storage in (reversing, s3.storage()):
            found = find_present(some, f"s3://{bucket}/p/", storage)
            assert sorted(found) == [entry.uri for entry in some if not entry.uri.endswith("4.jpg")]


def test_progress_needs_no_order(s3: S3Server, reversing: Storage):
    bucket = s3.bucket()
    units = ["0" * 16, "1" * 16]
    names = [PartName("f" * 8, unit, part, part == 2) for part in (0, 1, 2) for unit in units]
    for name in names:
        s3.put(bucket, f"out/predictions/{name}", b"")
    ledger = Ledger(f"s3://{bucket}/out", reversing)
    assert ledger.progress("f" * 64) == dict.fromkeys(units, Progress(3, complete=True))
    assert ledger.names("predictions") == sorted(map(str, names))


def test_progress_is_right_where_parts_of_a_unit_are_no_neighbours(monkeypatch: pytest.MonkeyPatch, tmp_path):
    names = [f"part-ffffffff-{unit * 16}-0000{part}.parquet" for part in (1, 0) for unit in "01"]
    ledger = Ledger(str(tmp_path), Storage())
    monkeypatch.setattr(ledger, "_listed", lambda _: iter([(name, Entry(name, 0, "")) for name in names]))
    assert ledger.progress("f" * 64) == {unit * 16: Progress(2, complete=False) for unit in "01"}
