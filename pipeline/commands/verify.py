"""Verify: prove from the inputs that the output accounts for every sample exactly once.

The samples of the inputs are listed again. For each unit: samples = predictions + quarantine, each once, under its own
key and index; no part is missing, doubled, damaged or foreign; all visible damage to the shard is in quarantine. Every
discrepancy is named, with what to do about it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import RequestError
from pipeline.inputs.left_out import total_left_out
from pipeline.inputs.units import read_plan
from pipeline.machine import num_local_cpus
from pipeline.output.ledger import PREDICTIONS, QUARANTINE
from pipeline.output.opening import open_ledger
from pipeline.output.probabilities import stored_aliases
from pipeline.taxonomy.stored import CLASSES
from pipeline.text.result import Result
from pipeline.verifying.files import compare_with_success, find_foreign_files, find_foreign_probabilities, group_by_unit
from pipeline.verifying.messages import advise_combining
from pipeline.verifying.parallel import reconcile_all, useful_workers
from pipeline.verifying.reconciler import Reconciler, Reconciliation


@dataclass(frozen=True, slots=True, repr=False)
class Verification(Result):
    """Result of a verification.

    Attributes:
        out: The output.
        units: Number of units in its plan.
        samples: Number of samples in the inputs.
        predictions, quarantined: Number of rows that account for them.
        discrepancies: One line each; empty if everything is right.
        deep: Whether the images were read and hashed.
        left_out: Files of the inputs that are left out for their names: their number by extension.
        truths_not_understood: Labelled samples whose ``.cls`` names no class; no discrepancy.
        truth_examples: What stands in some of these.
        unread_by_reason: Of the quarantined, loose images that could not be read; no discrepancy.
        other_images, other_images_example, separate_images, passed_over, passed_over_example, repeated_keys,
            repeated_keys_example: See :class:`pipeline.records.Omitted`, recounted from the inputs.
    """

    out: str
    units: int
    samples: int
    predictions: int
    quarantined: int
    discrepancies: tuple[str, ...]
    deep: bool = False
    left_out: dict[str, int] = field(default_factory=dict)
    truths_not_understood: int = 0
    truth_examples: tuple[str, ...] = ()
    other_images: int = 0
    other_images_example: str = ""
    separate_images: int = 0
    passed_over: int = 0
    passed_over_example: str = ""
    repeated_keys: int = 0
    repeated_keys_example: str = ""
    unread_by_reason: dict[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 only if every sample is accounted for exactly once."""
        return 1 if self.discrepancies else 0


def verify(
    out: str | os.PathLike[str],
    *,
    deep: bool = False,
    workers: int | Literal["auto"] = 1,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> Verification:
    """Verify an output against its inputs.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        deep: Read every image again, and compare its hash with the stored one.
        workers: Number of processes. With more than one, a script that calls this needs
            ``if __name__ == "__main__"``. ``auto``: as many as pay off, at most one for each CPU.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
        RequestError: ``workers`` is not a number above 0.
        EngineError: A worker died.
    """
    if workers != "auto" and not (isinstance(workers, int) and workers > 0):
        raise RequestError(f"--workers: 'auto' or a whole number above 0 is expected, not {workers!r}")
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    job = ledger.job()
    fingerprint = str(job["fingerprint"])
    units, left_out_of = read_plan(ledger, storage)
    names = {folder: ledger.names(folder) for folder in (PREDICTIONS, QUARANTINE)}
    kept = stored_aliases(job)
    reconciler = Reconciler(
        ledger,
        storage,
        deep=deep,
        kept=kept,
        num_classes=len(job.get("class_names", ())),
        images=job["results"].get("images", "auto"),
        groups=(job.get(CLASSES) or {}).get("columns", {}),
    )
    num_workers = min(useful_workers(units, deep=deep), num_local_cpus()) if workers == "auto" else workers
    num_rows: dict[str, int] = {}
    lines = [*find_foreign_files(names, units, fingerprint)]
    lines += find_foreign_probabilities(ledger, names[PREDICTIONS], kept)
    total = Reconciliation()
    for found in reconcile_all(group_by_unit(units, names, fingerprint), reconciler, num_workers):
        total.samples += found.samples
        total.predictions += found.predictions
        total.quarantined += found.quarantined
        total.unread_by_reason.update(found.unread_by_reason)
        total.truths_not_understood.merge(found.truths_not_understood)
        total.discrepancies += found.discrepancies
        total.omitted.add(found.omitted)
        num_rows |= found.num_rows
    lines += [*compare_with_success(ledger, names, num_rows), *total.discrepancies]
    if isinstance(source := job.get("combined_from"), dict) and "out" in source:
        lines = [advise_combining(line, str(source["out"])) for line in lines]
    return Verification(
        out=ledger.out,
        units=len(units),
        samples=total.samples,
        predictions=total.predictions,
        quarantined=total.quarantined,
        discrepancies=tuple(lines),
        deep=deep,
        left_out=total_left_out(left_out_of),
        truths_not_understood=total.truths_not_understood.count,
        truth_examples=tuple(total.truths_not_understood.examples),
        unread_by_reason=dict(total.unread_by_reason),
        **total.omitted.to_dict(),
    )
