"""S3 against a real server, with a proxy that breaks answers in between."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import Fault, FaultProxy, S3Server, both_servers

from pipeline.errors import (
    ObjectArchived,
    ObjectChanged,
    ObjectForbidden,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
)
from pipeline.storage import Entry, Storage, s3_retry, s3_stream
from pipeline.storage import s3 as module

pytestmark = [pytest.mark.usefixtures("s3"), both_servers]
KB = 1024
DATA = bytes(n * 31 % 251 for n in range(100 * KB + 7))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ranges and short waits; retries are left to our own loop, which is what is tested."""
    monkeypatch.setattr(s3_stream, "RANGE_BYTES", 10 * KB)
    monkeypatch.setattr(module, "_PIECE_BYTES", KB)
    monkeypatch.setattr(s3_stream, "RANGES_IN_FLIGHT", 3)
    monkeypatch.setattr(s3_retry, "_BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "_CLIENT_RETRIES", 0)


@pytest.fixture
def proxied(fault_proxy: FaultProxy, s3: S3Server) -> Storage:
    return s3.storage(s3_endpoint=fault_proxy.endpoint)


def ranges(proxy: FaultProxy) -> list[tuple[int, int]]:
    """The (first, last) bytes of the requests, in order of the first."""
    given = [request.headers for request in proxy.requests]
    asked = [headers["range"].removeprefix("bytes=") for headers in given if "range" in headers]
    return sorted((int(first), int(last)) for first, _, last in (text.partition("-") for text in asked))


# -- listing ----------------------------------------------------------------------------------------------


def test_a_listing_goes_on_past_its_first_page_in_order(
    s3: S3Server, fault_proxy: FaultProxy, proxied: Storage, monkeypatch, request
):
    is_moto = request.node.callspec.params["s3_server"] == "moto"
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "100")  # of a page, for it takes 5 ms a key
    bucket = s3.bucket()
    keys = [f"p/{n:04d}.jpg" for n in range(103 if is_moto else 1003)] + [
        "p-/x",
        "p/é.jpg",
        "p/z\uffee",
        "p/z\U0001f600",
        "p/a b+c%20&.jpg",
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.put(bucket, key, b"x"), keys))
    s3.put(bucket, "p/folder/", b"")  # the console's mark of a folder is no object of ours
    assert [entry.uri for entry in proxied.list(f"s3://{bucket}/p/")] == [
        f"s3://{bucket}/{key}" for key in sorted(keys) if key.startswith("p/")
    ]
    assert len(fault_proxy.requests) == 2
    after = list(proxied.list(f"s3://{bucket}/p/", f"s3://{bucket}/p/0000.jpg"))
    assert [entry.uri for entry in after[:2]] == [f"s3://{bucket}/p/0001.jpg", f"s3://{bucket}/p/0002.jpg"]
    assert len(after) == len(keys) - 2  # without the first, and without p-/x


def test_an_entry_is_the_same_from_a_listing_and_from_a_look(s3: S3Server):
    bucket = s3.bucket()
    uri = s3.put(bucket, "p/ä/x.tar", DATA)
    (listed,) = s3.storage().list(f"s3://{bucket}/p")
    looked_at = s3.storage().stat(uri)
    assert (listed.uri, listed.size_bytes, listed.etag) == (looked_at.uri, looked_at.size_bytes, looked_at.etag)
    assert abs(listed.modified_s - looked_at.modified_s) < 1.0
    assert abs(listed.modified_s - time.time()) < 60.0
    assert listed.size_bytes == len(DATA)
    assert listed.etag
    assert '"' not in listed.etag


# -- reading ----------------------------------------------------------------------------------------------


def test_a_stream_goes_over_many_ranges(s3: S3Server, fault_proxy: FaultProxy, proxied: Storage):
    entry = proxied.stat(s3.put(s3.bucket(), "x", DATA))
    stream = proxied.open(entry)
    got = b""
    for size in (0, 1, 511, 25 * KB, 3 * KB, 200 * KB, 5):
        assert stream.position == len(got)
        got += stream.read(size)
    assert got == DATA
    stream.close()
    starts = range(0, len(DATA), 10 * KB)
    assert ranges(fault_proxy) == [(start, min(start + 10 * KB, len(DATA)) - 1) for start in starts]


def test_a_stream_starts_anywhere(s3: S3Server, fault_proxy: FaultProxy, proxied: Storage):
    entry = proxied.stat(s3.put(s3.bucket(), "x", DATA))
    stream = proxied.open(entry, 95 * KB)
    assert stream.position == 95 * KB
    assert stream.read(len(DATA)) == DATA[95 * KB :]
    assert ranges(fault_proxy) == [(95 * KB, len(DATA) - 1)]
    at_the_end = proxied.open(entry, len(DATA))
    assert (at_the_end.read(1), at_the_end.skip(1)) == (b"", 0)


def test_a_long_skip_fetches_nothing_in_between(s3: S3Server, fault_proxy: FaultProxy, proxied: Storage):
    entry = proxied.stat(s3.put(s3.bucket(), "x", DATA))
    stream = proxied.open(entry)
    assert stream.read(512) == DATA[:512]
    assert stream.skip(90 * KB) == 90 * KB
    assert stream.position == 90 * KB + 512
    assert stream.read(5) == DATA[90 * KB + 512 :][:5]
    stream.close()
    fetched = {first for first, _ in ranges(fault_proxy)}
    assert not [first for first in fetched if 40 * KB <= first < 90 * KB]


def test_skips_within_and_between_ranges_keep_the_place(s3: S3Server, proxied: Storage):
    entry = proxied.stat(s3.put(s3.bucket(), "x", DATA))
    stream = proxied.open(entry)
    position = 0
    for skip, size in [(0, 10), (5, 10), (9 * KB, 2 * KB), (11 * KB, 1), (29 * KB, 10 * KB), (10 * KB - 1, 1), (0, 3)]:
        assert stream.skip(skip) == skip
        position += skip
        assert stream.read(size) == DATA[position : position + size]
        position += size
        assert stream.position == position
    assert stream.skip(1 << 30) == len(DATA) - position
    assert stream.read(1) == b""


def test_an_empty_object_is_read_and_a_missing_one_is_not_taken_for_it(s3: S3Server):
    storage, bucket = s3.storage(), s3.bucket()
    entry = storage.stat(s3.put(bucket, "empty", b""))
    assert storage.fetch(entry) == storage.read(entry.uri) == storage.open(entry).read(1) == b""
    gone = Entry(f"s3://{bucket}/gone", 0, entry.etag)
    for read in (storage.fetch, storage.open):
        with pytest.raises(ObjectMissing):
            read(gone)
    s3.put(bucket, "empty", b"no longer")
    for read in (storage.fetch, storage.open):
        with pytest.raises(ObjectChanged):
            read(entry)


def test_an_object_of_unknown_size_is_read_whole(s3: S3Server):
    uri = s3.put(s3.bucket(), "x", DATA)
    assert s3.storage().fetch(Entry(uri, -1, "")) == DATA
    assert s3.storage().open(Entry(uri, -1, "")).read(len(DATA) + 1) == DATA


# -- faults while reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_a_torn_body_goes_on_from_the_byte_it_had_reached(
    s3: S3Server, fault_proxy: FaultProxy, proxied: Storage, kind: str
):
    entry = proxied.stat(s3.put(s3.bucket(), "x", DATA))
    fault_proxy.faults = [Fault(kind, "GET", "/x", times=2, num_bytes=40 * KB)]
    assert proxied.fetch(entry) == DATA
    (_, _), (second, _), (third, last) = ranges(fault_proxy)
    assert 0 < second < third
    assert last == len(DATA) - 1


def test_a_whole_object_takes_one_request_and_a_torn_one_goes_on_with_the_same_version(
    s3: S3Server, fault_proxy: FaultProxy, proxied: Storage
):
    uri = s3.put(bucket := s3.bucket(), "x", DATA)
    assert proxied.read(uri) == DATA
    assert [request.method for request in fault_proxy.requests] == ["GET"]
    fault_proxy.faults = [Fault("truncate", "GET", "/x", num_bytes=40 * KB)]
    assert proxied.read(uri) == DATA
    ((start, last),) = ranges(fault_proxy)
    assert start > 0
    assert last == len(DATA) - 1
    fault_proxy.faults = [
        Fault("truncate", "GET", "/x", num_bytes=40 * KB),
        Fault("late", "GET", "/x", before=lambda: s3.put(bucket, "x", DATA[::-1])),
    ]
    with pytest.raises(ObjectChanged):
        proxied.read(uri)


@pytest.mark.parametrize("kind", ["slow_down", "reset", "lost"])
def test_a_stream_survives_faults_all_along(s3: S3Server, fault_proxy: FaultProxy, proxied: Storage, kind: str):
    entry = proxied.stat(s3.put(s3.bucket(), "x", DATA))
    fault_proxy.faults = [Fault(kind, "GET", skip=2 * n, num_bytes=4 * KB) for n in range(5)]
    stream = proxied.open(entry)
    assert stream.read(len(DATA)) == DATA
    assert sum(fault.times for fault in fault_proxy.faults) == 0
    stream.close()


def test_a_stalled_body_times_out_and_is_requested_again(
    s3: S3Server, fault_proxy: FaultProxy, proxied: Storage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_READ_TIMEOUT_S", 0.5)
    entry = proxied.stat(s3.put(s3.bucket(), "x", DATA))
    fault_proxy.faults = [Fault("stall", "GET", num_bytes=30 * KB)]
    assert proxied.fetch(entry) == DATA


def test_retries_end(s3: S3Server, fault_proxy: FaultProxy, proxied: Storage):
    bucket = s3.bucket()
    entry = proxied.stat(s3.put(bucket, "x", DATA))
    fault_proxy.requests.clear()
    fault_proxy.faults = [Fault("slow_down", times=1000)]
    for call in (
        lambda: proxied.fetch(entry),
        lambda: proxied.stat(entry.uri),
        lambda: list(proxied.list(f"s3://{bucket}/")),
        lambda: proxied.publish(f"s3://{bucket}/y", b"y"),
        lambda: proxied.delete(entry.uri),
    ):
        with pytest.raises(StoreUnavailable, match=f"^s3://{bucket}/"):
            call()
    assert len(fault_proxy.requests) == 5 * s3_retry._MAX_TRIES
    stream = proxied.open(entry)
    for _ in range(2):  # a stream that failed fails again, rather than go on behind the gap
        with pytest.raises(StoreUnavailable):
            stream.read(1)
    stream.close()


def test_retries_wait_longer_each_time_and_never_in_step(
    s3: S3Server, fault_proxy: FaultProxy, proxied: Storage, monkeypatch: pytest.MonkeyPatch
):
    waits: list[list[float]] = [[], []]
    really, own = time.sleep, threading.get_ident()
    monkeypatch.setattr(s3_retry, "_BACKOFF_S", 1.0)
    for waited in waits:
        note = waited.append

        def sleep(seconds: float, note=note) -> None:
            (note if threading.get_ident() == own else really)(seconds)  # threads of tests before may still be waiting

        monkeypatch.setattr(time, "sleep", sleep)
        fault_proxy.faults = [Fault("slow_down", times=1000)]
        with pytest.raises(StoreUnavailable):
            proxied.stat(f"s3://{s3.bucket()}/x")
    for waited in waits:
        assert len(waited) == s3_retry._MAX_TRIES - 1
        for attempt, seconds in enumerate(waited, 1):
            assert 0.25 * 2**attempt <= seconds <= 0.75 * 2**attempt
    assert waits[0] != waits[1]


def test_retries_end_when_time_is_up(
    s3: S3Server, fault_proxy: FaultProxy, proxied: Storage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(s3_retry, "_GIVE_UP_S", 0.0)
    fault_proxy.faults = [Fault("slow_down", times=1000)]
    with pytest.raises(StoreUnavailable):
        proxied.stat(f"s3://{s3.bucket()}/x")
    assert len(fault_proxy.requests) == 1


def test_a_store_that_cannot_be_reached_is_unavailable(s3: S3Server):
    with pytest.raises(StoreUnavailable, match="Could not connect"):
        s3.storage(s3_endpoint="http://127.0.0.1:9").stat("s3://bucket/x")


def test_an_object_that_changed_in_mid_read_is_noticed(s3: S3Server, proxied: Storage):
    bucket = s3.bucket()
    entry = proxied.stat(s3.put(bucket, "x", DATA))
    stream = proxied.open(entry)
    assert stream.read(KB) == DATA[:KB]
    s3.put(bucket, "x", DATA[::-1])
    with pytest.raises(ObjectChanged, match="changed since it was planned"):
        stream.read(len(DATA))
    with pytest.raises(ObjectChanged):
        proxied.fetch(entry)
    s3.put(bucket, "x", b"short")
    with pytest.raises(ObjectChanged):
        proxied.open(entry, 50 * KB).read(1)


# -- missing, forbidden, malformed --------------------------------------------------------------------------


def test_missing_objects_and_buckets(s3: S3Server):
    storage, bucket = s3.storage(), s3.bucket()
    assert not storage.exists(f"s3://{bucket}/no")
    with pytest.raises(ObjectMissing, match=f"^s3://{bucket}/no: no such object"):
        storage.read(f"s3://{bucket}/no")
    with pytest.raises(ObjectMissing):
        storage.fetch(Entry(f"s3://{bucket}/no", 10, "etag"))
    for call in (storage.read, storage.stat, lambda uri: storage.publish(uri, b"")):
        with pytest.raises(ObjectMissing):
            call("s3://there-is-none/x")
    with pytest.raises(ObjectMissing, match="no such bucket"):
        list(storage.list("s3://there-is-none/x/"))
    with pytest.raises(ObjectMissing, match="a bucket and a key"):
        storage.stat(f"s3://{bucket}")


def test_refused_credentials_are_forbidden(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    # moto, which runs in this process, checks credentials from now on, and knows nobody; Ceph knows one key
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    storage = s3.storage()
    for call in (
        lambda: storage.read("s3://any/x"),
        lambda: list(storage.list("s3://any/")),
        lambda: storage.publish("s3://any/x", b""),
        lambda: storage.fetch(Entry("s3://any/x", 10, "etag")),
    ):
        with pytest.raises(ObjectForbidden, match=r"^s3://any/") as caught:
            call()
        assert "None" not in str(caught.value)


def test_missing_credentials_are_named(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    bucket = s3.bucket()
    for call in (lambda: s3.storage().stat(f"s3://{bucket}/x"), lambda: s3.storage().publish(f"s3://{bucket}/x", b"")):
        with pytest.raises(ObjectForbidden, match="--no-sign-request"):
            call()


def test_anonymous_requests_are_not_signed(s3: S3Server, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    bucket = s3.bucket()
    s3.client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    s3.client.put_object(Bucket=bucket, Key="x", Body=DATA, ACL="public-read")
    anonymous = s3.storage(s3_endpoint=fault_proxy.endpoint, no_sign_request=True)
    assert anonymous.stat(f"s3://{bucket}/x").size_bytes == len(DATA)
    assert anonymous.read(f"s3://{bucket}/x") == DATA
    assert len(fault_proxy.requests) > 1
    assert not any("authorization" in request.headers for request in fault_proxy.requests)


@pytest.mark.parametrize(("endpoint", "uri"), [(None, "s3://Not A Bucket!/x"), ("127.0.0.1:9", "s3://bucket/x")])
def test_malformed_names_and_endpoints_are_not_tried_again(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, uri: str
):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited for a retry"))
    storage = s3.storage(**({} if endpoint is None else {"s3_endpoint": endpoint}))
    with pytest.raises(StorageError, match="Invalid") as caught:
        storage.read(uri)
    assert type(caught.value) is StorageError
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["option", "variable"])
def test_an_endpoint_with_credentials_is_refused_without_naming_them(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, how: str
):
    endpoint = s3.endpoint.replace("://", "://KEY:CANARY@")
    if how == "variable":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    storage = s3.storage(s3_endpoint=endpoint if how == "option" else None)
    with pytest.raises(StorageError, match="given with credentials") as caught:
        storage.read("s3://bucket/x")
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
def test_credentials_with_a_line_break_are_not_shown(s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "CANARY\n")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited for a retry"))
    with pytest.raises(ObjectForbidden, match="a line break") as caught:
        s3.storage().read("s3://bucket/x")
    error: BaseException | None = caught.value
    while error is not None:
        assert "CANARY" not in str(error)
        error = error.__cause__


def test_a_profile_may_name_the_store(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever names it: a store that is not AWS's own gets neither trailing checksums nor its bucket in the host."""
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {s3.endpoint}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    storage, uri = s3.storage(s3_endpoint=None), f"s3://{s3.bucket()}/x"
    config = storage._store(uri).client.meta.config
    assert config.request_checksum_calculation == "when_required"
    assert config.s3["addressing_style"] == "path"
    assert storage.publish(uri, DATA)
    assert storage.read(uri) == DATA


def test_keys_are_never_taken_for_paths(s3: S3Server):
    storage, bucket = s3.storage(), s3.bucket()
    keys = ["p/../x.jpg", "p/./x.jpg", "p//x.jpg", "p/\x1b[31mx.jpg", "p/ü?#%2e%2e/x.jpg"]
    for key in keys:
        s3.put(bucket, key, key.encode())
    assert sorted(entry.uri for entry in storage.list(f"s3://{bucket}/p")) == sorted(
        f"s3://{bucket}/{key}" for key in keys
    )
    for key in keys:
        assert storage.read(f"s3://{bucket}/{key}") == key.encode()


# -- writing ------------------------------------------------------------------------------------------------


def test_publish_creates_once_and_replace_overwrites(s3: S3Server):
    storage, uri = s3.storage(), f"s3://{s3.bucket()}/a b/é"
    assert storage.publish(uri, b"first") is True
    assert storage.publish(uri, b"second") is False
    assert storage.read(uri) == b"first"
    storage.replace(uri, b"third")
    assert storage.read(uri) == b"third"
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_of_racing_publishers_one_wins(s3: S3Server):
    storage, uri = s3.storage(), f"s3://{s3.bucket()}/part"
    won: list[bytes] = []
    start = threading.Barrier(16)

    def publish(data: bytes) -> None:
        start.wait()
        if storage.publish(uri, data):
            won.append(data)

    threads = [threading.Thread(target=publish, args=(bytes([n]) * KB,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [storage.read(uri)] == won


@pytest.mark.parametrize("kind", ["slow_down", "lost"])
def test_a_publish_is_tried_again_and_is_whole(s3: S3Server, fault_proxy: FaultProxy, proxied: Storage, kind: str):
    uri = f"s3://{s3.bucket()}/part"
    fault_proxy.faults = [Fault(kind, "PUT")]
    created = proxied.publish(uri, DATA)
    assert created is (kind == "slow_down")  # the name was taken: by our own lost write
    assert s3.storage().read(uri) == DATA


class _Answers:
    """Lets the client's PUTs be answered with errors first; the server itself cannot be made to."""

    def __init__(self, storage: Storage, *errors: tuple[int, str]) -> None:
        self.errors = list(errors)
        self.conditions: list[str | None] = []
        events = storage._store("s3://").client.meta.events
        events.register("before-send.s3.PutObject", self._answer)

    def _answer(self, request, **_):
        from botocore.awsrequest import AWSResponse

        condition = request.headers.get("If-None-Match")
        self.conditions.append(condition.decode() if isinstance(condition, bytes) else condition)
        if not self.errors:
            return None
        status, code = self.errors.pop(0)
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

        class Raw:
            def stream(self, *_, **__):
                yield body

        return AWSResponse(request.url, status, {"content-type": "application/xml"}, Raw())


def test_a_store_without_conditions_gets_a_plain_put(s3: S3Server):
    storage, uri = s3.storage(), f"s3://{s3.bucket()}/part"
    answers = _Answers(storage, (501, "NotImplemented"))
    assert storage.publish(uri, DATA) is True
    assert answers.conditions == ["*", None]
    assert storage.read(uri) == DATA


def test_a_conflict_is_no_proof_that_the_name_is_taken(s3: S3Server):
    storage, uri = s3.storage(), f"s3://{s3.bucket()}/part"
    answers = _Answers(storage, (409, "ConditionalRequestConflict"))
    assert storage.publish(uri, DATA) is True
    assert answers.conditions == ["*", "*"]
    assert storage.read(uri) == DATA


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", ObjectForbidden),
        (403, "SomethingElse", ObjectForbidden),
        (400, "ExpiredToken", ObjectForbidden),
        (403, "InvalidObjectState", ObjectArchived),
        (404, "NoSuchBucket", ObjectMissing),
    ],
)
def test_refusals_have_their_own_errors_and_are_not_retried(
    s3: S3Server, status: int, code: str, error: type[StorageError]
):
    storage = s3.storage()
    answers = _Answers(storage, (status, code))
    with pytest.raises(error):
        storage.replace(f"s3://{s3.bucket()}/part", DATA)
    assert len(answers.conditions) == 1


def test_storage_survives_pickling_after_use(s3: S3Server):
    storage, uri = s3.storage(), s3.put(s3.bucket(), "x", DATA)
    assert storage.read(uri) == DATA
    assert pickle.loads(pickle.dumps(storage)).read(uri) == DATA
    store = pickle.loads(pickle.dumps(storage._store(uri)))
    assert store.read(uri) == DATA


SETTINGS = {
    "addressing_style": ("s3 =\n    addressing_style = virtual\n", "virtual", "when_required", "when_required"),
    "another setting of s3": ("s3 =\n    payload_signing_enabled = true\n", "path", "when_required", "when_required"),
    "request": ("request_checksum_calculation = when_supported\n", "path", "when_supported", "when_required"),
    "response": ("response_checksum_validation = when_supported\n", "path", "when_required", "when_supported"),
}


@pytest.mark.parametrize("how", ["default", "profile"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_aws_own_settings_count(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, how: str):
    text, style, request, response = SETTINGS[setting]
    section = "default" if how == "default" else "profile mine"
    (tmp_path / "config").write_text(f"[{section}]\n{text}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    if how == "profile":
        monkeypatch.setenv("AWS_PROFILE", "mine")
    config = s3.storage()._store("s3://bucket/x").client.meta.config
    assert config.s3["addressing_style"] == style
    assert (config.request_checksum_calculation, config.response_checksum_validation) == (request, response)
    if setting.startswith("another"):
        assert config.s3["payload_signing_enabled"] is True


@pytest.mark.parametrize("name", ["request_checksum_calculation", "response_checksum_validation"])
def test_aws_own_variables_count_each_by_itself(s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(f"AWS_{name.upper()}", "when_supported")
    storage, uri = s3.storage(), f"s3://{s3.bucket()}/x"
    config = storage._store(uri).client.meta.config
    values = {one: getattr(config, one) for one in ("request_checksum_calculation", "response_checksum_validation")}
    assert values.pop(name) == "when_supported"
    assert set(values.values()) == {"when_required"}
    assert config.s3["addressing_style"] == "path"


@pytest.mark.parametrize("pays", [True, False])
def test_the_requester_pays_for_every_kind_of_request(
    s3: S3Server, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, pays: bool
):
    monkeypatch.setattr(module, "_MAX_CONNECTIONS", 4)
    bucket = s3.bucket()
    storage = s3.storage(s3_endpoint=fault_proxy.endpoint, request_payer=pays)
    storage = pickle.loads(pickle.dumps(storage))  # as it goes to workers
    uri = f"s3://{bucket}/x"
    storage.publish(uri, DATA)
    storage.replace_if_unchanged(uri, DATA, storage.stat(uri))
    assert storage.open(storage.stat(uri)).read(10) == DATA[:10]
    assert len(list(storage.list(f"s3://{bucket}/"))) == 1
    storage.delete(uri)
    assert {request.method for request in fault_proxy.requests} == {"PUT", "HEAD", "GET", "DELETE"}
    said = {request.headers.get("x-amz-request-payer") for request in fault_proxy.requests}
    assert said == {"requester" if pays else None}
