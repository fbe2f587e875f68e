"""The job on stores that are unlike others: that list in no order, charge whoever asks, or keep objects in archives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import jpeg, make_tar, sample_members
from small_jobs import keys, options

from pipeline import export, label, plan, status, verify
from pipeline.inputs import plan as planning


@pytest.fixture
def run(s3, sample_data: Path) -> Callable:
    """Label into ``out`` of a bucket."""

    def run_(bucket: str, *words: str, **more):
        return label(
            [f"s3://{bucket}/{word}" for word in words],
            f"s3://{bucket}/out",
            **options(sample_data, **({"s3_endpoint": s3.endpoint} | more)),
        )

    return run_


# -- order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "out"), [("p/*.jpg", "s3"), ("p/", "local")])
def test_more_images_on_a_store_that_lists_in_no_order(
    s3, fault_proxy, sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, out: str
):
    """Slices of four, so that their ranges cross when images come in between."""
    monkeypatch.setattr(planning, "SLICE_KEYS", 4)
    fault_proxy.reverses = True
    bucket = s3.bucket()
    place = f"s3://{bucket}/out" if out == "s3" else str(tmp_path / "out")

    def once():
        options_ = options(sample_data, s3_endpoint=fault_proxy.endpoint, rows_per_part=2)
        return label(f"s3://{bucket}/{word}", place, **options_)

    for number in range(0, 14, 2):
        s3.put(bucket, f"p/{number:02d}.jpg", jpeg(number))
    assert (once().labelled, once().images) == (7, 0)
    for number in range(1, 10, 2):
        s3.put(bucket, f"p/{number:02d}.jpg", jpeg(number))
    summary = once()
    assert (summary.labelled, summary.exit_code) == (5, 0)
    s3.put(bucket, "p/04.jpg", jpeg(99))  # changed, and labelled again without its slice
    assert (once().labelled, once().images) == (1, 0)
    for endpoint in (fault_proxy.endpoint, s3.endpoint):
        found = verify(place, s3_endpoint=endpoint, deep=True)
        assert (found.discrepancies, found.samples, found.predictions) == ((), 12, 12)
        assert status(place, s3_endpoint=endpoint).images == 12


def test_shards_on_a_store_that_lists_in_no_order(s3, fault_proxy, run, tmp_path: Path):
    fault_proxy.reverses = True
    bucket = s3.bucket()
    for number in range(3):
        shard = make_tar(tmp_path / f"{number}.tar", sample_members(5, start=5 * number))
        s3.put(bucket, f"t/{number}.tar", shard.read_bytes())
    for _ in range(2):
        summary = run(bucket, "t/", s3_endpoint=fault_proxy.endpoint, rows_per_part=2)
    assert (summary.units_done, summary.images) == (3, 0)
    assert verify(f"s3://{bucket}/out", s3_endpoint=fault_proxy.endpoint).discrepancies == ()


# -- empty steps in keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", ["/", "a//", "a//b/"])
def test_keys_with_empty_steps_are_labelled_verified_and_exported(s3, run, tmp_path: Path, fold: str):
    bucket = s3.bucket()
    for number, key in enumerate([f"{fold}1.jpg", f"{fold}2.jpg", fold.replace("//", "/").strip("/") + "x/1.jpg"]):
        s3.put(bucket, key, jpeg(number))
    for word in (fold, f"{fold}{{1..2}}.jpg", f"{fold}[12].jpg"):
        run(bucket, word)
    found = verify(f"s3://{bucket}/out", s3_endpoint=s3.endpoint, deep=True)
    assert (found.discrepancies, found.predictions) == ((), 2)
    if fold == "/":  # a key that begins with a slash is no absolute path
        dataset = tmp_path / "dataset"
        words = {"format": "imagefolder", "engine": "inline", "s3_endpoint": s3.endpoint}
        assert export(f"s3://{bucket}/out", to=dataset, **words).images == 2
        assert len(list(dataset.rglob("*.jpg"))) == 2


# -- archives ---------------------------------------------------------------------------------------------


def archive(s3, bucket: str, key: str, data: bytes, kind: str = "GLACIER") -> None:
    s3.client.put_object(Bucket=bucket, Key=key, Body=data, StorageClass=kind)


def restore(s3, bucket: str, key: str) -> None:
    s3.client.restore_object(Bucket=bucket, Key=key, RestoreRequest={"Days": 1})


@pytest.mark.parametrize("kind", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_image_is_named_and_labelled_once_it_is_restored(s3, run, kind: str):
    bucket = s3.bucket()
    for number in range(3):
        s3.put(bucket, f"p/{number}.jpg", jpeg(number))
    archive(s3, bucket, "p/9.jpg", jpeg(9), kind)
    for images in (4, 0):  # a second run tries it again, and labels nothing twice
        summary = run(bucket, "p/")
        assert (summary.exit_code, summary.images, summary.unread_images) == (4, images, 1)
        (image,) = summary.unread_examples
        assert (image.uri, image.reason) == (f"s3://{bucket}/p/9.jpg", "shard_archived")
        assert f"in an archive class ({kind}): it must be restored" in image.message
    out = f"s3://{bucket}/out"
    assert status(out, s3_endpoint=s3.endpoint).quarantined == {"shard_archived": 1}
    assert verify(out, s3_endpoint=s3.endpoint, deep=True).exit_code == 0  # accounted for, in quarantine
    restore(s3, bucket, "p/9.jpg")
    summary = run(bucket, "p/")
    assert (summary.exit_code, summary.labelled) == (0, 4)
    found = verify(out, s3_endpoint=s3.endpoint, deep=True)
    assert (found.discrepancies, found.predictions, found.quarantined) == ((), 4, 0)
    assert run(bucket, "p/").exit_code == 0


def test_an_archived_shard_fails_and_is_read_once_it_is_restored(s3, run, tmp_path: Path):
    bucket = s3.bucket()
    shard = make_tar(tmp_path / "a.tar", sample_members(3)).read_bytes()
    s3.put(bucket, "t/a.tar", shard)
    archive(s3, bucket, "t/b.tar", shard)
    archive(s3, bucket, "t/c.tar", shard, "GLACIER_IR")  # which is read like any other
    summary = run(bucket, "t/")
    assert (summary.exit_code, summary.labelled) == (4, 6)
    (failure,) = summary.failures
    assert (failure.uri, failure.reason) == (f"s3://{bucket}/t/b.tar", "shard_archived")
    assert "in an archive class (GLACIER): it must be restored before it can be read" in failure.message
    out = f"s3://{bucket}/out"
    assert status(out, s3_endpoint=s3.endpoint).unreadable == (f"s3://{bucket}/t/b.tar",)
    assert verify(out, s3_endpoint=s3.endpoint).exit_code == 1
    restore(s3, bucket, "t/b.tar")
    assert (run(bucket, "t/").exit_code, verify(out, s3_endpoint=s3.endpoint).exit_code) == (0, 0)


def test_a_request_for_nothing_but_archives_says_so(s3, run):
    bucket = s3.bucket()
    archive(s3, bucket, "p/9.jpg", jpeg(9))
    with pytest.raises(Exception, match="in an archive class") as caught:
        plan(f"s3://{bucket}/p/", measure=False, s3_endpoint=s3.endpoint)
    assert "must be restored" in str(caught.value)
    assert run(bucket, "p/").exit_code == 4


# -- whose requests they are ------------------------------------------------------------------------------


def test_every_request_says_that_the_requester_pays(s3, fault_proxy, run, shardlabel):
    bucket = s3.bucket()
    for number in range(3):
        s3.put(bucket, f"p/{number}.jpg", jpeg(number))
    run(bucket, "p/", s3_endpoint=fault_proxy.endpoint, request_payer=True)
    out = f"s3://{bucket}/out"
    for command in ("verify", "status"):
        words = [command, out, "--s3-endpoint", fault_proxy.endpoint, "--request-payer"]
        assert shardlabel(*words).returncode == 0
    assert {request.method for request in fault_proxy.requests} >= {"GET", "HEAD", "PUT"}
    assert {request.headers.get("x-amz-request-payer") for request in fault_proxy.requests} == {"requester"}
    fault_proxy.requests.clear()
    verify(out, s3_endpoint=fault_proxy.endpoint)
    assert {request.headers.get("x-amz-request-payer") for request in fault_proxy.requests} == {None}
    assert len(keys(s3, bucket, "out/predictions")) == 1
