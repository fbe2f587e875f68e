"""Label: plan the inputs, leave out what is done, have an engine label the rest, and sum it up."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Sequence
from typing import Unpack

from pipeline.config.call_options import LabelOptions
from pipeline.config.parse import parse_label_config
from pipeline.config.settings import LabelConfig
from pipeline.config.signatures import takes_options
from pipeline.engines.choice import unused_gpus_note
from pipeline.engines.workload import Engine, Workload
from pipeline.hosts.worker import LabelerFactory
from pipeline.inputs.changes import ChangedInputs, Changes
from pipeline.inputs.find import Inputs
from pipeline.inputs.left_out import total_left_out
from pipeline.inputs.units import count_samples, read_units
from pipeline.job.claim import claimed
from pipeline.job.comparing import EngineCompare
from pipeline.job.description import PART_SIZES, describe_job, fit_memory, note_added_inputs
from pipeline.job.engine import make_engine, settle_engine
from pipeline.job.job_plan import plan_inputs
from pipeline.job.job_size import USUAL_IMAGE_BYTES, is_small_job
from pipeline.job.own_classes import carried_groups
from pipeline.job.part_sizes import PartSizes, estimate_image_s
from pipeline.job.pending import PendingWork, is_progress, pending_work
from pipeline.job.progress import Reporter, default_progress, make_reporter
from pipeline.job.request import LabelRequest, open_request
from pipeline.job.retrying import ToRetry, begin_retry, reasons_to_retry
from pipeline.job.reuse import OlderOutput, SharedMembers, shared_members
from pipeline.job.running import JobRun
from pipeline.job.summary import LabelSummary, add_changes
from pipeline.job.unread import retry_unread
from pipeline.job.unread_images import find_unread_images
from pipeline.metrics import job_labels
from pipeline.models.cost import member_cost
from pipeline.models.tuning import is_worth_tuning
from pipeline.models.weights import MemberSpec, ResolvedMember, resolve
from pipeline.text import fmt
from pipeline.text.omissions import advise_images_all

_COUNT_BUDGET_S = 2.0
_MOST_UNREAD = 20  # in a summary


@takes_options(LabelOptions, LabelConfig, progress="none")
def label(
    inputs: str | os.PathLike[str] | Sequence[str],
    out: str | os.PathLike[str],
    **options: Unpack[LabelOptions],
) -> LabelSummary:
    """Label images; the same words as ``shardlabel label``, with underscores.

    Args:
        inputs: One INPUT or several.
        out: Directory or ``s3://`` prefix.
        **options: See ``shardlabel label --help``.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    config_file = options.pop("config", None)
    options.setdefault("progress", default_progress())
    return run_label(parse_label_config({"inputs": inputs, "out": out, **options}, config_file, called=True))


def run_label(
    config: LabelConfig,
    reporter: Reporter | None = None,
    request: LabelRequest | None = None,
    *,
    begun_at: float | None = None,
) -> LabelSummary:
    """Run a labelling job, or what is left of it.

    Args:
        config: The options.
        reporter: Shows the progress; None for the one that the options name.
        request: What was checked before torch was loaded; None to do so now.
        begun_at: When the command was started, Unix seconds; None for now.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    begun_at = begun_at or time.time()
    request = request or open_request(config)
    storage, ledger, earlier, older = request.storage, request.ledger, request.earlier, request.older
    requested, inputs = config.members, request.take_inputs()
    with contextlib.ExitStack() as until_closed:
        shown = until_closed.enter_context(contextlib.closing(reporter or make_reporter(config.progress)))
        small = functools.partial(is_small_job, inputs, config.limit)
        config = settle_engine(config, shown.note, on_gpus=config.device != "cpu", is_small=small)
        engine = until_closed.enter_context(contextlib.closing(make_engine(config, shown.note)))
        members = [resolve(member, config.weights_dir, storage, shown.download) for member in requested]
        job = describe_job(config, members, engine, storage, earlier, older.job if older else None)
        fitting = fit_memory(config, members, job, engine)
        config = config.model_copy(update={"batch_size": fitting.batch_size or "auto"})
        run = JobRun(config, job, ledger, storage, engine, shown, begun_at=begun_at)
        notes = (
            *job.notes,
            *inputs.notes,
            *note_added_inputs(earlier, job),
            *([fitting.note] if fitting.note else []),
            *([idle] if (idle := unused_gpus_note(config.engine, job.device, engine.num_gpus)) else []),
        )
        with claimed(ledger, job, overwrite=config.overwrite):
            ledger.sweep()
            for note in notes:
                shown.note(note)
            sizes = _part_sizes(config, run, members, older)
            work, changes = run.prepare(functools.partial(_plan, config, run, inputs, sizes))
        del inputs, small  # of a million tars, 300 MB
        shared = None
        if older is not None:
            shared = shared_members(older, job.content["results"])
            stored = shared.stored(older.ledger, work.units)
            work = dataclasses.replace(work, stored=stored)
            shown.note(shared.note(len(stored), len(work.units)))
        summary = run.complete(work, functools.partial(_workload, config, run, members, work, shared))
        if (advice := advise_images_all(summary)) and config.images == "auto":
            shown.note(advice)
            notes = (*notes, advice)
        if decoder := _say_decoder(config, summary):
            shown.note(decoder)
            notes = (*notes, decoder)
        summary = add_changes(_with_inputs(summary, work, run, notes), changes)
        shown.finish(summary.to_dict())
    return summary


def _with_inputs(summary: LabelSummary, work: PendingWork, run: JobRun, notes: tuple[str, ...]) -> LabelSummary:
    """Add to a summary what became of the inputs that no unit counts."""
    unread = [
        image for _, found in find_unread_images(work.plan.units, run.ledger, run.job.fingerprint) for image in found
    ]
    return dataclasses.replace(
        summary,
        unread_images=len(unread),
        unread_examples=tuple(unread[:_MOST_UNREAD]),
        left_out=total_left_out(work.plan.left_out_of),
        notes=notes,
    )


def _say_decoder(config: LabelConfig, summary: LabelSummary) -> str:
    """One line about what ``--decode gpu`` came to; or none."""
    if config.decode != "gpu" or not summary.labelled:
        return ""
    if summary.decoded_on_gpu:
        return f"a GPU decoded {fmt.count(summary.decoded_on_gpu)} of {fmt.count(summary.labelled)} labelled images"
    return "--decode gpu: all images were decoded on CPUs; what labelers log says why"


def _part_sizes(
    config: LabelConfig, run: JobRun, members: Sequence[ResolvedMember], older: OlderOutput | None
) -> PartSizes | None:
    """How the size of parts is chosen for new units; None where all have that of the job."""
    if run.job.content[PART_SIZES] != "auto":
        return None
    on_gpu = run.job.device == "cuda"
    share = run.engine.share(on_gpu=on_gpu, num_workers=None if config.workers == "auto" else config.workers)
    image_s = estimate_image_s([member.spec for member in members], share, on_gpu=on_gpu)
    there = [] if older is None else read_units(older.ledger, run.storage)
    return PartSizes(image_s, run.job.rows_per_part, {unit.id: unit.rows_per_part for unit in there})


def _plan(config: LabelConfig, run: JobRun, inputs: Inputs, sizes: PartSizes | None) -> tuple[PendingWork, Changes]:
    """Plan the inputs; count the samples that are left, where that can be done quickly."""
    compare = EngineCompare(run.engine, run.started, None if config.workers == "auto" else config.workers)
    changes = ChangedInputs(
        run.ledger, run.storage, run.job.content, prune=config.prune, compare=compare, note=run.reporter.note
    )
    reasons = reasons_to_retry(run.ledger, config.retry, run.job.fingerprint)
    plan, found = plan_inputs(config, run.ledger, run.storage, inputs, changes, sizes, reasons)
    retry_unread(run.ledger, plan.units)
    work = pending_work(plan, run.ledger, run.job.fingerprint, reasons)
    if reasons:
        again = ToRetry(reasons, work.retried)
        begin_retry(run.ledger, run.job.fingerprint, again)
        run.reporter.note(again.note())
    counts = {} if sizes is None else sizes.counts
    uncounted = [unit for unit in work.units if unit.id not in counts]
    counts |= count_samples(uncounted, run.storage, _COUNT_BUDGET_S, config.images)
    done = {
        unit.id: work.parts_done.get(unit.id, 0) * (unit.rows_per_part or run.job.rows_per_part) for unit in work.units
    }
    left = {unit.id: max(0, counts[unit.id] - done[unit.id]) for unit in work.units if unit.id in counts}
    left |= {unit_id: sum(map(len, work.retried[unit_id].values())) for unit_id in work.patched}
    return dataclasses.replace(work, samples_left=left), found


def _workload(
    config: LabelConfig, run: JobRun, members: list[ResolvedMember], work: PendingWork, shared: SharedMembers | None
) -> Workload:
    """What the engine runs: labelers, and the units they are called with."""
    job, specs = run.job, [member.spec for member in members]
    settings = job.labeler_settings(run.ledger.out, specs, config.storage)
    settings["batch_size"] = None if config.batch_size == "auto" else config.batch_size
    settings["may_tune"] = job.device == "cpu" and _is_long(work, specs, run.engine)
    if shared is not None and shared.aliases:
        settings |= {"reused": shared.aliases, "reused_from": shared.source, "replayed": shared.whole}
        settings["carried_groups"] = carried_groups(shared.source, job.taxonomy, run.storage)
    num_workers = None if config.workers == "auto" else config.workers
    on_gpu = job.device == "cuda"
    items = work.items()
    factory = LabelerFactory(settings, -(-len(items) // (num_workers or (run.engine.num_gpus() if on_gpu else 1))))
    num_threads = None if config.decode_threads == "auto" else config.decode_threads
    share = run.engine.share(on_gpu=on_gpu, num_workers=num_workers)
    return Workload(
        factory=factory,
        blobs={member.spec.alias: member.blob for member in members},
        items=items,
        items_at_once=factory.units_at_once(
            share.num_cpus if config.decode_threads == "auto" else config.decode_threads
        ),
        on_gpu=on_gpu,
        num_workers=num_workers,
        num_threads=num_threads,
        is_progress=is_progress,
        labels=job_labels(job.fingerprint),
    )


def _is_long(work: PendingWork, members: Sequence[MemberSpec], engine: Engine) -> bool:
    """Whether so much is left to compute on CPUs that it pays to try first which batch size suits each member."""
    left = work.left().values()
    images = sum(max(0, unit.size_bytes) // USUAL_IMAGE_BYTES if count is None else count for unit, count in left)
    costs = [member_cost(member) for member in members]
    macs = sum(cost.macs for cost in costs if cost is not None)
    return is_worth_tuning(macs, images, engine.share(on_gpu=False, num_workers=None).num_cpus)
