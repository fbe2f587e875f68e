"""Publishing: parts are uploaded by threads of their own while the next samples are computed."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.labeler.chunks import PartEnd
from pipeline.output.ledger import translate_out_errors
from pipeline.records import Receipt, Unit
from pipeline.stages.write import Part, Writer


@dataclass(frozen=True, slots=True)
class _Committed:
    """A part that is published."""

    name: str
    num_rows: list[int]
    num_samples: int
    at: float
    seconds: float


class Uploads:
    """The threads that publish, and what they are at.

    Args:
        writer: Publishes.
        num_threads: Units that are labelled at once.
    """

    def __init__(self, writer: Writer, num_threads: int) -> None:
        self._writer = writer
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="upload")
        self._in_flight: set[Future[_Committed]] = set()

    @property
    def depth(self) -> int:
        """Parts that are being published."""
        return len(self._in_flight)

    def submit(self, unit: Unit, part: Part, end: PartEnd) -> Future[_Committed]:
        """Begin to publish a part."""
        upload = self._pool.submit(self._publish, unit, part, end)
        self._in_flight.add(upload)
        upload.add_done_callback(self._in_flight.discard)
        return upload

    def _publish(self, unit: Unit, part: Part, end: PartEnd) -> _Committed:
        begun = time.perf_counter()
        with translate_out_errors():
            name = self._writer.publish(unit, part, end.following, last=end.last)
        seconds = time.perf_counter() - begun
        num_rows = [len(part.pictures), len(part.rejected)]
        return _Committed(str(name), num_rows, part.num_samples, time.time(), seconds)

    def close(self) -> None:
        """Wait for the threads to end."""
        self._pool.shutdown()


class PartPublisher:
    """Publishes the parts of one unit strictly one after another, each while the next is computed.

    Args:
        unit: The unit.
        receipt: Where published parts are noted.
        uploads: The threads that publish.
    """

    def __init__(self, unit: Unit, receipt: Receipt, uploads: Uploads) -> None:
        self._unit = unit
        self._receipt = receipt
        self._uploads = uploads
        self._upload: Future[_Committed] | None = None

    def publish(self, part: Part, end: PartEnd) -> bool:
        """Begin to publish a part, when the one before it is published; whether there was one.

        Raises:
            PublishError: The one before it could not be published.
        """
        had_one = self.wait()
        self._upload = self._uploads.submit(self._unit, part, end)
        return had_one

    def wait(self) -> bool:
        """Wait until all parts are published; whether there was one to wait for.

        Raises:
            PublishError: OUT cannot be written.
        """
        upload, self._upload = self._upload, None
        if upload is None:
            return False
        begun = time.perf_counter()
        done = upload.result()
        receipt = self._receipt
        receipt.parts[done.name] = done.num_rows
        receipt.num_published += done.num_samples
        receipt.committed_at = done.at
        receipt.stage_s["write"] = receipt.stage_s.get("write", 0.0) + done.seconds
        receipt.wait_s["publish"] = receipt.wait_s.get("publish", 0.0) + time.perf_counter() - begun
        return True
