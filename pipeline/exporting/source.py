"""The output of a job as the source of an export: its units and their parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import OutputError, StorageError
from pipeline.exporting.rows import LabelNames
from pipeline.inputs.units import read_units
from pipeline.labels import distinct_names
from pipeline.output.ledger import SUCCESS, Ledger
from pipeline.output.parts import PartName, Progress
from pipeline.records import Unit, UnitKind
from pipeline.storage import Storage, absolute_uri
from pipeline.text import fmt


@dataclass(frozen=True, slots=True)
class Source:
    """The output to export.

    Attributes:
        ledger: Of the output.
        job: Its ``job.json``.
        units: Units that have parts, in order of their URIs.
        num_parts: Number of parts of each of them.
        complete: Whether everything planned is labelled.
        own_labels: What labels stand for where they are not the K classes.
    """

    ledger: Ledger
    job: dict[str, Any]
    units: tuple[Unit, ...]
    num_parts: tuple[Progress, ...]
    complete: bool
    own_labels: LabelNames | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the job."""
        return str(self.job["fingerprint"])

    @property
    def aliases(self) -> tuple[str, ...]:
        """Aliases of the members, in order."""
        return tuple(member["alias"] for member in self.job["results"]["members"])

    @property
    def labels(self) -> LabelNames:
        """What labels stand for; the index is added to names that several of them share."""
        return self.own_labels or LabelNames(distinct_names(self.job["class_names"]))

    def parts(self) -> Iterator[tuple[Unit, PartName]]:
        """All parts of predictions, unit by unit, in order."""
        for unit, progress in zip(self.units, self.num_parts, strict=True):
            for number in range(progress.num_parts):
                last = progress.complete and number == progress.num_parts - 1
                yield unit, PartName(self.fingerprint, unit.id, number, last)

    def digest(self) -> str:
        """Hash of the names of all parts, which stand for their contents, and of how much slices hold.

        A slice that lets go of images keeps the names of its parts.
        """
        found = hashlib.sha256()
        for unit, name in self.parts():
            held = f" {unit.num_samples}" if unit.kind == UnitKind.SLICE else ""
            found.update(f"{name}{held}\n".encode())
        return found.hexdigest()

    def input_locations(self) -> set[str]:
        """Directories and prefixes that the job read its images from, without a slash at the end."""
        inputs = [str(uri) for uri in self.job.get("inputs", ())]
        given = {absolute_uri(uri).rstrip("/") for uri in inputs if not uri.startswith("@")}
        folders = {uri for uri in given if any(unit.uri.startswith(uri + "/") for unit in self.units)}
        return folders | {unit.uri.rstrip("/") for unit in self.units if unit.uri.endswith("/")}


def open_source(out: str, storage: Storage, *, partial: bool) -> Source:
    """Open an output as the source of an export.

    Args:
        out: Directory or prefix.
        storage: How to reach it.
        partial: Whether it may be unfinished.

    Raises:
        OutputError: It is no output, is not finished, or has no labelled image.
    """
    ledger = Ledger(out, storage)
    job = ledger.job()
    progress = ledger.progress(str(job["fingerprint"]))
    units = sorted(read_units(ledger, storage, str(job["fingerprint"])), key=lambda unit: (unit.uri, unit.id))
    whole = sum(progress.get(unit.id, Progress()).complete for unit in units)
    complete = whole == len(units) and ledger.read_json(SUCCESS) is not None
    if not complete and not partial:
        raise OutputError(
            f"{ledger.out} is not finished: {whole} of {fmt.plural(len(units), 'unit is', 'units are')} labelled. "
            "Run its label command again, "
            "or pass --partial to export what is there"
        )
    held = [unit for unit in units if progress.get(unit.id, Progress()).num_parts]
    if not held:
        raise OutputError(f"{ledger.out}: nothing is labelled in it")
    return Source(ledger, job, tuple(held), tuple(progress[unit.id] for unit in held), complete)


def check_destination(source: Source, to: str) -> str:
    """The absolute URI of the destination of an export.

    Raises:
        OutputError: It is no valid URI, or lies in OUT or in the inputs.
    """
    try:
        place = absolute_uri(to).rstrip("/") or "/"
    except StorageError as error:
        raise OutputError(f"--to {error}") from error
    out = source.ledger.out
    if place == out:
        raise OutputError(f"--to {place} is OUT itself; choose another place")
    for folder in ("predictions", "quarantine", "plan", "attempts", "probabilities"):
        if f"{place}/".startswith(f"{out}/{folder}/"):
            raise OutputError(f"--to {place} is in OUT's own {folder}; choose another place")
    for folder in sorted(source.input_locations()):
        if f"{place}/".startswith(f"{folder}/"):
            raise OutputError(f"--to {place} is in {folder}, which images are read from; choose another place")
    return place
