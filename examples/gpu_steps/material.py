"""What steps work on: photographs, tars of them, and networks. Made once, in the scratch folder of the run."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from gpu_steps.networks import save_random
from gpu_steps.photographs import make_photographs, write_tars
from pipeline.config.members import parse_members
from pipeline.config.settings import StorageConfig
from pipeline.inputs.find import find_inputs
from pipeline.labeler.config import LabelerConfig
from pipeline.machine import num_local_cpus
from pipeline.models.catalog import find
from pipeline.models.ensemble import Ensemble, EnsembleOptions
from pipeline.models.preprocessing import Geometry, crop
from pipeline.models.weights import ResolvedMember, resolve
from pipeline.speed.input_sample import InputSample, LooseCount, draw_sample
from pipeline.stages.decode import decode
from pipeline.storage import Storage

NUM_CLASSES = 1000
_SAMPLE_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """How much is made and measured.

    Attributes:
        photographs: That differ.
        job_images: In the tars of a job that is measured; those that are known come several times.
        checked_images: In the tars of a job whose rows are looked at; all of them differ.
        known_images: That random networks tell from each other.
        batch: Images in a forward pass.
    """

    photographs: int
    job_images: int
    checked_images: int
    known_images: int
    batch: int


SIZES = {"cuda": Sizes(1024, 8192, 1024, 256, 128), "cpu": Sizes(16, 32, 24, 8, 2)}
MEMBERS = {
    "cuda": "resnet50,densenet121,efficientnet_b0,mobilenet_v3_large,inception_v3",
    "cpu": "shufflenet_v2_x0_5,squeezenet1_1",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What a run is about. Plain data.

    Attributes:
        scratch: A folder that is removed after the run.
        device: ``cpu`` or ``cuda``; ``auto`` for a GPU if there is one.
        members: The ensemble; None for what suits the device.
        weights_dir: Where their checkpoints are; None for random networks.
        images: A directory of tars for the jobs that are measured; None for photographs that are made.
        threads: That decode; None for one for each core.
    """

    scratch: str
    device: str = "auto"
    members: str | None = None
    weights_dir: str | None = None
    images: str | None = None
    threads: int | None = None


class Material:
    """Makes what a step asks for, or finds it in the scratch folder."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.scratch = Path(setting.scratch)

    @functools.cached_property
    def device(self) -> torch.device:
        """Where networks run."""
        wanted = self._setting.device
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)

    @property
    def on_gpu(self) -> bool:
        """Whether that is a GPU."""
        return self.device.type == "cuda"

    @property
    def sizes(self) -> Sizes:
        """How much to make and measure."""
        return SIZES[self.device.type]

    @property
    def threads(self) -> int:
        """Threads that decode."""
        return self._setting.threads or num_local_cpus()

    @functools.cached_property
    def photographs(self) -> list[bytes]:
        """Encoded photographs that differ."""
        folder = self.scratch / "photographs"
        if not folder.exists():
            unfinished = self.scratch / f"photographs-{os.getpid()}"
            unfinished.mkdir()
            for number, data in enumerate(make_photographs(self.sizes.photographs)):
                (unfinished / f"{number:06d}.jpg").write_bytes(data)
            unfinished.rename(folder)
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    @functools.cached_property
    def checked_tars(self) -> Path:
        """Tars for jobs whose rows are compared."""
        return self._tars("checked", self.photographs, self.sizes.checked_images, 2)

    @functools.cached_property
    def job_tars(self) -> Path:
        """Tars for jobs that are measured, of what random networks know: near ties would be too many otherwise."""
        if self._setting.images:
            return Path(self._setting.images)
        return self._tars("jobs", self.photographs[: self.sizes.known_images], self.sizes.job_images, 8)

    @functools.cached_property
    def job_sample(self) -> InputSample:
        """Samples of these tars, in memory."""
        storage = Storage(StorageConfig())
        tars = list(find_inputs((str(self.job_tars),), storage).tars.values())
        return draw_sample(tars, LooseCount(), storage, self.sizes.job_images, _SAMPLE_BYTES)

    def _tars(self, name: str, photographs: Sequence[bytes], num_images: int, num_tars: int) -> Path:
        folder = self.scratch / name
        if not folder.exists():
            unfinished = self.scratch / f"{name}-{os.getpid()}"
            write_tars(unfinished, photographs, num_images, num_tars)
            unfinished.rename(folder)
        return folder

    @functools.cached_property
    def weights_dir(self) -> Path:
        """Where checkpoints are; random ones are made when they are asked for."""
        if self._setting.weights_dir:
            return Path(self._setting.weights_dir)
        folder = self.scratch / "weights"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def names(self) -> tuple[str, ...]:
        """Architectures of the ensemble."""
        wanted = self._setting.members or MEMBERS[self.device.type]
        return tuple(request.arch for request in parse_members((wanted,)))

    @functools.cached_property
    def members(self) -> tuple[ResolvedMember, ...]:
        """The ensemble."""
        return tuple(self.member(name) for name in self.names)

    @functools.cache  # noqa: B019 - there is one for each process
    def member(self, name: str) -> ResolvedMember:
        """One network."""
        (request,) = parse_members((name,))
        own = self.weights_dir / f"{find(name).short_name}.pth"
        if not self._setting.weights_dir and not own.exists():
            save_random(name, self.photographs[: self.sizes.known_images], self.device, own)
        return resolve(request, str(self.weights_dir), Storage(StorageConfig()))

    @functools.cache  # noqa: B019 - likewise
    def crops(self, name: str, number: int) -> torch.Tensor:
        """Crops for a network: uint8, (N, 3, S, S), 0-255, RGB, in host memory."""
        return crops_of(self.photographs, self.member(name).spec.recipe.geometry, number)

    def ensemble(self, names: Sequence[str]) -> Ensemble:
        """Some of the networks on their device, as a job runs them."""
        config = self.labeler([self.member(name) for name in names], "nowhere")
        blobs = {spec.alias: self.member(spec.arch).blob for spec in config.members}
        options = EnsembleOptions(
            config.device, config.precision, config.rule, config.top_k, batch_size=config.batch_size
        )
        return Ensemble(config.members, blobs, options)

    def labeler(self, members: Sequence[ResolvedMember], out: str) -> LabelerConfig:
        """What a labeler does in a job that is measured, as ``shardlabel label`` would have it."""
        return LabelerConfig(
            out=str(self.scratch / out),
            fingerprint="0" * 64,
            run="trial",
            members=tuple(member.spec for member in members),
            class_names=tuple(f"class {number}" for number in range(members[0].spec.num_classes)),
            rule="mean",
            top_k=5,
            precision="mixed" if self.on_gpu else "fp32",
            compiled=False,
            device=self.device.type,
            batch_size=None if self.on_gpu else self.sizes.batch,
            may_tune=False,
            decode="exact",
            rows_per_part=10_000,
            keep=(),
            num_threads=self.threads,
            storage=StorageConfig(),
        )


def crops_of(images: Sequence[bytes], geometry: Geometry, number: int) -> torch.Tensor:
    """Crops of some images, from the start again where they do not suffice: uint8, (N, 3, S, S), 0-255, RGB."""
    with ThreadPoolExecutor(num_local_cpus()) as pool:
        crops = list(pool.map(lambda data: crop(decode(data).pixels_CHW, geometry), images[:number]))
    return torch.stack([crops[place % len(crops)] for place in range(number)])
