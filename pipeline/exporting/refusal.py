"""What is said where a precision cannot be promised: which truths there are, and what would help."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.exporting.settings import ExportConfig
from pipeline.text import fmt
from pipeline.text.commands import command_line, free_name, store_words
from pipeline.trust.more_truths import count_to_draw, draw_command, suggest_hold_out
from pipeline.trust.promise import Promise
from pipeline.trust.truth import Truth, TruthCounts

_IMPROVE = "lower the target, or improve the ensemble"


@dataclass(frozen=True, slots=True)
class Basis:
    """What a promise was to rest on.

    Attributes:
        counts: How much of the truth is used.
        truth: Of a file; None for the ``.cls`` of the samples.
        certifying_none: Of the truths that certify, those that count as wrong because no class fits.
        certifying_groups: Of the truths that certify, those that are groups.
        combined_from: The output that this one was combined from; empty if it was labelled.
    """

    counts: TruthCounts
    truth: Truth | None = None
    certifying_none: int = 0
    certifying_groups: int = 0
    combined_from: str = ""


def describe_refusal(config: ExportConfig, promise: Promise, basis: Basis) -> str:
    """Why no precision is promised, and what would help.

    Args:
        config: Of the export.
        promise: One without a threshold.
        basis: What it was to rest on.
    """
    what = f"a precision of {config.target_precision:g} cannot be promised at delta {config.delta:g}"
    complaints = "".join(f"; {line}" for line in basis.counts.complaints) if config.truth is not None else ""
    if promise.num_fitted and not promise.num_certifying and promise.num_truths:
        all_truths = "the one truth was" if promise.num_truths == 1 else f"all {promise.num_truths:,} truths were"
        why = f": {all_truths} used to fit the calibration of this output, and what was fitted on certifies nothing"
        return f"{what}{why}; {_describe_ways(config, promise, basis)}; nothing was exported{complaints}"
    truths = _describe_truths(promise, basis)
    return f"{what} with {truths}: {describe_missing(config, promise, basis)}; nothing was exported{complaints}"


def _describe_truths(promise: Promise, basis: Basis) -> str:
    """The truths that certify, and those that do not."""
    kinds = "none" if not basis.counts.counted_wrong else "none, not understood or disputed"
    none = f"{basis.certifying_none:,} of them {kinds}, which counts as wrong"
    groups = f"{basis.certifying_groups:,} of them groups, which count as wrong where the label is finer"
    aside = [none] * bool(basis.certifying_none) + [groups] * bool(basis.certifying_groups)
    if unused := promise.num_truths - promise.num_certifying:
        more = fmt.plural(unused, "more was", "more were")
        may = f"{unused:,} more may have been used to fit the calibration of this output, which does not tell; "
        told = f"{more} used to fit the calibration of this output"
        aside.append(told if promise.num_fitted else f"{may}calibrate again to know")
    return fmt.plural(promise.num_certifying, "truth") + (f" ({'; '.join(aside)})" if aside else "")


def _describe_ways(config: ExportConfig, promise: Promise, basis: Basis) -> str:
    """How to get truths that nothing was fitted on."""
    ways = []
    if (share := _spared(promise, basis)) is not None:
        words = ["--hold-out", f"{share:g}", "--save", free_name("cal.json"), *_store(config)]
        given = [] if config.truth is None else ["--truth", config.truth]
        command = f"`calibrate --hold-out {share:g}`"
        if basis.combined_from:
            command = f"`{command_line('calibrate', basis.combined_from, *given, *words)}`"
        ways.append(f"keep some back with {command}, and apply that calibration")
    if promise.missing <= _count_left(promise):
        needed = f"at least {fmt.plural(promise.missing, 'more is', 'more are')} needed"
        ways.append(f"have more images labelled, {needed}: `{_draw_command(config, promise, basis, promise.missing)}`")
    return "; or ".join(ways) or "label more images, for no others are left"


def describe_missing(config: ExportConfig, promise: Promise, basis: Basis) -> str:
    """How many more truths are needed; or that no number would do.

    Args:
        config: Of the export.
        promise: One without a threshold.
        basis: What it was to rest on.
    """
    left, remedy = _count_left(promise), _IMPROVE
    share = _spared(promise, basis) if promise.num_fitted else None
    if share is not None and share * promise.num_truths > promise.num_certifying:
        remedy = f"keep more truths back (`calibrate --hold-out {share:g}`), {_IMPROVE}"
    least = f"at least {fmt.plural(promise.missing, 'more is', 'more are')} needed"
    if promise.missing > left:
        others = "no other images are" if not left else f"only {fmt.plural(left, 'other image is', 'other images are')}"
        return f"{least}, and {others} left: {remedy}"
    needed = promise.needed
    if needed is not None and needed.truths is None and needed.right <= promise.target * needed.judged:
        surest = "truths" if needed.judged == promise.num_certifying else "truths with the highest scores"
        return (
            f"no number of truths will do while labels are right as rarely as here, {needed.right:,} of the "
            f"{needed.judged:,} {surest}: {_IMPROVE}"
        )
    more = promise.missing
    if needed is not None and needed.truths is not None:
        more = max(more, needed.truths - promise.num_certifying)
        least = f"about {fmt.plural(more, 'more is', 'more are')} needed if labels are right as often as in these"
        if more > left:
            return f"{least}, and only {fmt.plural(left, 'other image is', 'other images are')} left: {remedy}"
    how = f": `{_draw_command(config, promise, basis, more)}`" if config.truth is not None else ""
    return f"{least}, drawn at random from what the other filters leave{how}"


def _count_left(promise: Promise) -> int:
    """Images of the selection without a truth."""
    return (promise.num_selected or 0) - promise.num_truths


def _spared(promise: Promise, basis: Basis) -> float | None:
    """The share of the truths that a calibration can spare, 0-1; None if it is too small for any promise."""
    share = suggest_hold_out(basis.counts.used - basis.counts.no_class)
    return None if share is None or share * promise.num_truths < promise.least_certifying else share


def _draw_command(config: ExportConfig, promise: Promise, basis: Basis, more: int) -> str:
    """The command that draws enough images, of which the filters leave as many as of those before."""
    rate = min(1.0, max(1, promise.num_truths) / max(1, basis.counts.used))
    number, in_all = count_to_draw(more, rate), count_to_draw(promise.num_certifying + more, rate)
    return draw_command(config.out, basis.truth, number, in_all, _store(config))


def _store(config: ExportConfig) -> list[str]:
    store = config.storage
    return store_words(store.s3_endpoint, store.no_sign_request, store.request_payer)
