"""Group: from the members of a tar to its samples, in order.

Adjacent members with one key are one sample; members of it that lie elsewhere join it where an index says so
(:mod:`pipeline.stages.joining`). In addition:

* a field that comes twice under one key starts a new sample, so that neither is lost;
* a member that WebDataset cannot name (no dot, or a leading one) is a sample of its own if it holds an image, and its
  whole name is the key; otherwise it is passed over, counted, and ends nothing, like the files that operating systems
  leave behind, and whatever lies in a hidden folder;
* of several images in a sample, a plain extension comes before a dotted field, then the first by name; the others are
  counted; or each is a sample of its own (``--images all``), with the other fields of its key, and names that differ
  in the case of their extensions only are two images;
* the truth is ``cls``, or ``left.cls`` for the image ``left.png``, or the only field of that kind (``target.cls``);
  kept fields likewise;
* links, devices and FIFOs are never followed; a sample that has nothing else is quarantined;
* damage inside a sample does not split it: the rest of it stays one sample, and the event follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.records import Cursor, Item, Omitted, Reason, Sample, ShardEvent
from pipeline.stages.formats import SNIFFED_BYTES, begins_like_image
from pipeline.stages.joining import Joins, Joint, Run
from pipeline.stages.member_names import (
    TRUTH_FIELD,
    beside,
    image_rank,
    is_archive_metadata,
    is_image_name,
    is_system_file,
    key_and_field,
    last_part,
    lies_hidden,
    may_be_passed_over,
    must_hold_image,
    shorten,
    truth_field,
)
from pipeline.stages.tar import Member, TarReader

MAX_IMAGE_BYTES = 256 << 20
_MAX_FIELD_BYTES = 16 << 20
_MAX_CLS_BYTES = 4 << 10  # the name of a class is shorter
_MAX_HELD_BYTES = 64 << 20  # of the images of one key that wait for its other fields
# Members that belong to no sample: directories and GNU volume labels.
_NAMELESS = "a member without a name"
_NO_SAMPLE = ("a directory", "a volume label")
_SORT = "if the image of this key came earlier, or comes later, sort the shard: tar --sort=name -cf SORTED.tar FOLDER"


@dataclass(frozen=True, slots=True)
class Grouping:
    """How members become samples.

    Attributes:
        keep: Names of the fields that ``--keep`` copies.
        every_image: Whether each image is a sample of its own (``--images all``).
    """

    keep: tuple[str, ...] = ()
    every_image: bool = False
    _wanted: frozenset[str] = field(init=False, repr=False, default=frozenset())

    def __post_init__(self) -> None:
        object.__setattr__(self, "_wanted", frozenset({TRUTH_FIELD, *self.keep}))

    def reads(self, field: str) -> bool:
        """Whether the content of a field is wanted."""
        return field in self._wanted or last_part(field) in self._wanted

    def label(self, sample: Sample, contents: Mapping[str, bytes]) -> None:
        """Give a sample its ``.cls`` and its kept fields, from the contents of the fields of its key."""
        if not contents:
            return
        name = truth_field(sample.image_field, contents)
        sample.cls = None if name is None else contents[name][:_MAX_CLS_BYTES]
        for kept in self.keep:
            own = beside(sample.image_field, kept)
            if (content := contents.get(own, contents.get(kept))) is not None:
                sample.kept[kept] = content.decode("utf-8", "replace")


class SampleGrouper:
    """Groups the members of an archive into samples. Iterate once.

    Args:
        walk: The members, from a cursor on.
        grouping: How.
        cursor: Where that is.
        only: Indices of the samples whose contents are read.
        joins: Which members join which samples, by the index of the shard; None without an index.
        on_run: Called with each run of members, when it ends.
        collects: Whether the contents of wanted fields are read whatever ``only`` says.
    """

    def __init__(
        self,
        walk: TarReader,
        grouping: Grouping,
        cursor: Cursor,
        only: Container[int],
        joins: Joins | None = None,
        on_run: Callable[[Run], None] | None = None,
        *,
        collects: bool = False,
    ) -> None:
        self._walk = walk
        self._how = grouping
        self._first = cursor.index
        self._index = cursor.index - cursor.skip
        self._only = only
        self._joins = joins
        self._on_run = on_run
        self._collects = collects
        self._omitted = Omitted()  # it and events follow the sample that they lie in, so that no cursor separates them
        self._events: list[ShardEvent] = []

    def __iter__(self) -> Iterator[Item]:
        run: Run | None = None
        every_image = self._how.every_image
        for item in self._walk:
            if isinstance(item, ShardEvent):
                self._events.append(item)
            elif not (item.special and item.special.startswith(_NO_SAMPLE)):
                key, field = key_and_field(item.name)
                if is_archive_metadata(item.name) or (
                    may_be_passed_over(item.name, key, field) and self._is_passed_over(item, key, field)
                ):
                    self._omitted.add(Omitted(passed_over=1, passed_over_example=shorten(item.name) or _NAMELESS))
                else:
                    name = item.name if key is None else key
                    own = field
                    if every_image and key is not None and is_image_name(field):
                        own = item.name[len(key) + 1 :]  # a.JPG and a.Jpg are two images
                    if run is not None and (key is None or run.key != name or own in run.fields):
                        yield from self._finish(run)
                        run = None
                    if run is None:
                        run = self._begin(name, item.offset, alone=key is None)
                    run.fields[own] = None
                    self._add(run, item, field)
                    if run.held_bytes > _MAX_HELD_BYTES and len(run.samples) > 1:
                        yield from self._release(run)
                    if key is None:
                        yield from self._finish(run)
                        run = None
            if run is None:
                yield from self._follow()
        if run is not None:
            yield from self._finish(run)

    def _is_passed_over(self, member: Member, key: str | None, field: str) -> bool:
        """Whether a member is no sample's: an operating system's, hidden, or without a field and no image."""
        if is_system_file(member.name, field) or lies_hidden(member.name):
            return True
        if member.special or not must_hold_image(member.name, key):
            return False
        return not begins_like_image(self._walk.peek(SNIFFED_BYTES))

    def _begin(self, key: str, offset: int, *, alone: bool) -> Run:
        run = Run(key, offset, alone=alone)
        if self._joins is not None:
            run.joint = self._joins.joint(offset)
        if run.joint is not None and run.joint.gives:
            run.index = None
        elif not self._how.every_image:
            run.index = self._take_index()
        else:
            run.index = self._index
        return run

    def _take_index(self) -> int:
        self._index += 1
        return self._index - 1

    def _add(self, run: Run, member: Member, field: str) -> None:
        run.num_bytes += member.num_bytes
        if run.alone or is_image_name(field):
            if member.special:
                message = f"{shorten(member.name)} is {member.special}, {member.refusal}"
                run.special = run.special or message
            else:
                self._add_image(run, member, field)
        elif self._how.reads(field) and not member.special and member.num_bytes <= _MAX_FIELD_BYTES:
            if run.is_late(field):
                run.late_fields.append(field)
            elif self._is_wanted(run) and (data := self._walk.payload()) is not None:
                run.contents[field] = data
                run.held_bytes += member.num_bytes

    def _is_wanted(self, run: Run) -> bool:
        """Whether the fields of a run are read."""
        if self._collects or run.index is None:
            return self._collects
        return bool(self._only) if self._how.every_image else run.index in self._only

    def _add_image(self, run: Run, member: Member, field: str) -> None:
        best = run.add_image(field, image_rank(field, member.name))
        if run.index is None:
            return
        if self._how.every_image:
            run.samples.append(self._read_image(run, member, field, self._take_index()))
        elif best:
            run.samples[:] = [self._read_image(run, member, field, run.index)]

    def _read_image(self, run: Run, member: Member, field: str, index: int) -> Sample:
        key = run.key
        if self._how.every_image and not run.alone:
            key = run.name_sample(member.name)
        sample = Sample(index, key, run.offset, member.num_bytes, image_name=member.name, image_field=field)
        if self._how.every_image:
            sample.offset, sample.start = member.offset, (run.offset, run.num_images - 1)
            run.held_bytes += member.num_bytes
        if index not in self._only or index < self._first:
            return sample
        if member.num_bytes == 0:
            sample.reason, sample.message = Reason.EMPTY, "the image is empty"
        elif member.num_bytes > MAX_IMAGE_BYTES:
            sample.reason, sample.message = Reason.TOO_LARGE, too_many_bytes(member.num_bytes)
        else:
            sample.image = self._walk.payload()
            if sample.image is None:
                sample.reason = Reason.SHARD_TRUNCATED
                sample.message = "the archive ends inside this image"
        return sample

    def _finish(self, run: Run) -> Iterator[Item]:
        """What a run of members is, and what follows it."""
        if run.index is not None and not run.num_images:
            run.samples.append(self._without_image(run))
        elif run.late_fields:
            run.samples.append(self._of_late_fields(run))
        if self._on_run is not None:
            self._on_run(run)
        if run.num_repeated:
            self._omitted.add(Omitted(repeated_keys=run.num_repeated, repeated_keys_example=shorten(run.key)))
        yield from self._release(run)
        num_labelled = run.num_images if self._how.every_image else int(run.index is not None)
        if run.num_images > num_labelled:
            self._omitted.add(run.others(num_labelled))
        if self._omitted or self._events:
            yield from self._follow()

    def _release(self, run: Run) -> Iterator[Sample]:
        """Pass on the samples of a run that wait for its other fields."""
        contents = run.contents
        if run.joint is not None:
            contents = {**run.joint.contents, **contents}
        for sample in run.samples:
            if sample.index < self._first:
                continue
            if sample.index in self._only:
                self._how.label(sample, contents)
            if sample.message:
                sample.message = " ".join(sample.message.split())  # names may hold line breaks
            yield sample
        run.pass_on()

    def _without_image(self, run: Run) -> Sample:
        index = self._take_index() if self._how.every_image else run.index
        assert index is not None
        joint = run.joint or Joint()
        sample = Sample(index, run.key, run.offset, run.num_bytes + joint.num_bytes)
        sample.start = (run.offset, 0) if self._how.every_image else None
        sample.reason = Reason.NO_IMAGE
        fields = ", ".join(shorten(name) for name in itertools.islice(itertools.chain(run.fields, joint.fields), 8))
        sample.message = run.special or f"no image among the fields: {fields}"
        if not run.special and self._joins is None:
            sample.message += f"; {_SORT}"
        return sample

    def _of_late_fields(self, run: Run) -> Sample:
        """What stands for fields that came after too many images of their key."""
        fields = ", ".join(shorten(name) for name in itertools.islice(run.late_fields, 8))
        sample = Sample(self._take_index(), run.key, run.offset, reason=Reason.NO_IMAGE)
        sample.start = (run.offset, run.num_images)
        run.sample_keys.setdefault(run.key, "")
        sample.message = f"{fields} came after images of its key that are labelled without it; put it before them"
        return sample

    def _follow(self) -> Iterator[Item]:
        """What lies behind or inside the sample that was passed on, and belongs to none."""
        if self._omitted:
            yield self._omitted
            self._omitted = Omitted()
        if self._events:
            yield from self._events
            self._events = []


def too_many_bytes(num_bytes: int) -> str:
    """What is wrong with an image of so many bytes."""
    return f"{num_bytes} bytes encoded; the limit is {MAX_IMAGE_BYTES}"
