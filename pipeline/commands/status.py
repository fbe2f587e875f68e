"""Status: how far an output has come, from its files alone. Works on a running job, from anywhere."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, StorageError
from pipeline.inputs.units import read_units
from pipeline.output.ledger import PREDICTIONS, QUARANTINE, SUCCESS, open_ledger
from pipeline.output.parts import PartName, unit_of
from pipeline.storage import Storage, absolute_uri


@dataclass(frozen=True, slots=True)
class Comparison:
    """A forecast beside what came of it.

    Attributes:
        what: ``units``, ``images``, ``images_per_s`` or ``bytes_per_image`` (of the predictions).
        planned: What ``plan`` said.
        actual: What is there; None while that is not known.
    """

    what: str
    planned: float
    actual: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """How far a job has come.

    Attributes:
        out: The output.
        units_done, units_total: Complete units, and units in the plan.
        labelled: Rows in predictions.
        quarantined: Samples in quarantine, by reason.
        events: Damage to shards that belongs to no single sample, by reason.
        images_per_s: Samples per second between the first and the last commit on disk, pauses included;
            None with fewer than two commits.
        unreadable: URIs of units that could not be read at all.
        finished: ``_SUCCESS`` is there.
        num_bytes: Size of the predictions.
        comparisons: What ``plan`` had said beside what came of it, where its forecast was given.
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
    comparisons: tuple[Comparison, ...] = ()

    @property
    def images(self) -> int:
        """Samples accounted for."""
        return self.labelled + sum(self.quarantined.values())


def status(
    out: str | os.PathLike[str],
    *,
    plan: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
) -> Status:
    """Survey an output.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        plan: What ``shardlabel plan --json`` printed, as a file, to compare with.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
        InputError: The plan is not one.
    """
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request)
    fingerprint = str(ledger.job()["fingerprint"])
    units = {unit.id: unit for unit in read_units(ledger, storage)}
    progress = ledger.progress(fingerprint)
    listing = [(name, entry) for name, entry in ledger.listing(PREDICTIONS) if unit_of(name) in units]
    counts = ledger.count_rows(PREDICTIONS, [name for name, _ in listing])
    committed = set(counts)
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
    times = sorted((entry.modified_s, name) for name, entry in listing)
    rate = None
    if len(times) > 1 and times[-1][0] > times[0][0]:
        rate = sum(counts[name] for _, name in times[1:]) / (times[-1][0] - times[0][0])
    found = Status(
        out=ledger.out,
        units_done=sum(progress[unit_id].complete for unit_id in units if unit_id in progress),
        units_total=len(units),
        labelled=sum(counts.values()),
        quarantined=dict(quarantined),
        events=dict(events),
        images_per_s=rate,
        unreadable=tuple(unreadable),
        finished=ledger.read_json(SUCCESS) is not None,
        num_bytes=sum(entry.size_bytes for _, entry in listing),
    )
    return found if plan is None else dataclasses.replace(found, comparisons=_compared(found, _forecast(plan, storage)))


def _forecast(path: str | os.PathLike[str], storage: Storage) -> dict[str, Any]:
    try:
        content = json.loads(storage.read(absolute_uri(os.fspath(path))))
    except StorageError as error:
        raise InputError(f"--plan {error}") from error
    except ValueError as error:
        raise InputError(f"--plan {path}: not JSON: {error}") from error
    if not isinstance(content, dict) or not {"units", "images", "time"} <= set(content):
        raise InputError(f"--plan {path}: not what `shardlabel plan --json` prints")
    return content


def _compared(found: Status, forecast: dict[str, Any]) -> tuple[Comparison, ...]:
    compared = [
        Comparison("units", forecast["units"], found.units_done),
        Comparison("images", forecast["images"], found.images),
    ]
    if (time := forecast["time"]) is not None:
        planned = time["output_bytes"] / max(1, forecast["images"])
        actual = found.num_bytes / found.labelled if found.labelled else None
        compared.append(Comparison("images_per_s", time["images_per_s"], found.images_per_s))
        compared.append(Comparison("bytes_per_image", planned, actual))
    return tuple(compared)
