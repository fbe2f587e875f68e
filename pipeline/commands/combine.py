"""Combine: the consensus of an output computed again from its stored probabilities, without images or networks.

Other members, weights, rule, calibration or top-k; the same units, parts, quarantine, commits and resume.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.parse import parse_config
from pipeline.config.settings import CombineConfig, StorageConfig, fingerprint
from pipeline.engines.workload import Workload
from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.inputs.plan import Plan
from pipeline.inputs.units import read_units
from pipeline.job.claim import claim
from pipeline.job.description import Job
from pipeline.job.pending import PendingWork, is_progress, pending_work
from pipeline.job.planning import write_plan
from pipeline.job.pooling import choose_pooling
from pipeline.job.progress import Reporter, make_reporter
from pipeline.job.running import JobRun, make_engine
from pipeline.job.summary import LabelSummary
from pipeline.labeler.labeler import UNITS_AT_ONCE
from pipeline.labeler.worker import ReplayWorker
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
    **options: Any,  # noqa: ANN401 - the words of CombineConfig, which checks them
) -> LabelSummary:
    """Compute the consensus of an output again; the same words as ``shardlabel combine``, with underscores.

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
    """Compute a consensus again, or what is left of it.

    Raises:
        RequestError: The request is wrong; nothing was written.
        EngineError: The engine failed for good; what was published stays.
    """
    older, storage = open_ledger(config.source, config.s3_endpoint, no_sign_request=config.no_sign_request)
    ledger = Ledger(config.out, storage)
    if ledger.out == older.out:
        raise OutputError(f"--out {ledger.out}: is the output that is combined; give the new one a place of its own")
    content = older.job()
    source = find_stored_probs(older, content)
    members = choose_members(content, config.model, source)
    job = _describe(config, content, members, source, storage)
    source = dataclasses.replace(source, aliases=tuple(member["alias"] for member in members))
    with (
        contextlib.closing(make_engine(config)) as engine,
        contextlib.closing(reporter or make_reporter(config.progress)) as shown,
    ):
        claim(ledger, job, overwrite=config.overwrite)
        ledger.sweep()
        run = JobRun(config, job, ledger, storage, engine, shown)
        work = _plan(older, source, run)
        summary = run.complete(work, functools.partial(_workload, config, run, source, work))
        shown.finish(summary.to_dict())
    return summary


def choose_members(job: Mapping[str, Any], words: Sequence[str], source: StoredProbs) -> list[dict[str, Any]]:
    """Members of an output, each with the factor that it is to have.

    Args:
        job: Its ``job.json``.
        words: ``ALIAS[*FACTOR]`` each; none for all of them as they are.
        source: What is stored of it.

    Raises:
        RequestError: A word is no member of the output, or comes twice, or its factor is none.
    """
    members = {str(member["alias"]): dict(member) for member in job["results"]["members"]}
    if not words:
        return list(members.values())
    chosen: dict[str, dict[str, Any]] = {}
    for word in words:
        alias, star, text = word.partition("*")
        if alias not in members:
            raise RequestError(f"-m {word}: {source.out} has no member of that name; it has {', '.join(members)}")
        if alias in chosen:
            raise RequestError(f"-m {word}: {alias} is given twice")
        try:
            factor = float(text) if star else 1.0
        except ValueError:
            factor = 0.0
        if not (math.isfinite(factor) and factor > 0):
            raise RequestError(f"-m {word}: the factor after * must be a number above 0, not {text!r}")
        chosen[alias] = members[alias] | {"factor": factor}
    return list(chosen.values())


def _describe(
    config: CombineConfig,
    content: Mapping[str, Any],
    members: Sequence[Mapping[str, Any]],
    source: StoredProbs,
    storage: Storage,
) -> Job:
    """The job: that of the older output, but for how its members are combined, and which."""
    older = content["results"]
    rule = config.combine or older["combine"]
    pooling = choose_pooling(members, rule, config.calibration, storage, explicit=config.combine is not None)
    same = ("labels_sha256", "precision", "decode", "keep", "rows_per_part")
    results = {name: older[name] for name in same}
    results |= {"members": list(members), "top_k": config.top_k or older["top_k"], **pooling.results}
    mark = fingerprint(results)
    files = content.get("weights_files", {})
    described = {
        **{name: value for name, value in content.items() if name != "replaced"},
        "fingerprint": mark,
        "results": results,
        "calibrated": config.calibration is not None,
        "weights_files": {member["alias"]: files.get(member["alias"]) for member in members},
        "combined_from": {"out": source.out, "fingerprint": source.fingerprint},
    }
    return Job(
        content=described,
        fingerprint=mark,
        class_names=tuple(content["class_names"]),
        device="cpu",
        precision=older["precision"],
        compiled=False,
        rows_per_part=older["rows_per_part"],
        rule=pooling.rule,
        factors=pooling.factors,
        temperature=pooling.temperature,
    )


def _plan(older: Ledger, source: StoredProbs, run: JobRun) -> PendingWork:
    """The units of the older output that are not done, and how much there is of each."""
    units = read_units(older, run.storage, source.fingerprint)
    if not units:
        raise RequestError(f"{source.out}: nothing is planned there yet; label first")

    def add(plan: Plan) -> None:
        try:
            plan.copy_units(units)
        except StorageError as error:
            raise OutputError(f"OUT cannot be used: {error}") from error

    plan = write_plan(run.ledger, run.storage, run.job.fingerprint, add)
    work = pending_work(plan, run.ledger, run.job.fingerprint)
    stored = older.progress(source.fingerprint)
    return dataclasses.replace(
        work,
        samples_left={unit.id: unit.num_samples for unit in work.units if unit.num_samples is not None},
        stored={unit.id: stored.get(unit.id, Progress()) for unit in work.units},
    )


def _workload(config: CombineConfig, run: JobRun, source: StoredProbs, work: PendingWork) -> Workload:
    """What the engine runs: replayers, and the units they are called with."""
    job = run.job
    specs = [
        MemberSpec(**member | {"recipe": Recipe.from_dict(member["recipe"]), "weights_file": ""})
        for member in job.content["results"]["members"]
    ]
    storage = StorageConfig(s3_endpoint=config.s3_endpoint, no_sign_request=config.no_sign_request)
    settings = job.labeler_settings(run.ledger.out, specs, storage)
    settings |= {
        "batch_size": None,
        "trying": False,
        "reused": {alias: alias for alias in source.aliases},
        "reused_from": source,
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
