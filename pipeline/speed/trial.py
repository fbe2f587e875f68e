"""Trial: from the words of a request to measured rates. What ``bench`` and ``plan`` have in common.

The labeler that is measured is the one that ``label`` would make of the same words. Whatever it writes
goes to a scratch directory that is gone afterwards.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence

from pipeline.config.settings import EnsembleConfig, LabelConfig
from pipeline.engines.inline import InlineEngine
from pipeline.errors import Interrupted, RequestError
from pipeline.job.description import Job, describe_job, fit_memory
from pipeline.labeler.config import LabelerConfig
from pipeline.machine import num_local_cpus
from pipeline.models.weights import ResolvedMember, resolve
from pipeline.speed.measure import Watch, measure
from pipeline.speed.rates import Rates
from pipeline.speed.sampling import Drawn
from pipeline.storage import Storage

SAMPLE_IMAGES = {"cpu": 256, "cuda": 8192}
SAMPLE_BYTES = {"cpu": 64 << 20, "cuda": 512 << 20}


class Trial:
    """A job that is described, but not run.

    Args:
        config: The words.
        inputs: INPUTs.
        storage: How to reach weights and class names.

    Attributes:
        job: Device, precision, class names, as ``label`` would settle them.
        num_gpus: GPUs of this machine that it would use.
        num_threads: Threads of one worker.

    Raises:
        RequestError: ``label`` would refuse the words.
    """

    def __init__(self, config: EnsembleConfig, inputs: Sequence[str], storage: Storage) -> None:
        engine = InlineEngine()
        requested = config.members
        self._config = LabelConfig(**config.ensemble_words, inputs=tuple(inputs), out="nowhere")
        self._members: list[ResolvedMember] = [resolve(member, config.weights_dir, storage) for member in requested]
        self.job: Job = describe_job(self._config, self._members, engine, storage, None)
        self._batch_size = fit_memory(self._config, self._members, self.job, engine).batch_size
        self.num_gpus = engine.num_gpus() if self.job.device == "cuda" else 0
        threads = config.decode_threads
        self.num_threads = max(1, num_local_cpus() // max(1, self.num_gpus)) if threads == "auto" else threads

    @property
    def sample_limits(self) -> tuple[int, int]:
        """How many samples, and how many bytes, are drawn at most."""
        return SAMPLE_IMAGES[self.job.device], SAMPLE_BYTES[self.job.device]

    def run(self, drawn: Drawn, *, seconds: float, choices: bool, watch: Watch) -> Rates:
        """Measure; see :func:`pipeline.speed.measure.measure`.

        Raises:
            Interrupted: A signal came; nothing is left behind.
        """
        blobs = {member.spec.alias: member.blob for member in self._members}
        with _interruptible(), _scratch_folder() as scratch:
            return measure(
                self._labeler(scratch, trying=choices), blobs, drawn, seconds=seconds, choices=choices, watch=watch
            )

    def _labeler(self, out: str, *, trying: bool) -> LabelerConfig:
        config, job = self._config, self.job
        return LabelerConfig(
            out=out,
            fingerprint=job.fingerprint,
            run="trial",
            members=tuple(member.spec for member in self._members),
            class_names=job.class_names,
            rule=config.combine,
            top_k=config.top_k,
            precision=job.precision,
            compiled=job.compiled,
            device=job.device,
            batch_size=self._batch_size,
            trying=trying,
            decode=config.decode,
            rows_per_part=job.rows_per_part,
            keep=(),
            num_threads=self.num_threads,
            storage=config.storage,
        )


def _scratch_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="shardlabel-")
    except OSError as error:
        raise RequestError(f"no scratch folder to write to; let TMPDIR name one with room: {error}") from error


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that scratch files go. Off the main thread, signals are not ours."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    on_main = threading.current_thread() is threading.main_thread()
    older = signal.signal(signal.SIGTERM, stop) if on_main else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; nothing was kept") from error
    finally:
        if on_main:
            signal.signal(signal.SIGTERM, older)
