"""Truth: the true class of images by key, and its lookup for labelled images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError, StorageError
from pipeline.labels import NO_CLASS
from pipeline.output.parts import num_no_class, truths_not_understood
from pipeline.records import Counted
from pipeline.storage import absolute_uri
from pipeline.text import fmt
from pipeline.text.commands import command_line
from pipeline.trust.truth_keys import NUM_LEVELS, KeyIndex

# In place of a class, besides NO_CLASS, which is a truth: there is none, it is not understood, people do not agree.
NOT_KNOWN, NOT_UNDERSTOOD, DISPUTED = -2, -3, -4
CLS_TRUTH = "the samples' .cls"
_EXAMPLES = 3
_SEPARATOR = "\n"  # between shard and key: neither holds one

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class TruthCounts:
    """How much of the truth could be used, and why the rest could not.

    Attributes:
        source: Where it comes from.
        given: Rows of the file, or labelled images with a ``.cls``.
        used: Images with known truth; all figures are about them.
        no_class: Of these, images in which no class fits, so that every label is wrong.
        counted_wrong: Of these, images whose truth is not understood or disputed; a promise counts them as wrong.
        malformed_rows: Rows with more or fewer cells than the header, and lines or items of JSON that are no rows.
        malformed_row_examples: Some of these rows.
        blank: Rows without a label.
        unknown_labels: Rows whose label is no class, or the name of several classes.
        unknown_label_examples: Some of these labels.
        unknown_images: Labelled images that such rows are about, and no others.
        groups: Images whose truth is a group of classes, where only classes are of use.
        doubled_keys: Rows that repeat an image with the same label.
        contradictory_keys: Images left out because their rows have different labels.
        unknown_keys: Rows whose key is not among the labelled images.
        unknown_key_examples: Some of these keys.
        ambiguous_keys: Rows left out because several images have their key.
        contested: Images left out because the votes of the annotators are tied.
        reviewed: Rows with a known label that come from lists of ``review``, which are no random draw.
        shown: Rows with a known label that were answered with the networks' labels in view, but for review lists.
    """

    source: str
    given: int = 0
    used: int = 0
    no_class: int = 0
    counted_wrong: int = 0
    malformed_rows: int = 0
    malformed_row_examples: tuple[str, ...] = ()
    blank: int = 0
    unknown_labels: int = 0
    unknown_label_examples: tuple[str, ...] = ()
    unknown_images: int = 0
    groups: int = 0
    doubled_keys: int = 0
    contradictory_keys: int = 0
    unknown_keys: int = 0
    unknown_key_examples: tuple[str, ...] = ()
    ambiguous_keys: int = 0
    contested: int = 0
    reviewed: int = 0
    shown: int = 0

    @property
    def in_words(self) -> str:
        """What was counted, in one line: of how many images the truth is used, and how many of them count as wrong."""
        parts = [f"{self.used:,} used"]
        parts += [f"{self.no_class:,} of them none: no class fits, so they count as wrong"] if self.no_class else []
        if self.counted_wrong:
            parts.append(f"{self.counted_wrong:,} not understood or disputed, counted as wrong")
        parts += (
            [f"{self.shown:,} answered with the networks' labels in view, which people follow"] if self.shown else []
        )
        parts += [f"{self.blank:,} left out without an answer"] if self.blank else []
        left_out = self.unknown_keys + self.ambiguous_keys
        parts += [f"{left_out:,} left out whose key names no image, or several"] if left_out else []
        return f"{fmt.plural(self.given, 'truth')}: {'; '.join(parts)}"

    @property
    def complaints(self) -> tuple[str, ...]:
        """The truth that could not be used, one line for each cause."""
        disputed = "counted as wrong" if self.counted_wrong else "left out"
        lines = (
            (self.malformed_rows, "with more or fewer cells than the header, or no JSON", self.malformed_row_examples),
            (self.blank, "without a label", ()),
            (self.unknown_labels, "with a label that is no class, or the name of several", self.unknown_label_examples),
            (self.groups, "that name a group of classes, where a class is needed", ()),
            (self.doubled_keys, "that name an image again", ()),
            (self.contradictory_keys, f"{disputed}, because rows about one image do not agree", ()),
            (self.unknown_keys, "whose key is not among the labelled images", self.unknown_key_examples),
            (self.ambiguous_keys, "left out, because several images have the key: add a shard column", ()),
            (self.contested, f"{disputed}, because the votes of the annotators are tied", ()),
        )
        return tuple(
            f"{count:,} {what}"
            + (f" ({', '.join(examples)}{', ...' if count > len(examples) else ''})" * bool(examples))
            for count, what, examples in lines
            if count
        )


@dataclass(frozen=True)
class Truth:
    r"""A truth file: one row for each image that it names.

    Attributes:
        keys: Text, each once; ``SHARD\nKEY`` where the file has shards.
        labels_T: int32, true class of each key: 0 to K - 1, :data:`NO_CLASS`, :data:`NOT_UNDERSTOOD` or
            :data:`DISPUTED`; groups follow the classes where there are some (:mod:`pipeline.taxonomy.nodes`).
        with_shards: Whether the file has shards.
        counts: Rows of the file, and those that cannot be used whatever the images are.
        drawn: Number of rows with a known label by what they say about their draw (:mod:`pipeline.trust.draw`); ``""``
            where they say nothing.
        listed: The same of all rows, those without an answer included.
    """

    keys: pa.Array
    labels_T: Array
    with_shards: bool
    counts: TruthCounts
    drawn: Mapping[str, int] = dataclasses.field(default_factory=dict)
    listed: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def find(self, shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> tuple[Array, Array]:
        """Row of each image in the truth, int64 (B,), -1 where it has none; and the level at which it was found."""
        joined = join_keys(shards, keys) if self.with_shards else keys.combine_chunks().cast(pa.string())
        return self._index.find(joined)

    def labels_of(self, shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> list[int | None]:
        """The true class of each image, or :data:`NO_CLASS`; None where it is not known."""
        found, _ = self.find(shards, keys)
        labels = (int(self.labels_T[at]) if at >= 0 else NOT_KNOWN for at in found.tolist())
        return [label if label > NOT_KNOWN else None for label in labels]

    @functools.cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(self.keys, self.labels_T)


class TruthMatcher:
    """Looks up the truth of labelled images, batch by batch, and counts the truth that cannot be used.

    Args:
        truth: Of a file; None for the ``.cls`` of the samples.
        num_classes: K.
        strict: Whether truths that are not understood or disputed count as wrong, as :data:`NO_CLASS` does: for a
            promise, which must not rest on the images that were easy to answer. Elsewhere they are left out.
        carried_groups: For each group that a ``.cls`` of the output may name, the node that it is here
            (:func:`pipeline.taxonomy.nodes.carry_groups`).

    Attributes:
        columns: Columns of the predictions that :meth:`match` reads.
        untraceable: Samples whose ``.cls`` is not understood, in parts that do not tell which samples they are.
    """

    def __init__(
        self, truth: Truth | None, num_classes: int, *, strict: bool = False, carried_groups: Sequence[int] = ()
    ) -> None:
        self.columns = ["truth"] if truth is None else ["shard", "key"]
        self.untraceable = 0
        self._truth = truth
        self._cls_labels = np.concatenate([np.arange(num_classes), carried_groups]).astype(np.int32)
        self._strict = strict
        self._known = self._unknown = self._no_class = 0
        self._noted = Counted()
        self._image_examples: list[str] = []
        self._matches = np.zeros(0 if truth is None else NUM_LEVELS * len(truth.labels_T), np.int32)
        self._labels = None if truth is None else np.append(self._usable(truth.labels_T), np.int32(NOT_KNOWN))

    def _usable(self, labels_T: Array) -> Array:
        """Labels as :meth:`match` returns them."""
        instead = NO_CLASS if self._strict else NOT_KNOWN
        return np.where(labels_T < NOT_KNOWN, np.int32(instead), labels_T).astype(np.int32)

    def match(self, table: pa.Table) -> tuple[Array, Array]:
        """Look up the truth of a batch of B images.

        Args:
            table: Predictions with :attr:`columns`; for the ``.cls``, of one part and with its metadata.

        Returns:
            True classes or groups, int32 (B,): :data:`NO_CLASS` where no class fits, :data:`NOT_KNOWN` where it is not
            known; and the place where each was found, int (B,), -1 where there is none.
        """
        if self._truth is None or self._labels is None:
            return self._match_cls(table)
        rows_B, levels_B = self._truth.find(table["shard"], table["key"])
        places_B = np.where(rows_B >= 0, rows_B * NUM_LEVELS + levels_B, -1)
        np.add.at(self._matches, places_B[rows_B >= 0], 1)
        if len(self._image_examples) < _EXAMPLES:
            some = table.slice(0, _EXAMPLES - len(self._image_examples))
            pairs = zip(some["shard"].to_pylist(), some["key"].to_pylist(), strict=True)
            self._image_examples += [_example(shard, key, self._truth.with_shards) for shard, key in pairs]
        return self._labels[rows_B], places_B

    def _match_cls(self, table: pa.Table) -> tuple[Array, Array]:
        given_B = table["truth"].fill_null(NOT_KNOWN).to_numpy()
        in_range_B = (given_B >= 0) & (given_B < len(self._cls_labels))
        none_B = (given_B == NO_CLASS) & (num_no_class(table) > 0)
        labels_B = np.where(in_range_B, self._cls_labels[np.where(in_range_B, given_B, 0)], np.int32(NOT_KNOWN))
        labels_B[none_B] = NO_CLASS
        elsewhere_B = in_range_B & (labels_B == NOT_KNOWN)  # groups of the output that are none here
        outside_B = (labels_B == NOT_KNOWN) & table["truth"].is_valid().to_numpy() & ~elsewhere_B
        num_outside = int(outside_B.sum())
        noted = truths_not_understood(table)  # with those that are null; parts of earlier versions note none
        self._noted.merge(noted)
        num_unknown = max(num_outside, noted.count)
        if self._strict:
            unknown_B = outside_B | elsewhere_B
            if num_unknown - num_outside == table["truth"].null_count:
                unknown_B = labels_B == NOT_KNOWN
            else:
                self.untraceable += num_unknown - num_outside
            labels_B[unknown_B] = NO_CLASS
        self._unknown += num_unknown + int(elsewhere_B.sum())
        self._known += int(((in_range_B & ~elsewhere_B) | none_B).sum())
        self._no_class += int(none_B.sum())
        return labels_B, np.full(len(labels_B), -1, np.int8)

    def is_unique(self, places_N: Array) -> Array:
        """Whether what was found at each of these places is the truth of one image only: bool (N,).

        Args:
            places_N: int, as :meth:`match` returns them, without -1. All batches must have been matched.
        """
        unique_N: Array = np.isin(places_N, self.unique_places())
        return unique_N

    def unique_places(self) -> Array:
        """The places whose truth is that of one image only: int64. -1 stands for all ``.cls``."""
        if self._truth is None:
            return np.array([-1])
        counts_TL = self._matches.reshape(-1, NUM_LEVELS)
        rows, levels = np.arange(len(counts_TL)), (counts_TL > 0).argmax(axis=1)
        unique = counts_TL[rows, levels] == 1
        places: Array = (rows * NUM_LEVELS + levels)[unique]
        return places

    def counts(self) -> TruthCounts:
        """How much of the truth could be used, after all batches."""
        if self._truth is None:
            counted_wrong = self._unknown - self.untraceable if self._strict else 0
            return TruthCounts(
                CLS_TRUTH,
                given=self._known + self._unknown,
                unknown_labels=self._unknown,
                unknown_label_examples=tuple(self._noted.examples),
                unknown_images=self._unknown,
                used=self._known + counted_wrong,
                no_class=self._no_class,
                counted_wrong=counted_wrong,
            )
        labels_T, usable = self._truth.labels_T, self._truth.labels_T >= NO_CLASS
        found_T = self._matches.reshape(-1, NUM_LEVELS).any(axis=1)
        unique_T = np.isin(np.arange(len(labels_T)), self.unique_places() // NUM_LEVELS)
        not_found = np.flatnonzero(usable & ~found_T)
        counted_wrong = int((unique_T & ~usable).sum()) if self._strict else 0
        return dataclasses.replace(
            self._truth.counts,
            used=int((unique_T & usable).sum()) + counted_wrong,
            no_class=int((unique_T & (labels_T == NO_CLASS)).sum()),
            counted_wrong=counted_wrong,
            unknown_images=int((unique_T & (labels_T == NOT_UNDERSTOOD)).sum()),
            unknown_keys=len(not_found),
            unknown_key_examples=tuple(map(self._spelled, self._truth.keys.take(not_found[:_EXAMPLES]).to_pylist())),
            ambiguous_keys=int((usable & found_T & ~unique_T).sum()),
        )

    def check_found(self) -> None:
        """Check, after all batches, that a truth file gave some truth.

        Raises:
            InputError: It gave none; the message shows what stands on both sides.
        """
        if self._truth is None or (found := self.counts()).used:
            return
        if not self._image_examples:
            raise InputError(f"--truth {found.source}: the output has no labelled image yet")
        if found.unknown_keys and not found.ambiguous_keys:
            raise InputError(
                f"--truth {found.source}: of its {fmt.plural(found.unknown_keys, 'key')} none is among the labelled "
                "images. "
                f"It has {_list(found.unknown_key_examples)}; the output has {_list(self._image_examples)}"
            )
        why = "; ".join(found.complaints) or "it is empty"
        if found.blank and found.blank == found.given:
            why += f": `{command_line('annotate', found.source)}` fills a list in"
        raise InputError(f"--truth {found.source}: of its {fmt.plural(found.given, 'truth')} none can be used: {why}")

    def _spelled(self, joined: str) -> str:
        shard, _, key = joined.rpartition(_SEPARATOR)
        return _example(shard, key, bool(shard))


def _example(shard: str, key: str, with_shard: bool) -> str:
    return f"{key} in {shard}" if with_shard else key


def _list(examples: Sequence[str]) -> str:
    return ", ".join(examples)


def join_keys(shards: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Array:
    r"""``SHARD\nKEY``, with shards as absolute URIs."""
    encoded = shards.cast(pa.string()).combine_chunks().dictionary_encode()
    spelled = pa.array([_normalized(uri) for uri in encoded.dictionary.to_pylist()], pa.string())
    return pc.binary_join_element_wise(
        spelled.take(encoded.indices), keys.combine_chunks().cast(pa.string()), _SEPARATOR
    )


def _normalized(uri: str) -> str:
    try:
        return absolute_uri(uri).rstrip("/")
    except StorageError:
        return uri
