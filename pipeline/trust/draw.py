"""How a list of images was drawn, as one short text that stands in each of its rows and comes back with the answers.

::

    random seed=0 num=1000 of=2000000 population=9f3a60c2d1e84b75
    random seed=0 num=1000 of=2000000 population=9f3a60c2d1e84b75 unique labels-shown
    review order=score num=150 of=2000000 population=9f3a60c2d1e84b75

``population`` names the set of images that the list was drawn from: the sum of the images' hashes. So it depends on
neither the order of the images nor their place, scores or labels: an output of ``combine``, or of another calibration,
holds the same population. An image more or less gives another.

Where an annotator saw what the networks predicted, the row says ``labels-shown``: all rows of a list that was drawn
with the labels, and of other lists each row that was answered so on the page, whatever else it says.

A precision can be promised on random draws only. A review list is chosen by the scores themselves. A random draw from
a collection that has grown since is none from what is there now: the new images had no chance.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RequestError
from pipeline.text import fmt
from pipeline.text.commands import command_line, free_name

COLUMN = "drawn"
_HASH_DIGITS = 16
_TEXT = re.compile(r"(random|review)((?: [a-z-]+(?:=[^ ]+)?)*)")
_UNIQUE, _LABELS_SHOWN = "unique", "labels-shown"

_SHIFTS_16 = np.arange(60, -1, -4, dtype=np.uint64)  # of the hexadecimal digits

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Draw:
    """How a list was drawn.

    Attributes:
        order: ``random``; or what a review list is sorted by.
        seed: Of the random order.
        num: Images of the list.
        labelled: Labelled images that it was drawn from.
        population: Their :class:`Population`.
        unique: Whether images with equal bytes counted as one.
        labels_shown: Whether the list shows the labels of the consensus.
    """

    order: str
    seed: int
    num: int
    labelled: int
    population: str
    unique: bool = False
    labels_shown: bool = False

    @property
    def is_random(self) -> bool:
        """Whether each image was as likely as any other."""
        return self.order == "random"

    def __str__(self) -> str:
        start = f"random seed={self.seed}" if self.is_random else f"review order={self.order}"
        flags = f" {_UNIQUE}" * self.unique + f" {_LABELS_SHOWN}" * (self.labels_shown and self.is_random)
        return f"{start} num={self.num} of={self.labelled} population={self.population}{flags}"


def parse_draw(text: str) -> Draw | None:
    """Read what a list says about itself; None if that is nothing, or was not written by shardlabel."""
    match = _TEXT.fullmatch(" ".join(text.split()).lower())
    if match is None:
        return None
    words = dict(word.partition("=")[::2] for word in match[2].split())
    try:
        return Draw(
            order="random" if match[1] == "random" else words["order"],
            seed=int(words.get("seed", 0)),
            num=int(words["num"]),
            labelled=int(words["of"]),
            population=words["population"],
            unique=_UNIQUE in words,
            labels_shown=_LABELS_SHOWN in words or match[1] == "review",
        )
    except (KeyError, ValueError):
        return None


def mark_shown(text: str) -> str:
    """The text of a row that is answered with the networks' predictions in view.

    Args:
        text: What the row says about its draw; empty for nothing.
    """
    draw = parse_draw(text)
    if _is_shown(text) or (draw is not None and not draw.is_random):
        return text
    return f"{text} {_LABELS_SHOWN}".strip()


def _is_shown(text: str) -> bool:
    """Whether a row says that its annotator saw what the networks predicted."""
    return _LABELS_SHOWN in text.lower().split()


class Population:
    """The set of labelled images, as their number and the sum of their hashes."""

    def __init__(self) -> None:
        self.labelled = 0
        self._sum = np.uint64(0)

    def add(self, hashes_B: Array) -> None:
        """Add images, by their :func:`hash_images`."""
        self.labelled += len(hashes_B)
        self._sum = np.add.reduce(hashes_B, initial=self._sum, dtype=np.uint64)

    def __str__(self) -> str:
        return f"{int(self._sum):016x}"


def hash_images(table: pa.Table) -> Array:
    """A hash of each image: uint64 (B,), the first 64 bits of its SHA-256; where that is unknown, of shard and key.

    Args:
        table: Predictions with ``shard``, ``key`` and ``sha256``.
    """
    sha256 = table["sha256"].combine_chunks()
    known_B = sha256.is_valid().to_numpy(zero_copy_only=False)
    digits = pc.utf8_rpad(pc.utf8_slice_codeunits(sha256.fill_null(""), 0, _HASH_DIGITS), _HASH_DIGITS, "0")
    joined = "".join(pc.utf8_lower(digits).to_pylist()).encode()
    codes_B16 = np.frombuffer(joined, np.uint8).reshape(-1, _HASH_DIGITS)
    values_B16 = np.where(codes_B16 > ord("9"), codes_B16 - (ord("a") - 10), codes_B16 - ord("0")).astype(np.uint64)
    hashes_B: Array = (values_B16 << _SHIFTS_16).sum(axis=1, dtype=np.uint64)
    for row in np.flatnonzero(~known_B).tolist():
        name = f"{table['shard'][row]}\n{table['key'][row]}".encode("utf-8", "surrogateescape")
        hashes_B[row] = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
    return hashes_B


# -- which draws a promise may rest on ------------------------------------------------------------------


def count_reviewed(drawn: Mapping[str, int]) -> int:
    """How many of the truths come from review lists.

    Args:
        drawn: Number of truths by the text about their draw; empty where there is none.
    """
    draws = ((parse_draw(text), images) for text, images in drawn.items())
    return sum(images for draw, images in draws if draw is not None and not draw.is_random)


def count_shown(drawn: Mapping[str, int]) -> int:
    """How many of the truths were answered with the networks' predictions in view, which people follow.

    Those of review lists, which all show them, are not counted.

    Args:
        drawn: As for :func:`count_reviewed`.
    """
    return sum(images for text, images in drawn.items() if _is_shown(text))


def refuse_reviewed(source: str, drawn: Mapping[str, int], out: str) -> None:
    """Check that no truth comes from a review list.

    Args:
        source: The truth file.
        drawn: As for :func:`count_reviewed`.
        out: The output, of which others may be drawn.

    Raises:
        RequestError: Some do.
    """
    if reviewed := count_reviewed(drawn):
        raise RequestError(
            f"--truth {source}: {reviewed:,} of {fmt.plural(sum(drawn.values()), 'truth is', 'truths are')} of "
            "`review` lists, whose images "
            "were chosen and not drawn at random: no precision can be promised on them. Give the truth of a list of "
            f"`sample` alone: `{command_line('sample', out, '--unique', '--save', free_name('truth.csv'))}`"
        )


def refuse_incomplete(source: str, listed: Mapping[str, int], unanswered: int) -> None:
    """Check that a list that tells how it was drawn is whole, and each of its images has an answer.

    Without the images that were hard to answer, or were answered otherwise, the others are no random draw.

    Args:
        source: The truth file.
        listed: Number of rows by the text about their draw.
        unanswered: Rows without an answer, and those whose key is of no image, or of several.

    Raises:
        RequestError: Rows are gone, or have no answer.
    """
    draws: Counter[Draw] = Counter()
    most: Counter[Draw] = Counter()
    for text, rows in listed.items():
        if (draw := parse_draw(text)) is not None:
            # rows of one list differ in these: some are answered with labels in view, some were added later
            own = dataclasses.replace(draw, num=0, labels_shown=False)
            draws[own] += rows
            most[own] = max(most[own], draw.num)
    gone = sum(max(0, most[own] - rows) for own, rows in draws.items())
    if draws and (gone or unanswered):
        what = [f"{gone:,} of its images are no longer in it"] if gone else []
        what += [f"{unanswered:,} have no answer, or a key that fits no image"] if unanswered else []
        raise RequestError(
            f"--truth {source}: {' and '.join(what)}. The images that are left are no random draw, so no precision can "
            "be promised on them. Answer all (`none` where no class fits, or annotators do not agree), or draw a "
            "smaller list with the same --seed: it has the first of these images"
        )


def is_proven_random(source: str, drawn: Mapping[str, int], population: Population, out: str, *, dedupe: bool) -> bool:
    """Whether the lists themselves show that all truths were drawn at random from this population.

    Args:
        source: The truth file.
        drawn: As for :func:`count_reviewed`.
        population: The labelled images of the output.
        out: The output, of which others may be drawn.
        dedupe: Whether images with equal bytes count as one.

    Returns:
        False where a part of the truth does not tell how it was drawn: then that is the user's word.

    Raises:
        RequestError: A list was drawn from another population.
    """
    draws = [parse_draw(text) for text in drawn]
    for draw in draws:
        if draw is None or (draw.population, draw.labelled) == (str(population), population.labelled):
            continue
        words = ["sample", out, "--seed", str(draw.seed), "--num", str(draw.num), "--unique"]
        raise RequestError(
            f"--truth {source}: it was drawn from {_describe_other(draw, population)}, so it is no random draw from "
            f"what is exported. Draw again, for example with "
            f"`{command_line(*words, '--save', free_name('truth.csv'))}`: the same seed lists many of the same images"
        )
    if not dedupe and any(draw is not None and draw.unique for draw in draws):
        raise RequestError(
            f"--truth {source}: it was drawn with --unique, so images with copies are too rare in it for an export "
            "with --no-dedupe; leave --no-dedupe out, or draw without --unique"
        )
    return bool(draws) and None not in draws


def _describe_other(draw: Draw, population: Population) -> str:
    if draw.labelled == population.labelled:
        return f"{draw.labelled:,} other images than the labelled ones of this output"
    return f"{fmt.plural(draw.labelled, 'labelled image')}, and this output has {population.labelled:,}"
