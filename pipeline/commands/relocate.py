"""Relocate: inputs lie at another place now, and the output follows them without labelling anything again."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.inputs.moving import Move
from pipeline.inputs.same_content import Compare, compare_in_threads
from pipeline.inputs.units import read_units
from pipeline.job.comparing import EngineCompare
from pipeline.job.engine import make_engine
from pipeline.job.success import write_success
from pipeline.output.ledger import JOB, SUCCESS, Ledger, to_json
from pipeline.output.opening import open_ledger
from pipeline.output.parts import Progress
from pipeline.storage import absolute_uri
from pipeline.text.result import Result

_UNREAD = 4


@dataclass(frozen=True, slots=True)
class _Cluster:
    """An engine's settings."""

    ray_address: str | None
    engine: Literal["auto", "ray", "inline"] = "ray"
    verbose: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Relocation(Result):
    """What a relocation did, counted by object: shards and loose images.

    Attributes:
        out: The output.
        old, new: The two places.
        moved: They are at the new place as they were labelled; the output follows them.
        changed: They are there with other bytes; they stay below the old place.
        missing: They are not there; they stay below the old place.
        labelled_twice: They were labelled at both places, with the same bytes; the rows of the old place are removed.
        problems: What could not be compared, one line each; it stays below the old place.
    """

    out: str
    old: str
    new: str
    moved: int
    changed: int
    missing: int
    labelled_twice: int
    problems: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """4 if something could not be read, otherwise 0."""
        return _UNREAD if self.problems else 0


def relocate(
    out: str | os.PathLike[str],
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    ray_address: str | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
    note: Callable[[str], object] | None = None,
) -> Relocation:
    """Say that inputs below OLD are below NEW now. What has the same bytes there is not labelled again.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        old: Where the inputs were: a folder, a prefix or one shard.
        new: Where they are now.
        ray_address: A running cluster, whose machines compare the inputs if these are more than 16 GiB.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.
        note: Called with lines that say what is being done.

    Raises:
        OutputError: ``out`` is not the output of a job, or cannot be read or written.
        RequestError: None of its inputs is below OLD, or none of them is below NEW as it was labelled.
    """
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    job = ledger.job()
    places = (_place("OLD", old), _place("NEW", new))
    was_finished = ledger.read_json(SUCCESS) is not None
    with contextlib.ExitStack() as stack:
        compare: Compare = compare_in_threads
        if ray_address is not None:
            engine = stack.enter_context(contextlib.closing(make_engine(_Cluster(ray_address))))
            compare = EngineCompare(engine, threading.Event(), None)
        move = Move(ledger, storage, job, places, compare, note or _say_nothing)
        found = move.run()
    _rename_inputs(ledger, move)
    fingerprint = str(job["fingerprint"])
    progress, units = ledger.progress(fingerprint), read_units(ledger, storage, fingerprint)
    if was_finished and all(progress.get(unit.id, Progress()).complete for unit in units):
        try:
            write_success(ledger, fingerprint, units, progress)
        except StorageError as error:
            raise OutputError(f"OUT cannot be used: {error}") from error
    problems = tuple(f"{unit.uri}: {problem}" for unit, problem in found.problems)
    return Relocation(
        out=ledger.out,
        old=places[0],
        new=places[1],
        moved=found.moved,
        changed=found.changed,
        missing=found.missing,
        labelled_twice=found.labelled_twice,
        problems=problems,
    )


def _place(name: str, given: str | os.PathLike[str]) -> str:
    try:
        return absolute_uri(os.fspath(given)).rstrip("/")
    except StorageError as error:
        raise RequestError(f"{name} {error}") from error


def _rename_inputs(ledger: Ledger, move: Move) -> None:
    """Rename the INPUTs in ``job.json``, which reports name and exports keep out of."""
    while True:
        version, job = ledger.version(JOB), ledger.job()
        inputs = [str(word) for word in job.get("inputs", ())]
        renamed = list(dict.fromkeys(move.new_place(word) or word for word in inputs))
        content: dict[str, Any] = {**job, "inputs": renamed}
        if renamed == inputs or ledger.write_if_unchanged(JOB, to_json(content), version):
            return


def _say_nothing(_line: str) -> None:
    pass
