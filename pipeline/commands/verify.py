"""Verify: prove from the inputs that the output accounts for every sample exactly once.

The inputs' member lists are read again, and per unit: samples in = predictions + quarantine, each once,
under its own key and index; no part is missing, doubled, damaged or foreign; all damage to the shard
that can be seen is noted. Every discrepancy is named, with what to do about it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Literal, TypeVar

from pipeline.errors import EngineError, RequestError
from pipeline.inputs.units import read_units
from pipeline.machine import num_local_cpus
from pipeline.output.ledger import PREDICTIONS, PROBABILITIES, QUARANTINE, SUCCESS, Ledger, open_ledger
from pipeline.output.parts import PartName, unit_of
from pipeline.output.probabilities import stored_aliases
from pipeline.records import Unit, UnitKind
from pipeline.verifying.messages import RERUN
from pipeline.verifying.reconciler import Reconciler, Reconciliation
from pipeline.verifying.unit_files import UnitFiles

_UNITS_AT_ONCE = 8  # in one process: while one waits for bytes, another is compared
_BATCHES_AHEAD = 2  # for each process
_BYTES_WORTH_A_PROCESS = 4 << 30  # one takes seconds to start

Work = TypeVar("Work")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Verification:
    """What an audit found.

    Attributes:
        out: The output.
        units: Units in its plan.
        samples: Samples in the inputs.
        predictions, quarantined: Rows that account for them.
        discrepancies: One line each; none is what one hopes for.
        deep: Whether the images themselves were read and hashed.
    """

    out: str
    units: int
    samples: int
    predictions: int
    quarantined: int
    discrepancies: tuple[str, ...]
    deep: bool = False

    @property
    def exit_code(self) -> int:
        """0 only if every sample is accounted for exactly once."""
        return 1 if self.discrepancies else 0


def verify(
    out: str | os.PathLike[str],
    *,
    deep: bool = False,
    workers: int | Literal["auto"] = 1,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
) -> Verification:
    """Audit an output against its inputs.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        deep: Read every image again, and compare its hash with the one that was noted.
        workers: Processes. With more than one, a script that calls this needs Python's usual
            ``if __name__ == "__main__"``. ``auto``: as many as there is work for, one for each CPU at most.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
        RequestError: The number of workers is not one.
        EngineError: A worker died.
    """
    if workers != "auto" and not (isinstance(workers, int) and workers > 0):
        raise RequestError(f"--workers: 'auto' or a whole number above 0 is expected, not {workers!r}")
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request)
    job = ledger.job()
    fingerprint = str(job["fingerprint"])
    units = read_units(ledger, storage)
    names = {folder: ledger.names(folder) for folder in (PREDICTIONS, QUARANTINE)}
    kept = stored_aliases(job)
    reconciler = Reconciler(ledger, storage, deep=deep, kept=kept, num_classes=len(job.get("class_names", ())))
    unit_files = _unit_files(units, names, fingerprint)
    num_workers = min(_worth(units, deep=deep), num_local_cpus()) if workers == "auto" else workers
    num_rows: dict[str, int] = {}
    lines = [*_foreign_files(names, units, fingerprint), *_foreign_probabilities(ledger, names[PREDICTIONS], kept)]
    total = Reconciliation()
    for found in _reconcile(unit_files, reconciler, num_workers):
        total.samples += found.samples
        total.predictions += found.predictions
        total.quarantined += found.quarantined
        total.discrepancies += found.discrepancies
        num_rows |= found.num_rows
    lines += _against_success(ledger, names, num_rows)
    return Verification(
        out=ledger.out,
        units=len(units),
        samples=total.samples,
        predictions=total.predictions,
        quarantined=total.quarantined,
        discrepancies=(*lines, *total.discrepancies),
        deep=deep,
    )


# -- units, several at once -------------------------------------------------------------------------------


def _unit_files(units: Sequence[Unit], names: dict[str, list[str]], fingerprint: str) -> Iterator[UnitFiles]:
    parts: dict[str, list[PartName]] = {unit.id: [] for unit in units}
    quarantine: dict[str, set[str]] = {}
    for name in names[PREDICTIONS]:
        parsed = PartName.parse(name)
        if parsed is not None and parsed.fingerprint == fingerprint[:8] and parsed.unit_id in parts:
            parts[parsed.unit_id].append(parsed)
    for name in names[QUARANTINE]:
        quarantine.setdefault(unit_of(name) or "", set()).add(name)
    for unit in units:
        own = sorted(parts[unit.id], key=lambda part: (part.part, part.last))
        yield UnitFiles(unit, tuple(own), frozenset(quarantine.get(unit.id, ())))


def _worth(units: Sequence[Unit], *, deep: bool) -> int:
    """How many processes there is work for; of a slice of loose images only the list is read, unless it is deep."""
    num_bytes = sum(max(0, unit.size_bytes) for unit in units if deep or unit.kind == UnitKind.TAR)
    return max(1, min(num_bytes // _BYTES_WORTH_A_PROCESS, len(units) // _UNITS_AT_ONCE))


def _reconcile(unit_files: Iterable[UnitFiles], reconciler: Reconciler, num_workers: int) -> Iterator[Reconciliation]:
    """Reconcile units here or in processes of their own; what comes back is in order."""
    if num_workers == 1:
        with ThreadPoolExecutor(_UNITS_AT_ONCE) as pool:
            yield from _in_order(pool, reconciler, unit_files, _UNITS_AT_ONCE)
        return
    # a server that has loaded what is needed forks the workers: a fork of this process might inherit a held lock
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Reconciler.__module__, "webdataset.tariterators"])
    iterator = iter(unit_files)
    batches = iter(lambda: list(itertools.islice(iterator, _UNITS_AT_ONCE)), [])
    with ProcessPoolExecutor(num_workers, context) as pool:
        try:
            for found in _in_order(pool, _Batch(reconciler), batches, _BATCHES_AHEAD * num_workers):
                yield from found
        except BrokenProcessPool as error:
            raise EngineError("a worker of verify died, of too little memory as a rule; try fewer --workers") from error


class _Batch:
    """Balances some units at once, in the process that it was sent to."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    def __call__(self, unit_files: list[UnitFiles]) -> list[Reconciliation]:
        """Reconcile them."""
        with ThreadPoolExecutor(_UNITS_AT_ONCE) as pool:
            return list(pool.map(self._reconciler, unit_files))


def _in_order(
    pool: Executor, function: Callable[[Work], Found], items: Iterable[Work], num_ahead: int
) -> Iterator[Found]:
    """Call a function in a pool, a few items ahead, and yield what comes back in their order."""
    ahead: deque[Future[Found]] = deque()
    for item in items:
        ahead.append(pool.submit(function, item))
        if len(ahead) > num_ahead:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


# -- files that should not be there, or should -----------------------------------------------------------


def _foreign_files(names: dict[str, list[str]], units: list[Unit], fingerprint: str) -> Iterator[str]:
    planned = {unit.id for unit in units}
    committed = set(names[PREDICTIONS])
    for folder, present in names.items():
        for name in present:
            unit_id = unit_of(name)
            if unit_id is None or not name.startswith(f"part-{fingerprint[:8]}-") or unit_id not in planned:
                yield f"{folder}/{name}: a foreign file, not of this job; move it away, or it is read with the others"
            elif folder == QUARANTINE and PartName.parse(name) is not None and name not in committed:
                yield f"{folder}/{name}: quarantine without the predictions part that commits it; {RERUN}"


def _foreign_probabilities(ledger: Ledger, committed: Sequence[str], kept: Sequence[str]) -> Iterator[str]:
    """Stored probabilities that are no part's. Those that are missing are named with their part."""
    present = set(committed)
    for path in ledger.names(PROBABILITIES):
        alias, _, name = path.partition("/")
        if alias not in kept or PartName.parse(name) is None:
            yield f"{PROBABILITIES}/{path}: a foreign file, not of this job; move it away"
        elif name not in present:
            yield f"{PROBABILITIES}/{path}: probabilities without the predictions part that commits them; {RERUN}"


def _against_success(ledger: Ledger, names: dict[str, list[str]], num_rows: dict[str, int]) -> Iterator[str]:
    """Differences to ``_SUCCESS``, where the job was finished."""
    success = ledger.read_json(SUCCESS)
    if success is None:
        return
    for folder in (PREDICTIONS, QUARANTINE):
        listed: dict[str, int] = success.get(folder, {})
        present = set(names[folder])
        mend = RERUN if folder == PREDICTIONS else f"delete the part of this name in {PREDICTIONS} too, and {RERUN}"
        for name in sorted(listed.keys() - present):
            yield f"{folder}/{name}: listed in {SUCCESS}, but missing; {mend}"
        for name in sorted(present - listed.keys()):
            if unit_of(name) is not None:
                yield f"{folder}/{name}: not listed in {SUCCESS}; if nothing else is wrong with it, {RERUN}"
        for name in sorted(listed.keys() & present):
            found = num_rows.get(f"{folder}/{name}")  # none where the unit's balance says that it is damaged
            if found is not None and found != listed[name]:
                yield f"{folder}/{name}: {found} rows, but {SUCCESS} lists {listed[name]}; delete it and {mend}"
