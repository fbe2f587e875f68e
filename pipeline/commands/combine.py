"""Combine: compute the consensus of an output again from its stored probabilities, without images or networks.

Members, weights, rule, calibration and top-k may change; units, parts, quarantine, commits and resume are as before.
Without stored probabilities only a calibration that is one temperature can be applied, to the stored top-k.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
from typing import Unpack

from pipeline.config.call_options import CombineOptions
from pipeline.config.parse import parse_config
from pipeline.config.settings import CombineConfig, StorageConfig
from pipeline.config.signatures import takes_options
from pipeline.engines.workload import Workload
from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.inputs.following import SourceFollower
from pipeline.inputs.plan import Plan
from pipeline.inputs.units import read_units
from pipeline.job.claim import claim
from pipeline.job.combination import check_temperature_alone, choose_members, describe_combination
from pipeline.job.engine import make_engine, settle_engine
from pipeline.job.following_quarantine import follow_quarantine
from pipeline.job.job_plan import write_plan
from pipeline.job.own_classes import carried_groups
from pipeline.job.pending import PendingWork, is_progress, pending_work
from pipeline.job.progress import Reporter, default_progress, make_reporter
from pipeline.job.running import JobRun
from pipeline.job.summary import LabelSummary
from pipeline.labeler.labeler import UNITS_AT_ONCE
from pipeline.labeler.worker import ReplayWorker
from pipeline.metrics import job_labels
from pipeline.models.weights import MemberSpec
from pipeline.output.ledger import Ledger
from pipeline.output.opening import open_ledger
from pipeline.output.parts import Progress
from pipeline.output.probabilities import StoredProbs, find_stored_probs, find_stored_top_k, stored_aliases
from pipeline.records import Reason
from pipeline.text import fmt


@takes_options(CombineOptions, CombineConfig, progress="none")
def combine(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    **options: Unpack[CombineOptions],
) -> LabelSummary:
    """Compute the consensus of an output again; options are those of ``shardlabel combine``, with underscores.

    Args:
        source: Directory or ``s3://`` prefix of an output that was labelled with ``keep_probs``; for a calibration that
            is one temperature, of any output.
        out: Where the new output goes.
        **options: See ``shardlabel combine --help``.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    options.setdefault("progress", default_progress())
    return run_combine(parse_config(CombineConfig, {"source": source, "out": out, **options}, called=True))


def run_combine(config: CombineConfig, reporter: Reporter | None = None) -> LabelSummary:
    """Compute a consensus again, for the units that are not done yet.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    older, storage = open_ledger(
        config.source, config.s3_endpoint, no_sign_request=config.no_sign_request, request_payer=config.request_payer
    )
    ledger = Ledger(config.out, storage)
    if ledger.out == older.out:
        raise OutputError(f"--out {ledger.out}: is the output to combine; write the new one to another place")
    content = older.job()
    if stored_aliases(content):
        source = find_stored_probs(older, content)
        members = choose_members(content, config.model, source)
        source = dataclasses.replace(source, aliases=tuple(member["alias"] for member in members))
    else:
        check_temperature_alone(config, older.out, content)
        source = find_stored_top_k(older, content)
        members = choose_members(content, (), source)
    job = describe_combination(config, content, members, source, storage)
    with contextlib.ExitStack() as until_closed:
        shown = until_closed.enter_context(contextlib.closing(reporter or make_reporter(config.progress)))
        config = settle_engine(config, shown.note)
        engine = until_closed.enter_context(contextlib.closing(make_engine(config, shown.note)))
        claim(ledger, job, overwrite=config.overwrite)
        ledger.sweep()
        run = JobRun(config, job, ledger, storage, engine, shown)
        work = _plan(older, source, run)
        summary = run.complete(work, functools.partial(_workload, config, run, source, work))
        not_finite = summary.quarantined_by_reason.get(Reason.NOT_FINITE, 0)
        if not_finite and len(source.aliases) < len(stored_aliases(content)):
            images = fmt.plural(not_finite, "image has", "images have")
            shown.note(
                f"{images} no label, because the numbers of some member of {source.out} are not finite there; "
                f"where it is one that is left out here: label them with --reuse {shlex.quote(config.source)}"
            )
        shown.finish(summary.to_dict())
    return summary


def _plan(older: Ledger, source: StoredProbs, run: JobRun) -> PendingWork:
    """Plan the units of the older output as they are there now, and find those that are not done, with their parts."""
    units = read_units(older, run.storage, source.fingerprint)
    if not units:
        raise RequestError(f"{source.out}: nothing is planned there yet; label first")

    follower = SourceFollower(run.ledger, run.storage, run.job.content)

    def add(plan: Plan) -> None:
        try:
            followed = follower.follow(plan, units)
        except StorageError as error:
            raise OutputError(f"OUT cannot be used: {error}") from error
        follow_quarantine(plan, run.ledger, run.job.fingerprint, older, source.fingerprint)
        if followed.changed or followed.dropped:
            changed = fmt.plural(followed.changed, "unit")
            run.reporter.note(f"as in {source.out} now: {changed} changed, {followed.dropped} let go of")

    plan = write_plan(run.ledger, run.storage, run.job.fingerprint, add)
    work = pending_work(plan, run.ledger, run.job.fingerprint)
    stored = older.progress(source.fingerprint)
    return dataclasses.replace(
        work,
        samples_left={unit.id: unit.num_samples for unit in work.units if unit.num_samples is not None},
        stored={unit.id: stored.get(unit.id, Progress()) for unit in work.units},
    )


def _workload(config: CombineConfig, run: JobRun, source: StoredProbs, work: PendingWork) -> Workload:
    """What the engine runs: a replayer over the pending units."""
    job = run.job
    specs = [MemberSpec.from_dict(member | {"weights_file": ""}) for member in job.content["results"]["members"]]
    storage = StorageConfig(
        s3_endpoint=config.s3_endpoint,
        no_sign_request=config.no_sign_request,
        request_payer=config.request_payer,
    )
    settings = job.labeler_settings(run.ledger.out, specs, storage)
    settings |= {
        "batch_size": None,
        "may_tune": False,
        "reused": {alias: alias for alias in source.aliases},
        "reused_from": source,
        "carried_groups": carried_groups(source, job.taxonomy, run.storage),
    }
    return Workload(
        factory=functools.partial(ReplayWorker, settings),
        blobs={},
        items=work.items(),
        items_at_once=UNITS_AT_ONCE,
        on_gpu=False,
        num_workers=None if config.workers == "auto" else config.workers,
        num_threads=None,
        is_progress=is_progress,
        labels=job_labels(job.fingerprint),
    )
