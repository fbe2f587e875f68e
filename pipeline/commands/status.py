"""Status: how far a job has come, from the files of its output. It works on a running job, from any machine."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, StorageError
from pipeline.inputs.left_out import total_left_out
from pipeline.inputs.units import read_plan
from pipeline.output.ledger import JOB, PREDICTIONS, QUARANTINE, SUCCESS
from pipeline.output.opening import open_ledger
from pipeline.output.parts import PartName, unit_of
from pipeline.output.runs import known_rate, last_command
from pipeline.records import Counted, Omitted
from pipeline.storage import Storage, absolute_uri
from pipeline.text.result import Result


@dataclass(frozen=True, slots=True)
class Comparison:
    """A planned value and the actual one.

    Attributes:
        what: ``units``, ``images``, ``images_per_s`` or ``bytes_per_image`` (of the predictions).
        planned: The value of ``plan``.
        actual: The value of the output; None while it is unknown.
    """

    what: str
    planned: float
    actual: float | None


@dataclass(frozen=True, slots=True, repr=False)
class Status(Result):
    """How far a job has come.

    Attributes:
        out: The output.
        units_done, units_total: Number of complete units, and of all units in the plan.
        labelled: Number of rows in predictions.
        quarantined: Number of samples in quarantine, by reason.
        events: Number of events (damage to shards that belongs to no single sample), by reason.
        images_per_s: Samples per second of the last run that did something, from its first read to its last commit;
            of a run that has not ended, between its commits. None where it is not known: times of files that were
            copied say nothing.
        unreadable: URIs of units that could not be read at all.
        finished: Whether ``_SUCCESS`` exists.
        num_bytes: Size of the predictions.
        left_out: Files of the inputs that are left out for their names: their number by extension.
        truths_not_understood: Labelled samples whose ``.cls`` names no class.
        truth_examples: What stands in some of these.
        comparisons: Planned and actual values; empty without a plan.
        under_way: Whether the rate is that of a run that has not ended.
        command: The words of the command that ran last, without ``shardlabel``; empty for a call from Python.
        other_images, other_images_example, separate_images, passed_over, passed_over_example, repeated_keys,
            repeated_keys_example: See :class:`pipeline.records.Omitted`, summed over the parts.
    """

    out: str
    units_done: int
    units_total: int
    labelled: int
    quarantined: dict[str, int]
    events: dict[str, int]
    images_per_s: float | None
    unreadable: tuple[str, ...]
    finished: bool
    num_bytes: int = 0
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    truths_not_understood: int = 0
    truth_examples: tuple[str, ...] = ()
    other_images: int = 0
    other_images_example: str = ""
    separate_images: int = 0
    passed_over: int = 0
    passed_over_example: str = ""
    repeated_keys: int = 0
    repeated_keys_example: str = ""
    under_way: bool = False
    command: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Number of samples done: labelled or quarantined."""
        return self.labelled + sum(self.quarantined.values())


def status(
    out: str | os.PathLike[str],
    *,
    plan: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> Status:
    """Find how far a job has come.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        plan: File with the output of ``shardlabel plan --json``, to compare with.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
        InputError: The file is missing, or holds no plan.
    """
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    job_entry, job = ledger.version(JOB), ledger.job()
    fingerprint = str(job["fingerprint"])
    planned, left_out_of = read_plan(ledger, storage)
    units = {unit.id: unit for unit in planned}
    progress = ledger.progress(fingerprint)
    listing = [(name, entry) for name, entry in ledger.listing(PREDICTIONS) if unit_of(name) in units]
    footers = ledger.footers(PREDICTIONS, [name for name, _ in listing])
    counts = {name: footer.num_rows for name, footer in footers.items()}
    truths = Counted()
    for footer in footers.values():
        truths.merge(footer.truths_not_understood)
    committed = set(counts)
    omitted = Omitted()
    for footer in footers.values():
        omitted.add(footer.omitted)
    quarantined: Counter[str] = Counter()
    events: Counter[str] = Counter()
    unreadable = []
    for name in ledger.names(QUARANTINE):
        unit_id = unit_of(name)
        if unit_id not in units:
            continue
        if PartName.parse(name) is None:
            unreadable.append(units[unit_id].uri)
        elif name in committed:
            table = ledger.read_part(QUARANTINE, name, ["key", "reason"])
            for key, reason in zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True):
                (events if key is None else quarantined)[reason] += 1
    rate, under_way = known_rate(job, job_entry, [(entry, counts[name]) for name, entry in listing])
    found = Status(
        out=ledger.out,
        units_done=sum(progress[unit_id].complete for unit_id in units if unit_id in progress),
        units_total=len(units),
        labelled=sum(counts.values()),
        quarantined=dict(quarantined),
        events=dict(events),
        images_per_s=rate,
        under_way=under_way,
        command=last_command(job),
        unreadable=tuple(unreadable),
        finished=ledger.read_json(SUCCESS) is not None,
        num_bytes=sum(entry.size_bytes for _, entry in listing),
        left_out=total_left_out(left_out_of),
        truths_not_understood=truths.count,
        truth_examples=tuple(truths.examples),
        **omitted.to_dict(),
    )
    return found if plan is None else dataclasses.replace(found, comparisons=_compare(found, _read_plan(plan, storage)))


def _read_plan(path: str | os.PathLike[str], storage: Storage) -> dict[str, Any]:
    content: dict[str, Any]
    try:
        content = json.loads(storage.read(absolute_uri(os.fspath(path))))
    except StorageError as error:
        raise InputError(f"--plan {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--plan {path}: not JSON: {error}") from error
    if not _is_plan(content):
        raise InputError(f"--plan {path}: not what `shardlabel plan --json` prints")
    return content


def _is_plan(content: object) -> bool:
    """Whether everything that is compared is there."""
    if not isinstance(content, dict) or "time" not in content:
        return False
    time = content["time"]
    numbers = [content.get("units"), content.get("images")]
    if time is not None:
        if not isinstance(time, dict):
            return False
        numbers += [time.get("output_bytes"), time.get("images_per_s")]
    return all(isinstance(number, int | float) for number in numbers)


def _compare(found: Status, plan: dict[str, Any]) -> tuple[Comparison, ...]:
    compared = [
        Comparison("units", plan["units"], found.units_done),
        Comparison("images", plan["images"], found.images),
    ]
    if (time := plan["time"]) is not None:
        planned = time["output_bytes"] / max(1, plan["images"])
        actual = found.num_bytes / found.labelled if found.labelled else None
        compared.append(Comparison("images_per_s", time["images_per_s"], found.images_per_s))
        compared.append(Comparison("bytes_per_image", planned, actual))
    return tuple(compared)
