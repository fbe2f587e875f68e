"""Combine: compute the consensus of an output again from its stored probabilities, without images or networks.

Members, weights, rule, calibration and top-k may change; units, parts, quarantine, commits and resume are as before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import uuid
from typing import Any

from pipeline.config.parse import parse_config
from pipeline.config.settings import CombineConfig, StorageConfig
from pipeline.engines.workload import Workload
from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.inputs.plan import Plan
from pipeline.inputs.units import read_units
from pipeline.job.combination import choose_members, describe_combination
from pipeline.job.description import Job, claim
from pipeline.job.pending import Items, PendingWork, pending_work
from pipeline.job.progress import Reporter, make_reporter
from pipeline.job.running import carry_out, is_progress, make_engine
from pipeline.job.summary import LabelSummary
from pipeline.labeler.labeler import UNITS_AT_ONCE
from pipeline.labeler.replay_worker import ReplayWorker
from pipeline.metrics import job_labels
from pipeline.models.recipe import Recipe
from pipeline.models.weights import MemberSpec
from pipeline.output.ledger import Ledger, open_ledger
from pipeline.output.parts import Progress
from pipeline.output.probabilities import StoredProbs, find_stored_probs
from pipeline.storage import Storage


def combine(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    **options: Any,  # noqa: ANN401 - the options of CombineConfig, which checks them
) -> LabelSummary:
    """Compute the consensus of an output again; options are those of ``shardlabel combine``, with underscores.

    Args:
        source: Directory or ``s3://`` prefix of an output that was labelled with ``keep_probs``.
        out: Where the new output goes.
        **options: See ``shardlabel combine --help``.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    options.setdefault("progress", "none")
    return run_combine(parse_config(CombineConfig, {"source": source, "out": out, **options}))


def run_combine(config: CombineConfig, reporter: Reporter | None = None) -> LabelSummary:
    """Compute a consensus again, for the units that are not done yet.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    older, storage = open_ledger(config.source, config.s3_endpoint, no_sign_request=config.no_sign_request)
    ledger = Ledger(config.out, storage)
    if ledger.out == older.out:
        raise OutputError(f"--out {ledger.out}: is the output to combine; write the new one to another place")
    content = older.job()
    source = find_stored_probs(older, content)
    members = choose_members(content, config.model, source)
    job = describe_combination(config, content, members, source, storage)
    source = dataclasses.replace(source, aliases=tuple(member["alias"] for member in members))
    with (
        contextlib.closing(make_engine(config)) as engine,
        contextlib.closing(reporter or make_reporter(config.progress)) as shown,
    ):
        claim(ledger, job, overwrite=config.overwrite)
        ledger.sweep()
        pending = _plan(older, source, ledger, storage, job.fingerprint)
        left = {unit.id: (unit, unit.num_samples) for unit in pending.pending}
        workload = functools.partial(_workload, config, ledger.out, job, source, pending)
        summary = carry_out(config, pending, left, job, workload, engine, ledger, storage, shown)
        shown.finish(summary.to_dict())
    return summary


def _plan(older: Ledger, source: StoredProbs, ledger: Ledger, storage: Storage, fingerprint: str) -> PendingWork:
    """Plan the units of the older output, and find those that are not done, with their stored parts."""
    units = read_units(older, storage, source.fingerprint)
    if not units:
        raise RequestError(f"{source.out}: nothing is planned there yet; label first")
    while True:
        plan = Plan(ledger, storage, fingerprint)
        try:
            plan.copy_units(units)
        except StorageError as error:
            raise OutputError(f"OUT cannot be used: {error}") from error
        if plan.replaced:
            ledger.remove_success()
            ledger.remove_units(plan.replaced)
        if plan.write():
            break
    pending = pending_work(plan, ledger, fingerprint)
    stored = older.progress(source.fingerprint)
    held = {unit.id: stored.get(unit.id, Progress()) for unit in pending.pending}
    return dataclasses.replace(pending, stored=held)


def _workload(config: CombineConfig, out: str, job: Job, source: StoredProbs, pending: PendingWork) -> Workload:
    """What the engine runs: a replayer over the pending units."""
    specs = [
        MemberSpec(**member | {"recipe": Recipe.from_dict(member["recipe"]), "weights_file": ""})
        for member in job.content["results"]["members"]
    ]
    settings = {
        "out": out,
        "fingerprint": job.fingerprint,
        "run": uuid.uuid4().hex,
        "members": job.weighted(specs),
        "class_names": job.class_names,
        "rule": job.rule,
        "top_k": job.content["results"]["top_k"],
        "temperature": job.temperature,
        "precision": job.precision,
        "compiled": job.compiled,
        "device": job.device,
        "batch_size": None,
        "trying": False,
        "decode": job.content["results"]["decode"],
        "rows_per_part": job.rows_per_part,
        "keep": tuple(job.content["results"]["keep"]),
        "storage": StorageConfig(s3_endpoint=config.s3_endpoint, no_sign_request=config.no_sign_request),
        "reused": {alias: alias for alias in source.aliases},
        "reused_from": source,
    }
    return Workload(
        factory=functools.partial(ReplayWorker, settings),
        blobs={},
        items=Items(pending),
        items_at_once=UNITS_AT_ONCE,
        on_gpu=False,
        num_workers=None if config.workers == "auto" else config.workers,
        num_threads=None,
        is_progress=is_progress,
        labels=job_labels(job.fingerprint),
    )
