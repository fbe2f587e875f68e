"""Attempts at a unit: how often it was begun and never ended, because its labeler died, and what came of them.

A labeler leaves a mark in OUT before it begins a unit, and takes it away when it is through with it, whatever
the outcome. Only a process that dies leaves its mark behind::

    attempts/UUUUUUUUUUUUUUUU-1.json    begun once, and either at work or dead since
    attempts/UUUUUUUUUUUUUUUU-2.json    begun again

Marks never tell what is done: that is what published parts are for. They only tell how carefully to go about
a unit, so one too many (a machine that was taken away, a second job at work on the same unit) costs time, and
one too few costs another death.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time

from pipeline.errors import ObjectMissing, StorageError
from pipeline.output.counting import count_part
from pipeline.output.ledger import ATTEMPTS, Ledger
from pipeline.output.parts import PartName
from pipeline.records import Cursor, Receipt
from pipeline.storage import Storage

# After so many deaths the images of a unit are decoded in a process of their own.
DEATHS_BEFORE_ISOLATION = 2
# After so many within one run it was something else that killed the labelers, and the unit is given up for this run.
# Machines that come and go hardly ever do so this often on one unit, and a driver that was killed ends its run.
DEATHS_BEFORE_GIVING_UP = 8


class Attempts:
    """The marks of one output. Each beginning costs a HEAD and a PUT on S3, and each end a DELETE.

    Args:
        ledger: Of the output.
        storage: How to reach it.
        run: Name of this run of the job, which no other has.
    """

    def __init__(self, ledger: Ledger, storage: Storage, run: str) -> None:
        self._ledger = ledger
        self._storage = storage
        self._run = run

    def begin(self, unit_id: str) -> int:
        """Leave a mark.

        Returns:
            How many earlier attempts were begun and not ended.

        Raises:
            StorageError: OUT cannot be written.
        """
        about = {"run": self._run, "host": socket.gethostname(), "pid": os.getpid(), "begun_at": round(time.time())}
        mark = json.dumps(about)
        for deaths in itertools.count():
            uri = self._uri(unit_id, deaths)
            # a look first: not every store honours the condition that a name is free
            if not self._storage.exists(uri) and self._storage.publish(uri, mark.encode() + b"\n"):
                return deaths
        raise AssertionError("unreachable")

    def is_hopeless(self, unit_id: str, deaths: int) -> bool:
        """Whether so many labelers have died on a unit that it is given up: those of this run count.

        Args:
            unit_id: The unit.
            deaths: What :meth:`begin` gave.

        Raises:
            StorageError: OUT cannot be read.
        """
        if deaths < DEATHS_BEFORE_GIVING_UP:
            return False
        return sum(self._is_own(self._uri(unit_id, earlier)) for earlier in range(deaths)) >= DEATHS_BEFORE_GIVING_UP

    def _is_own(self, uri: str) -> bool:
        try:
            mark = json.loads(self._storage.read(uri))
        except (ObjectMissing, ValueError, RecursionError):
            return False
        return isinstance(mark, dict) and mark.get("run") == self._run

    def end(self, unit_id: str, deaths: int) -> None:
        """Take the mark away that was left after so many deaths. One that stays for want of an answer does no harm."""
        with contextlib.suppress(StorageError):
            self._storage.delete(self._uri(unit_id, deaths))

    def count_published(self, receipt: Receipt, fingerprint: str, parts_done: int, cursor: Cursor) -> None:
        """Add to a receipt what earlier attempts of the same run have published, so that it covers the whole run.

        Args:
            receipt: Of the unit; whether it is finished counts.
            fingerprint: Of the job.
            parts_done: How many parts were there when the run began.
            cursor: Where to go on.

        Raises:
            StorageError: OUT cannot be read.
        """
        for number in range(parts_done, cursor.part + receipt.finished):
            last = receipt.finished and number == cursor.part
            count_part(self._ledger, PartName(fingerprint, receipt.unit_id, number, last), receipt)

    def _uri(self, unit_id: str, deaths: int) -> str:
        return self._ledger.uri(ATTEMPTS, f"{unit_id}-{deaths + 1}.json")
