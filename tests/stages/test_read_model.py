"""The reader against a model: tars drawn at random, and what they hold worked out in another way.

The model knows the members, since it wrote them. By webdataset's own expression for their names it says
which samples there must be, and what is in each.
"""

from __future__ import annotations

import gzip
import itertools
import re
import tarfile
from dataclasses import dataclass, field

import pytest
from fuzz.properties import KEEP, OneObject, read_shard, shard_is_accounted_for
from fuzz.seeds import END, global_header, member, old_sparse, pax_sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from pipeline.records import Reason, Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader, is_image_name

FILE, OLD_FILE, SPARSE, PAX_SPARSE = tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.GNUTYPE_SPARSE, b"pax sparse"
KINDS = [FILE] * 12 + [OLD_FILE, SPARSE, PAX_SPARSE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
KINDS += [tarfile.DIRTYPE, tarfile.CHRTYPE, b"V"]
IN_NO_SAMPLE = {tarfile.DIRTYPE, b"V"}
EMPTY_SHARD = "the archive is empty"

# Few words, so that keys and fields come again: side by side, apart, and with others in between.
STEMS = [
    "a",
    "b",
    "a",
    "b",
    "dir/a",
    "dir.d/a",
    "./a",
    "../a",
    "/abs/a",
    "ü",
    "日本/語😀",
    "x y",
    "new\nline",
    "k" * 95,
]
STEMS += ["d" * 70 + "/" + "e" * 90, "very/" * 60 + "deep", "", "dir/", "__meta__/a", "sub/__meta__", "__x__y/a"]
FIELDS = ["jpg", "jpg", "cls", "cls", "json", "txt", "JPG", "left.png", "right.png", "tar", "jpg.bak", ""]
LONG = ["l" * 3900, "o/" * 1900 + "ng", "ü" * 1500]
CONTENTS = st.one_of(
    st.sampled_from([b"", b"0", b"7", b" 12\n", b"-3", b"cat", b"2147483648", bytes(512), b"i" * 512, b"j" * 1535]),
    st.integers(0, 1600).map(lambda size: bytes(at * 7 % 256 for at in range(size))),
)


@dataclass(frozen=True)
class Drawn:
    """A member as it was drawn."""

    name: str
    kind: bytes
    content: bytes
    fmt: int
    num_more_headers: int = 0

    @property
    def is_file(self) -> bool:
        return self.kind in {FILE, OLD_FILE}

    def written(self) -> bytes:
        if self.kind == SPARSE:
            return old_sparse(self.name[:90], self.content, self.num_more_headers)
        if self.kind == PAX_SPARSE:
            return pax_sparse(self.name, self.content)
        return member(self.name, self.content, self.fmt, self.kind)


@st.composite
def neighbours(draw) -> list[Drawn]:
    """A few members of one stem, side by side: a sample, or what comes near one."""
    stem = draw(st.sampled_from(STEMS) if draw(st.integers(0, 19)) else st.sampled_from(LONG))
    return [draw(drawn_members(stem)) for _ in range(draw(st.integers(1, 4)))]


@st.composite
def drawn_members(draw, stem: str) -> Drawn:
    extension = draw(st.sampled_from(FIELDS))
    name = (f"{stem}.{extension}" if extension else stem).rstrip("/") or "."
    kind = draw(st.sampled_from(KINDS))
    content = draw(CONTENTS) if kind in {FILE, OLD_FILE, SPARSE, PAX_SPARSE} else b""
    fits = len(name) < 100 and name.isascii()
    fmt = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, *([tarfile.USTAR_FORMAT] if fits else [])]))
    if kind == SPARSE:
        name = name.encode()[:90].decode(errors="ignore").rstrip("/") or "."
    return Drawn(name, kind, content, fmt, draw(st.integers(0, 2)))


@dataclass
class Shard:
    """A shard as it was drawn: archives one after another, each with its end marker, perhaps packed."""

    archives: list[list[Drawn]]
    data: bytes = field(repr=False)
    packed: bool

    @property
    def members(self) -> list[Drawn]:
        return [item for archive in self.archives for item in archive]

    @property
    def num_joins(self) -> int:
        """Where members follow an end marker, which is an event."""
        return sum(bool(archive) for archive in self.archives[1:])


@st.composite
def shards(draw) -> Shard:
    count = draw(st.sampled_from([1, 1, 1, 2, 3]))
    archives = [list(itertools.chain(*draw(st.lists(neighbours(), max_size=5)))) for _ in range(count)]
    pieces = []
    for archive in archives:
        written = b"".join(item.written() for item in archive)
        before = draw(st.sampled_from([b"", b"", b"", global_header(comment="made by hand", path="not/this")]))
        pieces.append(before + written + draw(st.sampled_from([END, bytes(512), END + bytes(9 * 512)])))
    plain = b"".join(pieces)
    match draw(st.sampled_from(["plain", "plain", "gzip", "gzip in pieces"])):
        case "plain":
            return Shard(archives, plain, packed=False)
        case "gzip":
            return Shard(archives, gzip.compress(plain, 1), packed=True)
        case _:
            at = draw(st.integers(0, len(plain)))
            between = bytes(draw(st.sampled_from([0, 0, 3, 512])))
            return Shard(archives, gzip.compress(plain[:at]) + between + gzip.compress(plain[at:]), packed=True)


@dataclass
class Expected:
    """A sample as the model expects it."""

    key: str
    image: bytes | None = None
    reason: Reason | None = None
    cls: bytes | None = None
    kept: dict[str, str] = field(default_factory=dict)


def split(name: str) -> tuple[str, str, bool]:
    """Key and field of a member, and whether it stands alone since webdataset has no name for it."""
    key, extension = base_plus_ext(name)
    alone = key is None or key.endswith("/")
    return (name, "", True) if alone else (key, extension.lower(), False)


def model(members: list[Drawn]) -> list[Expected]:
    """The samples of an archive that holds these members: neighbours of one key, each field once."""
    samples: list[tuple[str, dict[str, Drawn]]] = []
    last: str | None = None
    for item in members:
        if item.kind in IN_NO_SAMPLE or re.match(r"__[^/]*__($|/)", item.name):
            continue
        key, extension, alone = split(item.name)
        if alone or key != last or extension in samples[-1][1]:
            samples.append((key, {}))
        samples[-1][1][extension] = item
        last = None if alone else key
    return [_expected(key, fields) for key, fields in samples]


def _expected(key: str, fields: dict[str, Drawn]) -> Expected:
    sample = Expected(key)
    files = {extension: item for extension, item in fields.items() if item.is_file}
    alone = split(next(iter(fields.values())).name)[2]
    shown = sorted((item.name, item.content) for extension, item in files.items() if alone or is_image_name(extension))
    if not shown:
        sample.reason = Reason.NO_IMAGE
    elif shown[0][1] == b"":
        sample.reason = Reason.EMPTY
    else:
        sample.image = shown[0][1]
    if (cls := files.get("cls")) is not None:
        sample.cls = cls.content
    sample.kept = {name: files[name].content.decode(errors="replace") for name in KEEP if name in files}
    return sample


def check(shard: Shard) -> None:
    items = shard_is_accounted_for(shard.data)
    samples = [item for item in items if isinstance(item, Sample)]
    found = [Expected(item.key, item.image, item.reason, item.cls, item.kept) for item in samples]
    assert found == model(shard.members)
    events = [item for item in items if not isinstance(item, Sample)]
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT] * shard.num_joins
    assert all("end-of-archive marker is followed by more" in event.message for event in events)


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(shards())
def test_the_samples_are_those_of_the_model(shard):
    check(shard)


@pytest.mark.slow
@settings(max_examples=12_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shards())
def test_the_samples_are_those_of_the_model_at_length(shard):
    check(shard)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(shards(), st.integers(0, 20))
def test_a_limit_takes_the_first_samples(shard, limit):
    unit = Unit("0" * 16, UnitKind.TAR, "/shard.tar", len(shard.data), max_samples=limit)
    limited = [item for item in UnitReader(unit, OneObject(shard.data), keep=KEEP) if isinstance(item, Sample)]
    whole = [item for item in read_shard(shard.data)[0] if isinstance(item, Sample)]
    assert limited == list(itertools.islice(whole, limit))
