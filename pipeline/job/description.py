"""What is asked for, in full: the job that ``job.json`` describes, and whether an OUT is its own."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.settings import LabelConfig, fingerprint
from pipeline.engines.workload import Engine
from pipeline.errors import InputError, OutputError, RequestError, StorageError
from pipeline.labels import names_for, parse_names
from pipeline.machine import has_bfloat16
from pipeline.models.consensus import Rule
from pipeline.models.memory import Fit, Place, fit
from pipeline.models.weights import MemberSpec, ResolvedMember, check_one_label_space
from pipeline.output.ledger import JOB, PREDICTIONS, Ledger, to_json
from pipeline.storage import Storage, absolute_uri
from pipeline.trust.calibration import read_calibration

DEFAULT_ROWS_PER_PART = 10_000
_MAX_CLAIMS = 20


@dataclass(frozen=True, slots=True)
class Job:
    """The job in full: what ``job.json`` holds, and what the labelers need."""

    content: dict[str, Any]
    fingerprint: str
    class_names: tuple[str, ...]
    device: str
    precision: Any
    compiled: bool
    rows_per_part: int
    rule: Rule
    factors: tuple[float, ...]
    temperature: float = 1.0

    def weighted(self, specs: Sequence[MemberSpec]) -> tuple[MemberSpec, ...]:
        """Members with the factors that they are pooled with."""
        return tuple(dataclasses.replace(spec, factor=own) for spec, own in zip(specs, self.factors, strict=True))


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
        config: What is asked for.
        members: Resolved.
        engine: That will run it.
        storage: Reads files that are named.
        earlier: The ``job.json`` that OUT holds already.
        reused: That of the output whose probabilities are to be used again.

    Raises:
        RequestError: Members, class names, the calibration or the device do not fit.
    """
    specs = [member.spec for member in members]
    num_classes = check_one_label_space(specs)
    class_names = names_for(num_classes, _given_names(config.labels, storage))
    kept = dict(reused["results"]) if reused is not None else {}
    kept |= {} if earlier is None or config.overwrite else earlier.get("results", {})
    device = _device(config, engine)
    precision = config.precision if config.precision != "auto" else kept.get("precision") or _auto_precision(device)
    rows_per_part = config.rows_per_part or kept.get("rows_per_part") or DEFAULT_ROWS_PER_PART
    results: dict[str, Any] = {
        "members": [_without_file(dataclasses.asdict(spec)) for spec in specs],
        "labels_sha256": hashlib.sha256("\n".join(class_names).encode()).hexdigest(),
        "top_k": config.top_k,
        "precision": precision,
        "decode": config.decode,
        "keep": list(config.keep),
        "rows_per_part": rows_per_part,
    }
    if config.keep_probs:
        results["keep_probs"] = True
    pooling = choose_pooling(
        results["members"],
        config.combine,
        config.calibration,
        storage,
        explicit="combine" in config.model_fields_set,
    )
    results |= pooling.results
    mark = fingerprint(results)
    content = {
        "shardlabel": _version("shardlabel"),
        "fingerprint": mark,
        "results": results,
        "calibrated": config.calibration is not None,  # if not, scores are no probabilities of being right
        "class_names": list(class_names),
        "weights_files": {spec.alias: spec.weights_file for spec in specs},
        "inputs": _merged([], config.inputs),
        "device": device,
        "versions": {
            name: _version(name) for name in ("torch", "torchvision", "torchcodec", "pillow", "pyarrow", "ray")
        },
    }
    compiled = bool(config.compile)
    settled = (pooling.rule, pooling.factors, pooling.temperature)
    return Job(content, mark, class_names, device, precision, compiled, rows_per_part, *settled)


@dataclass(frozen=True, slots=True)
class Pooling:
    """How members are combined.

    Attributes:
        rule: See :func:`pipeline.models.consensus.combine`.
        factors: Of each member.
        temperature: Of the pool.
        results: What the fingerprint sees of it.
    """

    rule: Rule
    factors: tuple[float, ...]
    temperature: float
    results: dict[str, Any]


def choose_pooling(
    members: Sequence[Mapping[str, Any]], rule: Rule, calibration: str | None, storage: Storage, *, explicit: bool
) -> Pooling:
    """How members are to be combined: as asked for, or as a calibration says.

    Args:
        members: As ``job.json`` has them.
        rule: Asked for.
        calibration: File of a calibration, if there is one.
        storage: Reads it.
        explicit: Whether somebody asked for the rule in words; if not, a calibration may bring its own.

    Raises:
        RequestError: The calibration is missing, or was fitted on something else.
    """
    factors = tuple(float(member["factor"]) for member in members)
    if calibration is None:
        return Pooling(rule, factors, 1.0, {"combine": rule})
    found, digest = read_calibration(calibration, storage)
    about: dict[str, Any] = {"temperature": found.temperature, "sha256": digest}
    if found.method == "stack":
        if explicit and rule != found.rule:
            raise RequestError(
                f"--calibration {calibration}: a log-stack brings its own rule, a geometric pool with fitted weights, "
                f"and --combine {rule} asks for another; leave one of the two out"
            )
        rule, factors = found.rule, found.weights_of(members, calibration)
        about |= {"method": "stack", "weights": list(factors)}
    else:
        found.check(members, rule, calibration)
    return Pooling(rule, factors, found.temperature, {"combine": rule, "calibration": about})


def _without_file(member: dict[str, Any]) -> dict[str, Any]:
    """A member as the fingerprint sees it: its tensors count, not the name of the file they came from."""
    return {name: value for name, value in member.items() if name != "weights_file"}


def _given_names(path: str | None, storage: Storage) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        return parse_names(storage.read(absolute_uri(path)).decode("utf-8-sig"), path)
    except StorageError as error:
        raise InputError(f"--labels {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--labels {path}: not UTF-8 text") from error


def _device(config: LabelConfig, engine: Engine) -> str:
    num_gpus = 0 if config.device == "cpu" else engine.num_gpus()
    if config.device == "cuda" and not num_gpus:
        raise InputError("--device cuda: no GPU was found; leave the option out to label on the CPU")
    device = "cuda" if num_gpus else "cpu"
    if config.decode == "gpu" and device == "cpu":
        raise InputError("--decode gpu: there is no GPU to decode on; leave the option out, or take --decode fast")
    return device


def _auto_precision(device: str) -> str:
    """``mixed`` keeps fp32's labels at a higher rate wherever low precision is computed in hardware."""
    return "mixed" if device == "cuda" or has_bfloat16() else "fp32"


def fit_memory(config: LabelConfig, members: list[ResolvedMember], job: Job, engine: Engine) -> Fit:
    """Find the batch size with which the members fit a worker's memory, where that is known.

    Raises:
        RequestError: They do not fit at all, or there is no worker for them.
    """
    asked = None if config.batch_size == "auto" else config.batch_size
    on_gpu = job.device == "cuda"
    share = engine.share(on_gpu=on_gpu, num_workers=None if config.workers == "auto" else config.workers)
    if share.memory_bytes is None:
        return Fit(asked)
    num_threads = share.num_cpus if config.decode_threads == "auto" else config.decode_threads
    place = Place(job.device, share.memory_bytes, num_threads, share.own_process)
    return fit(members, job.precision, place, asked)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _merged(older: Sequence[str], newer: Sequence[str]) -> list[str]:
    words = [word if word.startswith(("@", "s3://")) else os.path.abspath(os.path.expanduser(word)) for word in newer]
    return list(dict.fromkeys([*older, *words]))


def claim(ledger: Ledger, job: Job, *, overwrite: bool) -> None:
    """Make sure that OUT is this job's, or make it so. Of several jobs that want it at once, one gets it.

    A job that takes over writes its ``job.json`` first: labelers of the older job look at it before they
    publish, and stop. What they had published is removed then, and again at the end.

    Raises:
        OutputError: It belongs to another job, or cannot be written.
    """
    for _ in range(_MAX_CLAIMS):
        version, owner = ledger.version(JOB), ledger.owner()
        content = _claim(ledger, job, owner, overwrite=overwrite)
        if not ledger.write_over(JOB, to_json(content), version):
            continue  # somebody else wrote it meanwhile
        if owner is not None and owner.get("fingerprint") != job.fingerprint:
            ledger.clear()
        else:
            ledger.remove_jobs(replaced_jobs(content))
        return
    raise OutputError(f"{ledger.out}: other jobs keep changing its {JOB}; choose another --out")


def _claim(ledger: Ledger, job: Job, owner: Mapping[str, Any] | None, *, overwrite: bool) -> dict[str, Any]:
    """What ``job.json`` is to hold, after what it holds now."""
    if owner is None:
        if ledger.names(PREDICTIONS) and ledger.version(JOB) is None:
            raise OutputError(f"{ledger.out}: holds predictions of something else (no {JOB}); choose another --out")
        return job.content
    replaced = replaced_jobs(owner)
    if owner.get("fingerprint") == job.fingerprint:
        content = {**job.content, "inputs": _merged(owner.get("inputs", []), job.content["inputs"])}
    elif overwrite:
        content = job.content
        replaced = [mark for mark in (*replaced, str(owner.get("fingerprint"))) if mark != job.fingerprint]
    else:
        differing = _differences(owner.get("results", {}), job.content["results"])
        raise OutputError(
            f"{ledger.out} was made by a different job; it differs in {', '.join(differing)}. "
            "Choose another --out, or pass --overwrite to replace it"
        )
    return {**content, "replaced": replaced} if replaced else content


def replaced_jobs(content: Mapping[str, Any]) -> list[str]:
    """Fingerprints of the jobs that an output was taken from, as its ``job.json`` tells."""
    return [str(mark) for mark in content.get("replaced", ())]


def _differences(older: Mapping[str, Any], newer: Mapping[str, Any]) -> list[str]:
    found = []
    newer = json.loads(json.dumps(newer))  # as they are on disk, where tuples are lists
    for name in dict.fromkeys([*newer, *older]):
        if older.get(name) == newer.get(name):
            continue
        if name == "members":
            found.append(f"members ({_aliases(older.get(name, []))} then, {_aliases(newer[name])} now)")
        elif name == "calibration":
            found.append(f"calibration ({_temperature(older)} then, {_temperature(newer)} now)")
        elif isinstance(newer.get(name), str | int) and name in older and not name.endswith("sha256"):
            found.append(f"{name} ({older.get(name)} then, {newer[name]} now)")
        else:
            found.append(name)
    return found


def _temperature(results: Mapping[str, Any]) -> str:
    fitted = results.get("calibration")
    if not fitted:
        return "none"
    stacked = "log-stack, " if fitted.get("method") == "stack" else ""
    return f"{stacked}temperature {fitted['temperature']:g} from {fitted['sha256'][:8]}"


def _aliases(members: list[dict[str, Any]]) -> str:
    return ", ".join(f"{member['alias']}@{member['weights_sha256'][:8]}" for member in members)
