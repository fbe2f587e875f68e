"""Where truths are too few: what would do, of what there is. A smaller hold-out, or images that have no truth yet."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from pipeline.labels import NO_CLASS
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.text import fmt
from pipeline.text.commands import command_line, free_name
from pipeline.trust.draw import Draw, hash_images, parse_draw
from pipeline.trust.fitted import held_out_mask
from pipeline.trust.matched import MatchedImages
from pipeline.trust.temperature import MIN_TRUTHS
from pipeline.trust.truth import Truth

# What is suggested as a promise, and how many truths it takes at the least: ln 0.1 / ln 0.95.
SUGGESTED_TARGET, FEWEST_FOR_TARGET = 0.95, 45
_PLENTY = 100  # truths to fit a temperature to
_SHARES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# Standard deviations that what is left to chance may fall short: a command must run, which it does but in 1 of 700
# draws; of people's work no more is asked than what is enough in 19 of 20.
_SURE, _LIKELY = 3.0, 1.645


def suggest_hold_out(num_truths: int) -> float | None:
    """The share of truths that a fit can spare for a promise, 0-1; None if it needs all of them.

    Args:
        num_truths: Images with known truth in which a class fits.
    """
    for share in (0.8, 0.5):
        if num_truths * (1 - share) >= _PLENTY:
            return share
    return next((share for share in _SHARES if share <= 0.5 and _least(num_truths, 1 - share) >= MIN_TRUTHS), None)


def _least(number: int, rate: float) -> float:
    """How many of a number are of use at the least, if each is with this chance."""
    return number * rate - _SURE * math.sqrt(number * rate * (1 - rate))


def count_to_draw(missing: int, rate: float) -> int:
    """How many images to draw, so that enough of them are of use, but in 1 of 20 draws.

    Args:
        missing: Truths that are needed, at least 1.
        rate: Chance that an image is one of them, above 0, at most 1.
    """
    spread = _LIKELY * math.sqrt(1 - rate)
    root = (spread + math.sqrt(spread**2 + 4 * missing)) / 2
    return math.ceil(root**2 / rate - 1e-9)


def list_draw(truth: Truth | None) -> Draw | None:
    """How a truth was drawn, if it is a list that `sample --more` can add to; None for any other."""
    if truth is None or os.path.basename(truth.counts.source) == "labels.json":  # FiftyOne's cannot grow
        return None
    draws = [parse_draw(text) for text in truth.listed]
    own = [draw for draw in draws if draw is not None and draw.is_random]
    return own[0] if own and len(own) == len(draws) else None


def draw_command(out: str, truth: Truth | None, more: int, in_all: int, store: Sequence[str] = ()) -> str:
    """The command that draws images for annotators: further ones for the list that is there, or a list of its own.

    Args:
        out: The output.
        truth: What there is; None for the ``.cls`` of the samples.
        more: Images to add to a list, at least 1.
        in_all: Images of a list of its own.
        store: Options that name the store.
    """
    if truth is not None and list_draw(truth) is not None:
        return command_line("sample", out, "--save", truth.counts.source, "--more", str(more), *store)
    return command_line("sample", out, "--unique", "--num", str(in_all), "--save", free_name("truth.csv"), *store)


def advise_for_fit(
    ledger: Ledger, matched: MatchedImages, truth: Truth | None, hold_out: float, store: Sequence[str]
) -> str:
    """What to do where a fit has too few truths, in one line.

    Args:
        ledger: Of the output.
        matched: All images with known truth, those that are held out among them.
        truth: Where it is from; None for the ``.cls`` of the samples.
        hold_out: Share of them that is not fitted on, at least 0 and below 1.
        store: Options that name the store.
    """
    fits_N = matched.truth_N != NO_CLASS
    ways = []
    for share in (*_SHARES, 0.0):
        left = int((fits_N & ~held_out_mask(matched.hashes_N, share)).sum())
        if share < hold_out and left >= MIN_TRUTHS:
            ways.append(f"--hold-out {share:g} leaves {left:,}" if share else f"without --hold-out there are {left:,}")
            break
    usable = int((fits_N & ~held_out_mask(matched.hashes_N, hold_out)).sum())
    rate = (1 - hold_out) * max(1, int(fits_N.sum())) / max(1, len(matched))
    draw = list_draw(truth)
    there = _count_images(ledger, distinct=draw is None or draw.unique)
    more, in_all = count_to_draw(MIN_TRUTHS - usable, rate), count_to_draw(MIN_TRUTHS, rate)
    command = f"`{draw_command(ledger.out, truth, more, in_all, store)}`"
    kept = "" if rate == 1 else ", as a fit can use only some of them"
    if draw is None or truth is None:
        if in_all <= there:
            return "; or ".join([*ways, f"a list of {fmt.plural(in_all, 'image')}{kept}: {command}"])
        return "; ".join([*ways, f"all {fmt.plural(there, 'labelled image')} would be too few for a list"])
    left = max(0, there - max(len(matched), truth.counts.given))
    if more <= left:
        return "; or ".join([*ways, f"{more:,} more{kept}: {command}"])
    if left:
        return "; ".join([*ways, f"the {left:,} labelled images that are not in the list would be too few"])
    return "; ".join([*ways, f"all {there:,} labelled images are in the list already"])


def _count_images(ledger: Ledger, *, distinct: bool) -> int:
    """Labelled images; distinct ones by their bytes."""
    parts = ledger.prediction_parts(str(ledger.job()["fingerprint"]))
    if not distinct:
        return sum(ledger.footer(PREDICTIONS, str(part)).num_rows for part in parts)
    hashes = [hash_images(ledger.read_part(PREDICTIONS, str(part), ["shard", "key", "sha256"])) for part in parts]
    return len(np.unique(np.concatenate([*hashes, np.zeros(0, np.uint64)])))
