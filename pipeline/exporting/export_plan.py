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
from pipeline.exporting.naming import Naming
from pipeline.exporting.refusal import Basis, describe_refusal
from pipeline.exporting.selection import Selection
from pipeline.exporting.settings import ExportConfig
from pipeline.exporting.source import Source
from pipeline.exporting.target import Target
from pipeline.text import fmt
from pipeline.trust.draw import is_proven_random, refuse_incomplete
from pipeline.trust.fitted import fitted_truths
from pipeline.trust.promise import PrecisionTest, Promise
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
    config: ExportConfig,
    source: Source,
    target: Target,
    truth: Truth | None,
    choices: Mapping[str, Any],
    naming: Naming,
) -> dict[str, int]:
    """Select the images, and write the plan; nothing is written before every image is decided.

    Returns:
        Number of selected rows, by name of the predictions part.

    Raises:
        RequestError: No image is selected, or a precision cannot be promised.
        OutputError: The output cannot be read, or there is no space to sort it in.
    """
    promise: Promise | None = None
    with _selection(config, source, truth, naming) as selection:
        selection.read()
        counts = None
        if config.target_precision is not None:
            counts = selection.check_truths(count_unknown=config.unknown_labels == "wrong")
            promise = _promise(config, source, selection, truth, counts)
        classes = selection.choose()
        if not classes:
            raise RequestError(
                f"{source.ledger.out}: of {fmt.plural(selection.labelled, 'image')} none passes: "
                f"{_reasons(selection.rejected)}"
            )
        labels = source.labels
        content = _describe(config, source, target, choices, promise) | {
            **({"classes": about} if (about := naming.about()) else {}),
            "truth": None
            if counts is None
            else dataclasses.asdict(counts)
            | {"in_words": counts.in_words, "drawn": {} if truth is None else dict(truth.drawn)},
            "selection": {
                "labelled": selection.labelled,
                "rejected": dict(selection.rejected),
                "selected": sum(row.images for row in classes),
                "num_classes": len(labels.names),
                "classes": [labels.describe(row.label) | dataclasses.asdict(row) for row in classes],
                "bits": selection.bits,
            },
        }
        target.claim(content, overwrite=config.overwrite)
        return target.write_plan((part.name, part.rows) for part in selection.parts())


@contextlib.contextmanager
def _selection(config: ExportConfig, source: Source, truth: Truth | None, naming: Naming) -> Iterator[Selection]:
    """Open a selection, and translate its errors.

    Raises:
        OutputError: The output cannot be read, or there is no space to sort it in.
    """
    try:
        with Selection(config, source, truth, fitted_truths(source.job, source.ledger.out), naming) as selection:
            yield selection
    except StorageError as error:
        raise OutputError(f"{error}; `shardlabel verify` says what to do about it") from error
    except duckdb.Error as error:
        raise OutputError(f"nothing could be selected (is there room in TMPDIR?): {error}") from error


def _promise(
    config: ExportConfig, source: Source, selection: Selection, truth: Truth | None, counts: TruthCounts
) -> Promise:
    assert config.target_precision is not None
    if truth is not None:
        unanswered = counts.blank + counts.unknown_keys + counts.ambiguous_keys
        refuse_incomplete(truth.counts.source, truth.listed, unanswered)
    is_proven = truth is not None and is_proven_random(
        truth.counts.source, truth.drawn, selection.population, config.out, dedupe=config.dedupe
    )
    promise = selection.promise(PrecisionTest(config.target_precision, config.delta, is_proven))
    if promise.threshold is None:
        older = source.job.get("combined_from") or {}
        kinds = selection.certifying_none, selection.certifying_groups
        basis = Basis(counts, truth, *kinds, str(older.get("out") or ""))
        raise RequestError(describe_refusal(config, promise, basis))
    return promise


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
