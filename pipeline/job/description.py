"""The description of a job: what ``job.json`` holds, with every ``auto`` resolved."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.option_types import DEFAULT_ROWS_PER_PART
from pipeline.config.settings import LabelConfig, StorageConfig, fingerprint
from pipeline.engines.workload import Engine
from pipeline.errors import InputError
from pipeline.job.class_names import choose_names, given_names
from pipeline.job.other_classes import find_other_classes, members_of_job_classes, note_other_classes
from pipeline.job.own_classes import read_own_classes
from pipeline.job.pooling import choose_pooling
from pipeline.models.consensus import Rule
from pipeline.models.memory import FittedBatch, WorkerMemory, fit_batch_size
from pipeline.models.number_formats import Precision, first_format, is_in_hardware
from pipeline.models.weights import MemberSpec, ResolvedMember
from pipeline.stages.limits import GPU_THREAD_BYTES
from pipeline.storage import Storage
from pipeline.taxonomy.member_columns import OWN_CLASSES, own_classes_sha256
from pipeline.taxonomy.stored import classes_in_job, classes_in_results
from pipeline.taxonomy.tree import Taxonomy
from pipeline.text import fmt

PART_SIZES = "part_sizes"  # in job.json: ``auto`` where each unit has a size of its own in the plan
FIELD_COLUMN = "field_column"  # in job.json: whether the predictions have the column ``field``


@dataclass(frozen=True, slots=True)
class Job:
    """The job in full: what ``job.json`` holds, and what the labelers need."""

    content: dict[str, Any]
    fingerprint: str
    class_names: tuple[str, ...]
    device: str
    precision: Any
    compiled: bool
    rows_per_part: int  # most samples in a part; units may have a lower number of their own
    rule: Rule
    factors: tuple[float, ...]
    temperature: float = 1.0
    notes: tuple[str, ...] = ()  # on what was chosen
    taxonomy: Taxonomy | None = None  # of --classes
    own_classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of members with others, by alias
    run: str = field(default_factory=lambda: uuid.uuid4().hex)  # name of this run of it

    def weighted(self, specs: Sequence[MemberSpec]) -> tuple[MemberSpec, ...]:
        """Members with the factors that they are pooled with, and the classes that they have instead of the job's."""
        return tuple(
            dataclasses.replace(spec, factor=factor, own_classes=self.own_classes.get(spec.alias, ()))
            for spec, factor in zip(specs, self.factors, strict=True)
        )

    def labeler_settings(self, out: str, specs: Sequence[MemberSpec], storage: StorageConfig) -> dict[str, Any]:
        """What a :class:`pipeline.labeler.config.LabelerConfig` takes from the job, for one run of it.

        Args:
            out: Where to publish.
            specs: The members.
            storage: How to reach S3.
        """
        results = self.content["results"]
        return {
            "out": out,
            "fingerprint": self.fingerprint,
            "run": self.run,
            "members": self.weighted(specs),
            "class_names": self.class_names,
            "rule": self.rule,
            "top_k": results["top_k"],
            "temperature": self.temperature,
            "keep_probs": results.get("keep_probs", False),
            "precision": self.precision,
            "compiled": self.compiled,
            "device": self.device,
            "decode": results["decode"],
            "rows_per_part": self.rows_per_part,
            "keep": tuple(results["keep"]),
            "images": results.get("images", "auto"),
            "with_field": self.content.get(FIELD_COLUMN, False),
            "storage": storage,
            "taxonomy": self.taxonomy,
        }


def describe_job(
    config: LabelConfig,
    members: list[ResolvedMember],
    engine: Engine,
    storage: Storage,
    earlier: Mapping[str, Any] | None,
    reused: Mapping[str, Any] | None = None,
) -> Job:
    """Settle everything that is still open (device, precision, class names) and fingerprint it.

    Args:
        config: The options.
        members: Resolved.
        engine: That will run it.
        storage: Reads files that are named.
        earlier: The ``job.json`` that OUT holds already.
        reused: The ``job.json`` of the output whose probabilities are reused.

    Raises:
        RequestError: Members, class names, own classes, the calibration or the device do not fit.
    """
    usual = members_of_job_classes(config, members, storage)
    class_names, note = choose_names(usual[0].spec.num_classes, given_names(config.labels, storage), usual)
    taxonomy = read_own_classes(config.classes, storage, class_names, config.keep)
    taxonomy, specs = find_other_classes(taxonomy, members)
    kept = dict(reused["results"]) if reused is not None else {}
    kept |= {} if earlier is None or config.overwrite else earlier.get("results", {})
    device = _device(config, engine)
    precision = config.precision if config.precision != "auto" else kept.get("precision") or _auto_precision(device)
    rows_per_part = kept.get("rows_per_part") or DEFAULT_ROWS_PER_PART
    if isinstance(config.rows_per_part, int):
        rows_per_part = config.rows_per_part
    results: dict[str, Any] = {
        "members": [describe_member(spec) for spec in specs],
        "labels_sha256": hashlib.sha256("\n".join(class_names).encode()).hexdigest(),
        "top_k": config.top_k,
        "precision": precision,
        "decode": config.decode,
        "keep": list(config.keep),
        "rows_per_part": rows_per_part,
    }
    if config.keep_probs:
        results["keep_probs"] = True
    if config.images != "auto":  # what is usual is left out, so that older outputs keep their fingerprint
        results["images"] = config.images
    results |= classes_in_results(taxonomy)
    pooling = choose_pooling(
        results["members"],
        config.combine,
        config.calibration,
        storage,
        explicit="combine" in config.model_fields_set,
    )
    results |= pooling.results
    job_fingerprint = fingerprint(results)
    content = {
        "shardlabel": _version("shardlabel"),
        "fingerprint": job_fingerprint,
        "results": results,
        "calibrated": config.calibration is not None,  # if not, scores are no probabilities of being right
        **pooling.about,
        "class_names": list(class_names),
        **classes_in_job(taxonomy),
        "weights_files": {spec.alias: spec.weights_file for spec in specs},
        "origins": {member.spec.alias: member.origin.to_dict() for member in members},
        "inputs": merge_inputs([], config.inputs),
        "device": device,
        PART_SIZES: _part_sizes(config, job_fingerprint, earlier, reused),
        FIELD_COLUMN: _has_field_column(earlier, job_fingerprint),
        "versions": {
            name: _version(name) for name in ("torch", "torchvision", "torchcodec", "pillow", "pyarrow", "ray")
        },
    }
    compiled = bool(config.compile)
    combined = (pooling.rule, pooling.factors, pooling.temperature)
    notes = (*(f"{m.spec.alias}: {text}" for m in members for text in m.origin.notes), *([note] if note else []))
    notes += (*note_other_classes(specs), *_note_on_precision(precision, device))
    own_classes = {spec.alias: spec.own_classes for spec in specs if spec.own_classes}
    chosen = (class_names, device, precision, compiled, rows_per_part)
    return Job(content, job_fingerprint, *chosen, *combined, notes, taxonomy, own_classes)


def _part_sizes(
    config: LabelConfig, own_fingerprint: str, earlier: Mapping[str, Any] | None, reused: Mapping[str, Any] | None
) -> str:
    """Whether new units get parts of a size of their own: as the output was begun, or the one that it reuses."""
    for older in (earlier if earlier and earlier.get("fingerprint") == own_fingerprint else None, reused):
        if older is not None:
            return str(older.get(PART_SIZES, "fixed"))  # an output that an older version began goes on as it was
    return "auto" if config.rows_per_part in {None, "auto"} else "fixed"


def _has_field_column(earlier: Mapping[str, Any] | None, own_fingerprint: str) -> bool:
    """Whether the predictions have the column ``field``: all parts of an output have the same columns."""
    if earlier is None or earlier.get("fingerprint") != own_fingerprint:
        return True
    return bool(earlier.get(FIELD_COLUMN, False))


def describe_member(spec: MemberSpec) -> dict[str, Any]:
    """A member as the fingerprint sees it: its tensors count, not the name of the file they came from.

    What is usual is left out, so that older outputs keep their fingerprint.
    """
    member = dataclasses.asdict(spec)
    unusual = {name: value for name, value in member["network"].items() if value is not None}
    apart = {"weights_file", "network", "tensors", "own_classes"}
    kept = {name: value for name, value in member.items() if name not in apart}
    kept |= {"tensors": member["tensors"]} if member["tensors"] else {}
    kept |= {OWN_CLASSES: own_classes_sha256(spec.own_classes)} if spec.own_classes else {}
    return kept | ({"network": unusual} if unusual else {})


def _device(config: LabelConfig, engine: Engine) -> str:
    num_gpus = 0 if config.device == "cpu" else engine.num_gpus()
    if config.device == "cuda" and not num_gpus:
        raise InputError("--device cuda: no GPU was found; leave the option out to label on the CPU")
    device = "cuda" if num_gpus else "cpu"
    if config.decode == "gpu" and device == "cpu":
        raise InputError("--decode gpu: there is no GPU to decode on; leave the option out, or take --decode fast")
    return device


def _auto_precision(device: str) -> Precision:
    """``mixed`` keeps fp32's labels at a higher rate wherever low precision is computed in hardware."""
    return "mixed" if is_in_hardware("mixed", device) else "fp32"


def _note_on_precision(precision: Precision, device: str) -> list[str]:
    """A line on a precision that this machine does not compute in hardware; of others nothing is known here."""
    if is_in_hardware(precision, device):
        return []
    number_format = str(first_format(precision, device)).removeprefix("torch.")
    result = "networks run in fp32 here" if precision == "mixed" else "it is slow here; fp32 is faster, and exact"
    return [f"--precision {precision}: this machine's CPU does not compute in {number_format}, so {result}"]


def fit_memory(config: LabelConfig, members: list[ResolvedMember], job: Job, engine: Engine) -> FittedBatch:
    """Find the batch size with which the members fit a worker's memory, where that is known.

    Raises:
        RequestError: They do not fit at all, or there is no worker for them.
    """
    requested = None if config.batch_size == "auto" else config.batch_size
    on_gpu = job.device == "cuda"
    share = engine.share(on_gpu=on_gpu, num_workers=None if config.workers == "auto" else config.workers)
    if share.memory_bytes is None:
        return FittedBatch(requested)
    num_threads = share.num_cpus if config.decode_threads == "auto" else config.decode_threads
    decoding = num_threads * GPU_THREAD_BYTES if config.decode == "gpu" else 0
    place = WorkerMemory(job.device, share.memory_bytes, num_threads, share.own_process, decoding)
    return fit_batch_size(members, job.precision, place, requested)


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def merge_inputs(older: Sequence[str], newer: Sequence[str]) -> list[str]:
    """INPUT arguments of earlier runs and of this one, each once; paths are made absolute."""
    words = [word if word.startswith(("@", "s3://")) else os.path.abspath(os.path.expanduser(word)) for word in newer]
    return list(dict.fromkeys([*older, *words]))


def note_added_inputs(earlier: Mapping[str, Any] | None, job: Job) -> list[str]:
    """A line if a job goes on in an output of other INPUTs, which stay in it.

    Args:
        earlier: What its ``job.json`` held before; None if it is new.
        job: The job.
    """
    if earlier is None or earlier.get("fingerprint") != job.fingerprint:
        return []
    older = [str(word) for word in earlier.get("inputs", ())]
    added = [word for word in job.content["inputs"] if word not in older]
    if not older or not added:
        return []
    return [f"OUT holds labels of {fmt.few(older)}; added to them: {fmt.few(added)}"]
