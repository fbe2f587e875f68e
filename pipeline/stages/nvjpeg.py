"""JPEG decoding on a GPU with nvJPEG, for jobs whose CPU cores decode slower than the device computes.

Only plain pictures are decoded there: whole, upright JPEGs in grey or RGB that are not too large. All others, and all
that nvJPEG refuses, are decoded on the CPU as usual. So what is quarantined does not depend on the device.
nvJPEG's pixels differ a little from the CPU's: it repeats the colours of neighbouring pixels, and libjpeg interpolates
them. And a driver may be broken. So before it is used, it must decode the sample photographs close to the CPU's pixels,
with the same result each time, from several threads.
"""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torchcodec.decoders import decode_jpeg

from pipeline.models.preprocessing import Geometry, crop
from pipeline.sample_data import sample_data
from pipeline.stages.decode import Decoded, decode
from pipeline.stages.limits import GPU_MAX_PIXELS, GPU_MAX_PIXELS_AT_ONCE
from pipeline.stages.orientation import is_upright

_END_OF_IMAGE = b"\xff\xd9"
# How far the crop of each sample photograph may be from the CPU's, in grey levels: on average, and at 999 of 1,000
# values. Repeated colours make 0.8, with a coarser DCT 1.3, and 35 at single edges; half a pixel's shift makes 9.8.
_MAX_MEAN_DIFFERENCE, _MAX_USUAL_DIFFERENCE, _USUAL_SHARE = 2.0, 24.0, 0.999
_PROBE = Geometry(256, 224)
_NUM_PROBES, _NUM_ROUNDS, _NUM_THREADS = 32, 4, 4

_log = logging.getLogger(__name__)

DecodeMany = Callable[[list[bytes]], list[torch.Tensor]]


class DeviceDecoder:
    """Decodes plain JPEGs on a GPU, many at once. Safe to call from several threads.

    Args:
        device: The GPU.
        decode_many: Decoder of several images; None for nvJPEG. It returns uint8, (3, H, W), 0-255, RGB, on any device.
    """

    def __init__(self, device: torch.device, decode_many: DecodeMany | None = None) -> None:
        self._device = device
        self._decode_many = decode_many or self._with_nvjpeg

    def use_own_stream(self) -> None:
        """Give the calling thread its own CUDA stream; on the default one it would wait for forward passes."""
        if self._device.type == "cuda":
            stream = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]  # torch's own
            torch.cuda.set_stream(stream)

    def decode(self, images: Sequence[bytes]) -> list[Decoded | None]:
        """Decode the plain pictures among the first of some images: as many as the memory of a thread is meant for.

        Args:
            images: Encoded images, at least one.

        Returns:
            For each of the first images, at least one, its picture, on the device; None if it must be decoded on the
            CPU.
        """
        sizes = _first_sizes(images)
        found: list[Decoded | None] = [None] * len(sizes)
        places = [place for place, size in enumerate(sizes) if size is not None]
        try:
            pictures = self._decode_many([images[place] for place in places]) if places else []
        except Exception:  # noqa: BLE001 - whatever it is, it does not say which image failed; the CPU finds out why
            return found
        for place, pixels_CHW in zip(places, pictures, strict=True):
            size = sizes[place]
            if size is not None and tuple(pixels_CHW.shape) == (3, size[1], size[0]):
                found[place] = Decoded(pixels_CHW, *size)
        return found

    def _with_nvjpeg(self, images: list[bytes]) -> list[torch.Tensor]:
        pictures: list[torch.Tensor] = decode_jpeg(list(images), mode="RGB", device=self._device)
        return pictures

    def find_problem(self, images: Sequence[bytes]) -> str | None:
        """Compare its pixels with the CPU's: what is wrong, in one line, or None.

        Args:
            images: Encoded photographs to compare on.
        """
        plain = [data for data in images if plain_size(data) is not None]
        if not plain:
            return "there is no photograph to compare it by"
        try:
            with ThreadPoolExecutor(_NUM_THREADS, initializer=self.use_own_stream) as pool:
                rounds = list(pool.map(lambda _: self._crops(plain), range(_NUM_ROUNDS)))
        except RuntimeError as error:
            return f"it fails: {' '.join(str(error).split())[:200]}"
        first_BCHW, *others = rounds
        if not all(torch.equal(first_BCHW, other) for other in others):
            return "it gives other pixels each time"
        expected_BCHW = torch.stack([crop(decode(data).pixels_CHW, _PROBE) for data in plain])
        difference = (first_BCHW.float() - expected_BCHW.float()).abs()
        worst = float(difference.mean(dim=(1, 2, 3)).max())
        values_BN = difference.flatten(1)
        usual = float(values_BN.kthvalue(int(_USUAL_SHARE * values_BN.shape[1]), dim=1).values.max())
        if worst > _MAX_MEAN_DIFFERENCE or usual > _MAX_USUAL_DIFFERENCE:
            return f"its pixels are {worst:.2f} grey levels off on average, one in 1,000 by {usual:.0f}"
        return None

    def _crops(self, plain: Sequence[bytes]) -> torch.Tensor:
        """Decode and crop photographs: uint8, (B, 3, S, S), in host memory."""
        return torch.stack([crop(pixels_CHW, _PROBE).cpu() for pixels_CHW in self._decode_many(list(plain))])


def make_checked_decoder(device: torch.device) -> DeviceDecoder | None:
    """Make the decoder of a GPU, and check it on the sample photographs; None if the check fails."""
    decoder = DeviceDecoder(device)
    problem = decoder.find_problem(read_plain_jpegs(sample_data()))
    if problem is None:
        return decoder
    _log.warning("JPEGs are decoded on the CPU, because nvJPEG cannot be used here: %s", problem)
    return None


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Width and height, pixels, of a JPEG that the GPU may decode; None for everything else."""
    if not data.startswith(b"\xff\xd8\xff") or not data.rstrip(b"\0").endswith(_END_OF_IMAGE):
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        plain = image.format == "JPEG" and image.mode in {"RGB", "L"} and is_upright(image)
    except Exception:  # noqa: BLE001 - Pillow raises whatever it runs into; the CPU path says what is wrong
        return None
    # Adobe's marker with transform 0 means that the channels are RGB already
    as_usual = image.info.get("adobe_transform", 1) != 0
    return image.size if plain and as_usual and image.width * image.height <= GPU_MAX_PIXELS else None


def _first_sizes(images: Sequence[bytes]) -> list[tuple[int, int] | None]:
    """Sizes of the first images, at least one, whose pictures a thread may hold at once; None for those not plain."""
    sizes: list[tuple[int, int] | None] = []
    pixels = 0
    for data in images:
        size = plain_size(data)
        pixels += 0 if size is None else size[0] * size[1]
        if sizes and pixels > GPU_MAX_PIXELS_AT_ONCE:
            break
        sizes.append(size)
    return sizes


def read_plain_jpegs(folder: Path) -> list[bytes]:
    """Read some plain JPEGs from the tars of a folder, the largest of the first tar first."""
    found: list[bytes] = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in sorted((member for member in tar if member.isfile()), key=lambda member: -member.size):
                file = tar.extractfile(member)
                if file is not None and plain_size(data := file.read()) is not None:
                    found.append(data)
                if len(found) == _NUM_PROBES:
                    return found
    return found
