"""A job that is measured instead of run, for ``bench`` and ``plan``.

The measured labeler is the one that ``label`` would make with the same options. It writes to a scratch directory that
is removed afterwards.
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
from pipeline.job.other_classes import check_member_columns
from pipeline.job.own_classes import check_own_classes
from pipeline.labeler.config import LabelerConfig
from pipeline.machine import num_local_cpus
from pipeline.models.weights import ResolvedMember, resolve
from pipeline.speed.input_sample import InputSample
from pipeline.speed.measure import StepCallback, measure
from pipeline.speed.rates import Rates
from pipeline.storage import Storage

SAMPLE_IMAGES = {"cpu": 256, "cuda": 8192}
SAMPLE_BYTES = {"cpu": 64 << 20, "cuda": 512 << 20}


class MeasuredJob:
    """A job that is described and measured, but not run.

    Args:
        config: The options.
        inputs: INPUTs.
        storage: How to reach weights and class names.

    Attributes:
        job: Its description: device, precision, class names, as ``label`` would choose them.
        num_gpus: GPUs of this machine that it would use.
        num_threads: Threads of one worker.

    Raises:
        RequestError: ``label`` would refuse the options.
    """

    def __init__(self, config: EnsembleConfig, inputs: Sequence[str], storage: Storage) -> None:
        engine = InlineEngine()
        requested = config.members
        self._config = LabelConfig(**config.ensemble_options, inputs=tuple(inputs), out="nowhere")
        check_own_classes(config.classes, storage, ())
        check_member_columns(self._config, storage)
        self._members: list[ResolvedMember] = [resolve(member, config.weights_dir, storage) for member in requested]
        self.job: Job = describe_job(self._config, self._members, engine, storage, None)
        self._batch_size = fit_memory(self._config, self._members, self.job, engine).batch_size
        self.num_gpus = engine.num_gpus() if self.job.device == "cuda" else 0
        threads = config.decode_threads
        self.num_threads = max(1, num_local_cpus() // max(1, self.num_gpus)) if threads == "auto" else threads

    @property
    def sample_limits(self) -> tuple[int, int]:
        """Limits of the sample: images, and bytes of encoded images."""
        return SAMPLE_IMAGES[self.job.device], SAMPLE_BYTES[self.job.device]

    def run(self, sample: InputSample, *, seconds: float, alternatives: bool, on_step: StepCallback) -> Rates:
        """Measure; see :func:`pipeline.speed.measure.measure`.

        Raises:
            Interrupted: A signal came; the scratch directory is removed.
        """
        blobs = {member.spec.alias: member.blob for member in self._members}
        with _interruptible(), _scratch_folder() as scratch:
            return measure(
                self._labeler(scratch, may_tune=alternatives),
                blobs,
                sample,
                seconds=seconds,
                alternatives=alternatives,
                on_step=on_step,
            )

    def _labeler(self, out: str, *, may_tune: bool) -> LabelerConfig:
        config, job = self._config, self.job
        return LabelerConfig(
            out=out,
            fingerprint=job.fingerprint,
            run="trial",
            members=job.weighted([member.spec for member in self._members]),
            class_names=job.class_names,
            rule=config.combine,
            top_k=config.top_k,
            precision=job.precision,
            compiled=job.compiled,
            device=job.device,
            batch_size=self._batch_size,
            may_tune=may_tune,
            decode=config.decode,
            rows_per_part=job.rows_per_part,
            keep=(),
            num_threads=self.num_threads,
            storage=config.storage,
            taxonomy=job.taxonomy,
        )


def _scratch_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="shardlabel-")
    except OSError as error:
        raise RequestError(f"no scratch folder to write to; let TMPDIR name one with room: {error}") from error


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so scratch files are removed. Only the main thread may handle signals."""

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
