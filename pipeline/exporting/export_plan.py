"""Plan an export: decide about every image, and claim the target."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.exporting.selection import Selection
from pipeline.exporting.settings import ExportConfig
from pipeline.exporting.source import Source
from pipeline.exporting.target import Target
from pipeline.text import fmt
from pipeline.trust.draw import is_proven_random, refuse_incomplete
from pipeline.trust.fitted import fitted_truths
from pipeline.trust.promise import PrecisionTest, Promise
from pipeline.trust.strictness import sample_more
from pipeline.trust.truth import Truth, TruthCounts


def hash_truth(truth: Truth) -> str:
    """Hash the content of a truth file, independent of its format: 64 hex digits."""
    found = hashlib.sha256(truth.labels_T.tobytes())
    for text in sorted(truth.drawn):
        found.update(f"{len(text)} {text}".encode())
    for key in truth.keys.to_pylist():
        found.update(f"{len(key)} {key}".encode())
    return found.hexdigest()


def plan_export(
    config: ExportConfig, source: Source, target: Target, truth: Truth | None, choices: Mapping[str, Any]
) -> dict[str, int]:
    """Select the images, and write the plan; nothing is written before every image is decided.

    Returns:
        Number of selected rows, by name of the predictions part.

    Raises:
        RequestError: No image is selected, or a precision cannot be promised.
        OutputError: The output cannot be read, or there is no space to sort it in.
    """
    promise: Promise | None = None
    with _selection(config, source, truth) as selection:
        selection.read()
        counts = None
        if config.target_precision is not None:
            counts = selection.check_truths(count_unknown=config.unknown_labels == "wrong")
            promise = _promise(config, selection, truth, counts)
        classes = selection.choose()
        if not classes:
            raise RequestError(
                f"{source.ledger.out}: of {fmt.plural(selection.labelled, 'image')} none passes: "
                f"{_reasons(selection.rejected)}"
            )
        names = source.class_names
        content = _describe(config, source, target, choices, promise) | {
            "truth": None
            if counts is None
            else dataclasses.asdict(counts)
            | {"in_words": counts.in_words, "drawn": {} if truth is None else dict(truth.drawn)},
            "selection": {
                "labelled": selection.labelled,
                "rejected": dict(selection.rejected),
                "selected": sum(row.images for row in classes),
                "num_classes": len(names),
                "classes": [{"name": names[row.label]} | dataclasses.asdict(row) for row in classes],
            },
        }
        target.claim(content, overwrite=config.overwrite)
        return target.write_plan((part.name, part.rows) for part in selection.parts())


@contextlib.contextmanager
def _selection(config: ExportConfig, source: Source, truth: Truth | None) -> Iterator[Selection]:
    """Open a selection, and translate its errors.

    Raises:
        OutputError: The output cannot be read, or there is no space to sort it in.
    """
    try:
        with Selection(config, source, truth, fitted_truths(source.job, source.ledger.out)) as selection:
            yield selection
    except StorageError as error:
        raise OutputError(f"{error}; `shardlabel verify` says what to do about it") from error
    except duckdb.Error as error:
        raise OutputError(f"nothing could be selected (is there room in TMPDIR?): {error}") from error


def _promise(config: ExportConfig, selection: Selection, truth: Truth | None, counts: TruthCounts) -> Promise:
    assert config.target_precision is not None
    if truth is not None:
        unanswered = counts.blank + counts.unknown_keys + counts.ambiguous_keys
        refuse_incomplete(truth.counts.source, truth.listed, unanswered)
    is_proven = truth is not None and is_proven_random(
        truth.counts.source, truth.drawn, selection.population, dedupe=config.dedupe
    )
    promise = selection.promise(PrecisionTest(config.target_precision, config.delta, is_proven))
    if promise.threshold is None:
        complaints = "".join(f"; {line}" for line in counts.complaints) if config.truth is not None else ""
        none = f" ({counts.no_class:,} of them none, which counts as wrong)" if counts.no_class else ""
        raise RequestError(
            f"a precision of {config.target_precision:g} cannot be promised at delta {config.delta:g} with "
            f"{_describe_truths(promise)}{none}: {describe_missing(config, promise)}; nothing was exported{complaints}"
        )
    return promise


def _describe_truths(promise: Promise) -> str:
    unused = promise.num_truths - promise.num_certifying
    if not unused:
        return fmt.plural(promise.num_truths, "truth")
    if promise.num_fitted:
        return (
            f"{fmt.plural(promise.num_certifying, 'truth')} ({fmt.plural(unused, 'more was', 'more were')} used to "
            "fit the calibration of this output; "
            "`calibrate --hold-out 0.8` leaves most of them for this)"
        )
    return (
        f"{fmt.plural(promise.num_certifying, 'truth')} ({unused:,} more may have been used to fit the calibration "
        "of this output, "
        "which does not tell; calibrate again to know)"
    )


def describe_missing(config: ExportConfig, promise: Promise) -> str:
    """How many more truths are needed; or that no number would do.

    Args:
        config: Of the export.
        promise: One without a threshold.
    """
    left = (promise.num_selected or 0) - promise.num_truths
    remedy = "lower the target, or improve the ensemble"
    least = f"at least {fmt.plural(promise.missing, 'more is', 'more are')} needed"
    if promise.missing > left:
        others = "no other images are" if not left else f"only {fmt.plural(left, 'other image is', 'other images are')}"
        return f"{least}, and {others} left: {remedy}"
    needed = promise.needed
    if needed is not None and needed.truths is None and needed.right <= promise.target * needed.judged:
        surest = "truths" if needed.judged == promise.num_certifying else "truths with the highest scores"
        return (
            f"no number of truths will do while labels are right as rarely as here, {needed.right:,} of the "
            f"{needed.judged:,} {surest}: {remedy}"
        )
    more = promise.missing
    if needed is not None and needed.truths is not None:
        more = max(more, needed.truths - promise.num_certifying)
        least = f"about {fmt.plural(more, 'more is', 'more are')} needed if labels are right as often as in these"
        if more > left:
            return f"{least}, and only {fmt.plural(left, 'other image is', 'other images are')} left: {remedy}"
    how = "" if config.truth is None else f": `{sample_more(config.out, config.truth, more)} --unique`"
    return f"{least}, drawn at random from what the other filters leave{how}"


def _reasons(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in rejected.items() if count) or "there are none"


def _describe(
    config: ExportConfig, source: Source, target: Target, choices: Mapping[str, Any], promise: Promise | None
) -> dict[str, Any]:
    """Content of ``export.json`` about the source of the dataset."""
    results = source.job["results"]
    known = ("alias", "arch", "weights", "factor", "weights_sha256", "num_classes")
    return {
        "shardlabel": importlib.metadata.version("shardlabel"),
        "fingerprint": target.fingerprint,
        "asked": dict(choices),
        "source": {
            "out": source.ledger.out,
            "fingerprint": source.fingerprint,
            "members": [{name: member[name] for name in known if name in member} for member in results["members"]],
            "combine": results["combine"],
            "calibrated": bool(source.job.get("calibrated")),
            "temperature": (results.get("calibration") or {}).get("temperature"),
            "complete": source.complete,
            "inputs": source.job.get("inputs", []),
        },
        "promise": None if promise is None else dataclasses.asdict(promise),
    }
