"""Join: members of one sample that lie apart in a tar, found by an index of its headers.

A *run* is what lies together: adjacent members with one key. A sample of several runs is read where the run with its
image lies; the others give it their fields, which are small and held in memory, and are skipped at their own place.
So the images of a shard are still read once, front to back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.records import Omitted, Sample
from pipeline.stages.member_names import are_separate, shorten, stem_of, without_extension

# What an index may hold; a shard with more is read without one. Some 700 bytes a run.
_MAX_RUNS = 200_000
_MAX_CONTENT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Joint:
    """What a run has to do with other runs of its sample.

    Attributes:
        gives: Whether its members belong to a sample that is read elsewhere.
        contents: Contents of the fields that other runs give it, by field.
        fields: The fields that other runs give it.
        num_bytes: Size of these.
        taken: Keys that images of this key have, and the offset of the first run that has each, where each image is a
            sample of its own, and several runs have some.
    """

    gives: bool = False
    contents: Mapping[str, bytes] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    num_bytes: int = 0
    taken: Mapping[str, int] = field(default_factory=dict)


_GIVES = Joint(gives=True)


class Run:
    """Adjacent members with one key.

    Attributes:
        key: The key, or the whole name of a member that has none.
        offset: Byte offset of its first header.
        alone: Whether it is a member without a key.
        fields: Its fields, in order; the values are unused.
        num_bytes: Size of its members.
        num_images: Number of images among them.
        image_fields: Their fields.
        best_rank: The least rank of these; None without an image.
        special: What a link or the like in the place of an image is.
        contents: Contents of wanted fields.
        joint: What it has to do with other runs of its sample; None for nothing.
        index: Index of its first sample; None for a run that has none.
        samples: Its samples that wait for further fields.
        held_bytes: Size of their images.
        sample_keys: Where each image is a sample of its own, the keys of these samples, and the images' names.
        num_repeated: Number of its samples whose keys came before in the shard, as far as that is looked for.
        late_fields: Fields that came when samples had been passed on without them.
    """

    __slots__ = (
        "_example",
        "_passed_on",
        "alone",
        "best_rank",
        "contents",
        "fields",
        "held_bytes",
        "image_fields",
        "index",
        "joint",
        "key",
        "late_fields",
        "num_bytes",
        "num_images",
        "num_repeated",
        "offset",
        "sample_keys",
        "samples",
        "special",
    )

    def __init__(self, key: str, offset: int, *, alone: bool) -> None:
        self.key = key
        self.offset = offset
        self.alone = alone
        self.fields: dict[str, None] = {}  # there may be very many
        self.num_bytes = self.num_images = self.num_repeated = self.held_bytes = 0
        self.best_rank: tuple[bool, str] | None = None
        self.special = ""
        self.contents: dict[str, bytes] = {}
        self.joint: Joint | None = None
        self.index: int | None = None
        self.samples: list[Sample] = []
        self._passed_on: set[str] = set()
        self.sample_keys: dict[str, str] = {}
        self.late_fields: list[str] = []
        self.image_fields: list[str] = []
        self._example = ""

    def add_image(self, image_field: str, rank: tuple[bool, str]) -> bool:
        """Count an image; whether it comes before the others."""
        self.num_images += 1
        self.image_fields.append(image_field)
        if self.best_rank is None:
            self.best_rank = rank
            return True
        if rank < self.best_rank:
            self._example = self._example or self.best_rank[1]
            self.best_rank = rank
            return True
        self._example = self._example or rank[1]
        return False

    def name_sample(self, name: str) -> str:
        """The key of the sample that an image of this name is: the name without its extension, unless that is taken."""
        key = without_extension(name)
        taken = self.joint.taken if self.joint is not None else {}
        if key in self.sample_keys or taken.get(key, self.offset) < self.offset:
            key = name
        self.num_repeated += key in self.sample_keys
        self.sample_keys[key] = name
        return key

    def is_late(self, own_field: str) -> bool:
        """Whether a field comes after images that it is meant for as well were passed on."""
        return bool(self._passed_on) and (not stem_of(own_field) or stem_of(own_field) in self._passed_on)

    def pass_on(self) -> None:
        """Note that its samples were passed on; what only they needed is dropped."""
        self._passed_on |= {stem_of(sample.image_field or "") for sample in self.samples}
        own = self._passed_on - {""}
        self.contents = {name: content for name, content in self.contents.items() if stem_of(name) not in own}
        self.samples.clear()
        self.held_bytes = sum(map(len, self.contents.values()))

    def others(self, num_labelled: int) -> Omitted:
        """The images of it that are not labelled."""
        count = self.num_images - num_labelled
        assert self.best_rank is not None
        return Omitted(
            other_images=count,
            other_images_example=shorten(self._example or self.best_rank[1]),
            separate_images=count if are_separate(self.image_fields) else 0,
        )


@dataclass(frozen=True, slots=True)
class _Share:
    """What an index holds of a run."""

    offset: int
    rank: tuple[bool, str] | None
    num_bytes: int
    fields: tuple[str, ...]
    contents: tuple[tuple[str, bytes], ...]
    image_names: tuple[str, ...]


@dataclass(slots=True)
class _Whole:
    """The runs of one sample; no field comes twice."""

    fields: frozenset[str]
    shares: list[_Share]


class Joins:
    """The index of a shard: which runs belong together. Feed it all runs of the shard, then ask.

    Args:
        every_image: Whether each image is a sample of its own.

    Attributes:
        overflown: Whether the shard has too many runs, or their fields are too large.
    """

    def __init__(self, *, every_image: bool) -> None:
        self._every_image = every_image
        self.overflown = False
        self._latest: dict[str, _Whole] = {}
        self._earlier: dict[str, list[_Whole]] = {}
        self._shared: dict[tuple[str, ...], tuple[tuple[str, ...], frozenset[str]]] = {}
        self._num_runs = self._content_bytes = 0
        self._joints: dict[int, Joint] = {}

    def take(self, run: Run) -> None:
        """Note a run."""
        if run.alone or self.overflown:
            return
        self._num_runs += 1
        self._content_bytes += sum(map(len, run.contents.values()))
        if self._num_runs > _MAX_RUNS or self._content_bytes > _MAX_CONTENT_BYTES:
            self.overflown = True
            self._latest, self._earlier = {}, {}
            return
        names = tuple(run.fields)
        names, fields = self._shared.setdefault(names, (names, frozenset(names)))  # one object for all samples
        contents = tuple(run.contents.items())
        share = _Share(
            run.offset, run.best_rank, run.num_bytes, names, contents, tuple(filter(None, run.sample_keys.values()))
        )
        whole = self._latest.get(run.key)
        if whole is not None and whole.fields.isdisjoint(fields):
            whole.fields |= fields
            whole.shares.append(share)
            return
        if whole is not None and (self._every_image or len(whole.shares) > 1):
            self._earlier.setdefault(run.key, []).append(whole)
        self._latest[run.key] = _Whole(fields, [share])

    def close(self) -> None:
        """Note that there are no more runs."""
        for key, latest in self._latest.items():
            wholes = [*self._earlier.get(key, ()), latest]
            taken = _name_images(wholes) if self._every_image else {}
            for whole in wholes:
                if len(whole.shares) > 1 or taken:
                    self._joints.update(self._join(whole.shares, taken))
        self._latest, self._earlier, self._shared = {}, {}, {}

    def _join(self, shares: list[_Share], taken: Mapping[str, int]) -> Iterator[tuple[int, Joint]]:
        with_image = [share for share in shares if share.rank is not None]
        if not with_image:
            homes = shares[:1]
        elif self._every_image:
            homes = with_image
        else:
            homes = [min(with_image, key=lambda share: share.rank or (True, ""))]
        own = {home.offset for home in homes}
        given = [share for share in shares if share.offset not in own]
        for home in homes:
            others = [share for share in shares if share is not home]
            contents = {name: content for share in others for name, content in share.contents}
            names = tuple(name for share in given for name in share.fields)
            num_bytes = sum(share.num_bytes for share in given)
            yield home.offset, Joint(contents=contents, fields=names, num_bytes=num_bytes, taken=taken)
        for share in given:
            yield share.offset, _GIVES

    def joint(self, offset: int) -> Joint | None:
        """What the run at an offset has to do with others; None for nothing."""
        return self._joints.get(offset)


def _name_images(wholes: list[_Whole]) -> dict[str, int]:
    """The keys of the images of one key, and the offset of the first run with each; none where one run has them all."""
    homes = sorted(
        (share for whole in wholes for share in whole.shares if share.image_names), key=lambda one: one.offset
    )
    taken: dict[str, int] = {}
    if len(homes) > 1:
        for home in homes:
            for name in home.image_names:
                key = without_extension(name)
                taken.setdefault(name if key in taken else key, home.offset)
    return taken
