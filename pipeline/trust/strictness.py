"""What a promise asks of its truth: that every answer is understood, or counts as wrong.

A promise is about images drawn at random. If those that were hard to answer are left out, the rest are the easy ones,
and the promised precision is too high. So ``none`` is an answer, and counts as wrong for every label; images that
annotators do not agree about count as wrong, too. What is not understood stops the promise, unless it is to count as
wrong: it may be a slip of the pen, and is quickly mended.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import RequestError
from pipeline.labels import nearest_names
from pipeline.text import fmt
from pipeline.trust.truth import CLS_TRUTH, TruthCounts, TruthMatcher


def check_truths(matcher: TruthMatcher, class_names: Sequence[str], *, count_unknown: bool) -> TruthCounts:
    """Check that a promise can rest on the truth of these images.

    Args:
        matcher: Strict, after all batches.
        class_names: Of the K classes.
        count_unknown: Whether truths that are not understood count as wrong.

    Returns:
        How much of it is used.

    Raises:
        RequestError: The truth is about none of the images, or some of it is not understood or no row.
    """
    matcher.check_found()
    counts = matcher.counts()
    if counts.unknown_images and not count_unknown:
        raise RequestError(
            f"{fmt.plural(counts.unknown_images, 'truth is', 'truths are')} not understood "
            f"({_describe(counts, class_names)}), and a promise "
            f"cannot leave them out. Mend them in {counts.source} (`none` says that no class fits), or count them as "
            "wrong with --unknown-labels wrong; nothing was exported"
        )
    if counts.malformed_rows:
        shown = ", ".join(repr(text) for text in counts.malformed_row_examples)
        raise RequestError(
            f"{fmt.plural(counts.malformed_rows, 'row', 'rows')} of {counts.source} "
            f"{'has' if counts.malformed_rows == 1 else 'have'} more or fewer cells than the header ({shown}), "
            "and a promise cannot leave them out: put quotes around cells that hold the delimiter; nothing was exported"
        )
    if count_unknown and matcher.untraceable:
        raise RequestError(
            f"{matcher.untraceable:,} of {CLS_TRUTH} are not understood ({_describe(counts, class_names)}), in parts "
            "where other samples have none: which samples they are of is not stored, so they cannot count as wrong. "
            "Mend them and label again, or give a --truth"
        )
    return counts


def _describe(counts: TruthCounts, class_names: Sequence[str]) -> str:
    """Some of the texts that name no class, each with the classes that it resembles."""
    shown = []
    for text in counts.unknown_label_examples:
        near = nearest_names(text, class_names)
        shown.append(f"{text!r} for {' or '.join(near)}?" if near else repr(text))
    return ", ".join(shown + ["..."] * (counts.unknown_labels > len(shown)))
