"""Evaluate: how often labels are right, and how well their scores are calibrated, where the truth is known."""

from __future__ import annotations

import os

from pipeline.errors import RequestError
from pipeline.job.own_classes import classes_of_output
from pipeline.output.opening import open_ledger
from pipeline.taxonomy.nodes import carry_groups
from pipeline.taxonomy.stored import stored_classes
from pipeline.text import fmt
from pipeline.text.commands import command_line, free_name
from pipeline.trust.evaluation import Evaluation, compute_evaluation
from pipeline.trust.group_reader import GroupReader
from pipeline.trust.matched import read_matched_images
from pipeline.trust.truth import TruthCounts
from pipeline.trust.truth_file import read_truth


def evaluate(
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> Evaluation:
    """Compare the labels of an output with the truth.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        truth: CSV or Parquet file with the columns ``key`` and ``label`` (index, class name or WordNet id), and
            ``shard`` where keys alone name several images; a list of :func:`pipeline.sample`, its column ``truth``
            filled in; the JSON export of Label Studio, or FiftyOne's ``labels.json``; None for the samples' own
            ``.cls``. In all of them the label is ``none`` where no class fits. With own classes it may be a group.
        classes: Own classes, as for ``label``: each level is scored, too; None for those of the output, if it has some.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
        InputError: The truth file, or that of own classes, is missing or not valid, or the truth is about none of the
            images.
        RequestError: No labelled sample has a ``.cls``.
    """
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    job = ledger.job()
    taxonomy = classes_of_output(job, None if classes is None else os.fspath(classes), storage)
    given = None if truth is None else read_truth(os.fspath(truth), storage, job["class_names"], taxonomy)
    groups = None if taxonomy is None else GroupReader(ledger, job, storage, taxonomy)
    carried = carry_groups(stored_classes(job), taxonomy)
    matched = read_matched_images(ledger, job, given, groups=groups, carried_groups=carried)
    if not len(matched):
        raise RequestError(_why_no_truth(ledger.out, matched.counts))
    return compute_evaluation(ledger.out, job, matched, groups)


def _why_no_truth(out: str, counts: TruthCounts) -> str:
    if counts.given:
        return f"{out}: of {fmt.plural(counts.given, 'truth')} none can be used: {'; '.join(counts.complaints)}"
    return (
        f"{out}: no labelled sample has a .cls, so there is nothing to compare with. "
        f"`{command_line('sample', out, '--unique', '--save', free_name('truth.csv'))}` lists images for "
        "people to label; give the filled-in list to --truth"
    )
