"""The reader against a model: tars drawn at random, and what they hold worked out in another way.

The model knows the members, since it wrote them. By webdataset's own expression for their names it says
which samples there must be, and what is in each.
"""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
import re
import tarfile
from dataclasses import dataclass, field

import pytest
from fuzz.properties import KEEP, OneObject, read_shard, shard_is_accounted_for
from fuzz.seeds import (
    END,
    PACKERS,
    global_header,
    member,
    old_sparse,
    old_sparse_content,
    pax_sparse,
    pax_sparse_content,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from pipeline.records import Omitted, Reason, Sample, ShardEvent, Unit, UnitKind
from pipeline.stages.member_names import is_image_name
from pipeline.stages.read import UnitReader

FILE, OLD_FILE, SPARSE, PAX_SPARSE = tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.GNUTYPE_SPARSE, b"pax sparse"
KINDS = [FILE] * 12 + [
    OLD_FILE,
    SPARSE,
    PAX_SPARSE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
]
KINDS += [tarfile.DIRTYPE, tarfile.CHRTYPE, b"V"]
IN_NO_SAMPLE = {tarfile.DIRTYPE, b"V"}
IMAGE = b"\xff\xd8\xff"
HEAD_RUNS = 8
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
STEMS += ["._a", "Thumbs", "LICENSE", "__MACOSX/a", "d/__MACOSX/._a", ".Trashes/a", "./d/.ipynb_checkpoints/a"]
FIELDS = ["jpg", "jpg", "cls", "cls", "json", "txt", "JPG", "left.png", "right.png", "tar", "jpg.bak", "", "db"]
FIELDS += ["left.cls", "left.json", "png"]
LONG = ["l" * 3900, "o/" * 1900 + "ng", "ü" * 1500]
CONTENTS = st.one_of(
    st.sampled_from([IMAGE, IMAGE + bytes(600)]),
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
    link: str = "elsewhere.jpg"

    @property
    def is_file(self) -> bool:
        return self.kind in {FILE, OLD_FILE}

    def written(self) -> bytes:
        if self.kind == SPARSE:
            return old_sparse(self.name[:90], self.content, self.num_more_headers)
        if self.kind == PAX_SPARSE:
            return pax_sparse(self.name, self.content)
        return member(self.name, self.content, self.fmt, self.kind, self.link)


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
    link = draw(
        st.sampled_from([f"{stem}.jpg", f"./{stem}.jpg", f"{stem}.cls", "a.jpg", "b.left.png", "dir/a.jpg", "none"])
    )
    fits = max(len(name), len(link)) < 100 and (name + link).isascii()
    fmt = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, *([tarfile.USTAR_FORMAT] if fits else [])]))
    if kind == SPARSE:
        name = name.encode()[:90].decode(errors="ignore").rstrip("/") or "."
    return Drawn(name, kind, content, fmt, draw(st.integers(0, 2)), link)


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
    if draw(st.booleans()):
        return Shard(archives, plain, packed=False)
    pack = draw(st.sampled_from(PACKERS))
    if draw(st.booleans()):
        return Shard(archives, pack(plain), packed=True)
    at = draw(st.integers(0, len(plain)))
    between = bytes(draw(st.sampled_from([0, 0, 3, 512])))
    return Shard(archives, pack(plain[:at]) + between + pack(plain[at:]), packed=True)


@dataclass
class Expected:
    """A sample as the model expects it."""

    key: str
    image_field: str | None = None
    image: bytes | None = None
    reason: Reason | None = None
    cls: bytes | None = None
    kept: dict[str, str] = field(default_factory=dict)


@dataclass
class ModelRun:
    """Neighbours of one key, each field once."""

    key: str
    alone: bool
    fields: dict[str, Drawn] = field(default_factory=dict)
    omitted: int = 0

    @property
    def images(self) -> dict[str, Drawn]:
        return {
            name: item for name, item in self.fields.items() if item.is_file and (self.alone or is_image_name(name))
        }

    @property
    def best(self) -> tuple[bool, str]:
        return min(("." in name, item.name) for name, item in self.images.items())


def split(name: str) -> tuple[str, str, bool]:
    """Key and field of a member, and whether it stands alone since webdataset has no name for it."""
    key, extension = base_plus_ext(name)
    alone = key is None or key.endswith("/")
    return (name, "", True) if alone else (key, extension.lower(), False)


def as_files(members: list[Drawn]) -> list[Drawn]:
    """The same members with sparse files and hard links as the files that they stand for."""
    found: list[Drawn] = []
    contents: dict[str, bytes] = {}
    for item in members:
        content = item.content if item.is_file else None
        if item.kind in {SPARSE, PAX_SPARSE}:
            content = (old_sparse_content if item.kind == SPARSE else pax_sparse_content)(item.content)
        elif item.kind == tarfile.LNKTYPE:
            content = contents.get(plain_path(item.link))
        if content is None:
            found.append(item)
        else:
            found.append(dataclasses.replace(item, kind=FILE, content=content))
            contents[plain_path(item.name)] = content
    return found


def plain_path(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def is_passed_over(item: Drawn) -> bool:
    """Whether a member is no sample's: without a field and without an image, or left by an operating system."""
    folder, _, base = item.name.rpartition("/")
    if base.lower() in {"thumbs.db", "desktop.ini"}:
        return True
    if any(re.match(r"\.[^.]|\.\..", step) for step in folder.split("/")):
        return True
    companion = split(item.name)[2] and not (base.startswith(".") and not base.startswith("._") and is_image_name(base))
    if not companion and "__MACOSX" not in folder.split("/"):
        return False
    return item.kind in {FILE, OLD_FILE} and not item.content.startswith(IMAGE)


def runs_of(members: list[Drawn], images: str = "auto") -> tuple[list[ModelRun], int]:
    """The runs of an archive that holds these members, and how many members belong to none."""
    runs: list[ModelRun] = []
    passed_over, last = 0, None
    for item in as_files(members):
        if item.kind in IN_NO_SAMPLE:
            continue
        if re.match(r"__[^/]*__($|/)", item.name) or is_passed_over(item):
            passed_over += 1
            continue
        key, extension, alone = split(item.name)
        if images == "all" and not alone and is_image_name(extension):
            extension = base_plus_ext(item.name)[1]  # names that differ in case only are two images
        if alone or key != last or extension in runs[-1].fields:
            runs.append(ModelRun(key, alone))
        runs[-1].fields[extension] = item
        last = None if alone else key
    return runs, passed_over


def has_signs(runs: list[ModelRun]) -> bool:
    """Whether a key comes again, or has no image."""
    named = [run for run in runs if not run.alone]
    return len({run.key for run in named}) < len(named) or not all(run.images for run in named)


def joined(runs: list[ModelRun]) -> list[list[ModelRun]]:
    """The runs of each sample, in the order in which samples are read: where the image is that is labelled."""
    latest: dict[str, list[ModelRun]] = {}
    samples: list[list[ModelRun]] = []
    for run in runs:
        group = None if run.alone else latest.get(run.key)
        if group is None or any(name in other.fields for other in group for name in run.fields):
            samples.append(group := [])
            if not run.alone:
                latest[run.key] = group
        group.append(run)
    return samples


def model(members: list[Drawn], images: str, *, unsorted: bool) -> tuple[list[Expected], int, int]:
    """The samples of an archive that holds these members, and how many images and members have no row."""
    runs, passed_over = runs_of(members, images)
    groups = joined(runs) if unsorted else [[run] for run in runs]
    found: list[tuple[int, ModelRun, dict[str, Drawn]]] = []
    other_images = 0
    for group in groups:
        with_image = [run for run in group if run.images]
        fields = {name: item for run in group for name, item in run.fields.items() if item.is_file}
        if not with_image:
            homes = group[:1]
        else:
            homes = with_image if images == "all" else [min(with_image, key=lambda run: run.best)]
        other_images += 0 if images == "all" else max(0, sum(len(run.images) for run in group) - 1)
        for home in homes:
            found.append((next(at for at, run in enumerate(runs) if run is home), home, fields))
    samples: list[Expected] = []
    taken: dict[str, set[str]] = {}
    for _, home, fields in sorted(found, key=lambda item: item[0]):
        keys = taken.setdefault(home.key, set()) if unsorted else set()
        samples += _expected(home, fields, keys, images)
    return samples, other_images, passed_over


def _expected(home: ModelRun, fields: dict[str, Drawn], keys: set[str], images: str) -> list[Expected]:
    if not home.images:
        return [Expected(home.key, reason=Reason.NO_IMAGE)]
    chosen = home.images.items()
    if images == "auto":
        chosen = [min(chosen, key=lambda pair: ("." in pair[0], pair[1].name))]
    samples = []
    for name, item in chosen:
        sample = Expected(home.key, name.lower())
        if images == "all" and not home.alone:
            folder, slash, base = item.name.rpartition("/")
            sample.key = folder + slash + (base.rpartition(".")[0] or base)
            sample.key = item.name if sample.key in keys else sample.key
            keys.add(sample.key)
        sample.image = item.content or None
        sample.reason = None if item.content else Reason.EMPTY
        stem = name.lower().rpartition(".")[0]
        own = {kind: f"{stem}.{kind}" if stem else kind for kind in ("cls", *KEEP)}
        truths = [other for other in fields if other.split(".")[-1] == "cls"]
        wanted = [own["cls"], "cls", *(truths if len(truths) == 1 else [])]
        cls = next((fields[other] for other in wanted if other in fields), None)
        sample.cls = cls.content[:4096] if cls else None
        for kind in KEEP:
            if (kept := fields.get(own[kind], fields.get(kind))) is not None:
                sample.kept[kind] = kept.content.decode(errors="replace")
        samples.append(sample)
    return samples


def check(shard: Shard, images: str) -> None:
    items = shard_is_accounted_for(shard.data, images)
    reader = UnitReader(Unit("0" * 16, UnitKind.TAR, "/shard.tar", len(shard.data)), OneObject(shard.data))
    next(iter(reader), None)
    runs, _ = runs_of(shard.members)
    if has_signs(runs[:HEAD_RUNS]):
        assert reader.unsorted
    elif shard.packed:
        assert not reader.unsorted
    expected, other_images, passed_over = model(shard.members, images, unsorted=bool(reader.unsorted))
    samples = [item for item in items if isinstance(item, Sample)]
    found = [Expected(s.key, s.image_field, s.image, s.reason, s.cls, s.kept) for s in samples]
    for one in found:
        if one.reason == Reason.NO_IMAGE:
            one.cls, one.kept = None, {}
    assert found == expected
    omitted = [item for item in items if isinstance(item, Omitted)]
    assert sum(item.other_images for item in omitted) == other_images
    assert sum(item.passed_over for item in omitted) == passed_over
    assert sum(item.repeated_keys for item in omitted) == len(samples) - len({sample.key for sample in samples})
    events = [item for item in items if isinstance(item, ShardEvent)]
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT] * shard.num_joins
    assert all("end-of-archive marker is followed by more" in event.message for event in events)


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(shards())
def test_the_samples_are_those_of_the_model(shard):
    for images in ("auto", "all"):
        check(shard, images)


@pytest.mark.slow
@settings(max_examples=12_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shards())
def test_the_samples_are_those_of_the_model_at_length(shard):
    for images in ("auto", "all"):
        check(shard, images)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(shards(), st.integers(0, 20))
def test_a_limit_takes_the_first_samples(shard, limit):
    unit = Unit("0" * 16, UnitKind.TAR, "/shard.tar", len(shard.data), max_samples=limit)
    limited = [item for item in UnitReader(unit, OneObject(shard.data), keep=KEEP) if isinstance(item, Sample)]
    whole = [item for item in read_shard(shard.data)[0] if isinstance(item, Sample)]
    assert limited == list(itertools.islice(whole, limit))
