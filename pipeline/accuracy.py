"""Evaluate: accuracy where the truth is known."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from pipeline.ledger import PREDICTIONS, PartName, open_output

_TOP = 5


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of images, 0-1, whose truth is the first, or among the first five, of the labels."""

    top1: float
    top5: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy of an output.

    Attributes:
        out: The output.
        images: Labelled images whose truth is known.
        consensus: Of the ensemble.
        members: Of each member, by alias.
        combine: How the members were combined.
    """

    out: str
    images: int
    consensus: Accuracy
    members: dict[str, Accuracy]
    combine: str


def evaluate(
    out: str | os.PathLike[str], *, s3_endpoint: str | None = None, no_sign_request: bool = False
) -> Evaluation:
    """Compare an output's labels with the samples' own ``.cls``.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
    """
    ledger, _ = open_output(out, s3_endpoint, no_sign_request=no_sign_request)
    job = ledger.job()["results"]
    aliases = [member["alias"] for member in job["members"]]
    hits = np.zeros((1 + len(aliases), 2), np.int64)
    images = 0
    for name in ledger.names(PREDICTIONS):
        if PartName.parse(name) is None:
            continue
        table = ledger.read_part(PREDICTIONS, name, ["labels", "members", "truth"])
        table = table.filter(table["truth"].is_valid()).combine_chunks()
        images += table.num_rows
        truth = table["truth"].to_numpy()
        own = (
            [table["members"].combine_chunks().field(alias).field("labels") for alias in aliases] if len(table) else []
        )
        for row, column in enumerate([table["labels"].combine_chunks(), *own] if len(table) else []):
            ranks = column.flatten().to_numpy().reshape(len(table), -1)[:, :_TOP] == truth[:, None]
            hits[row] += ranks[:, 0].sum(), ranks.any(axis=1).sum()
    shares = hits / max(1, images)
    first, *others = (Accuracy(float(top1), float(top5)) for top1, top5 in shares)
    return Evaluation(ledger.out, images, first, dict(zip(aliases, others, strict=True)), job["combine"])
