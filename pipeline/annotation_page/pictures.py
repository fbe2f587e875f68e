"""The pictures of a list, as the networks saw them, in a form that every browser shows.

Images lie beside the list where ``sample`` has written them; others are read from the inputs again. Those that come
next are read ahead.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pipeline.annotation_page.answer_table import ListedRow
from pipeline.annotation_page.originals import Located, OutputImages
from pipeline.errors import ImageError, ShardlabelError, StorageError
from pipeline.storage import Storage, join

if TYPE_CHECKING:
    from pipeline.stages.decode import Decoded

_AHEAD = 24  # read at once: a tar is walked once for all of them
_LEAST_AHEAD = 4
_CACHE_BYTES = 192 << 20
_LOSSLESS_PIXELS = 400 * 400  # small pictures are shown without further loss
_QUALITY = 92
_SHORT_SIDE_PX, _LONG_SIDE_PX = 200, 8192  # of a strip, the shorter side must show something, too


class PictureMissing(Exception):  # noqa: N818 - no error of the program
    """A picture that cannot be shown; its text says why, in one line."""


class Pictures:
    """Reads the images of a list.

    Args:
        folder: Path or URI of the folder that the list lies in.
        rows: The images.
        storage: How to reach them.
        open_output: Opens the output that the list was drawn from; called at most once, when it is needed.
    """

    def __init__(
        self, folder: str, rows: Sequence[ListedRow], storage: Storage, open_output: Callable[[], OutputImages]
    ) -> None:
        self._folder = folder
        self._rows = list(rows)
        self._storage = storage
        self._open_output = open_output
        self._lock = threading.Condition()
        self._images: OrderedDict[int, bytes | str] = OrderedDict()  # an image, or why there is none
        self._reading: set[int] = set()
        self._opening = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._output: OutputImages | None = None
        self._located: Mapping[int, Located] | None = None

    def located(self) -> Mapping[int, Located]:
        """Where the images are in the output, by number of the row.

        Raises:
            ShardlabelError: The output cannot be read.
        """
        with self._opening:
            if self._located is None:
                self._output = self._open_output()
                self._located = self._output.locate(self._rows)
            return self._located

    def prepare(self) -> None:
        """Load the decoder while the browser starts."""
        self._pool.submit(_load_decoder)

    def encoded(self, at: int, ahead: Sequence[int] = ()) -> bytes:
        """An image as it was labelled, encoded.

        Args:
            at: Number of its row.
            ahead: Numbers of those that will be wanted next, which are read meanwhile.

        Raises:
            PictureMissing: It cannot be read.
        """
        self._read_claimed([at], wait=True)
        with self._lock:
            found = self._images.get(at, "was read, but found no room in memory")
            if isinstance(found, str):
                self._images.pop(at, None)  # the next request tries again
            else:
                self._images.move_to_end(at)
            known = sum(one in self._images or one in self._reading for one in ahead[:_AHEAD])
        if known < len(ahead[:_AHEAD]) / 2 or known < min(len(ahead), _LEAST_AHEAD):
            self._pool.submit(self._read_claimed, ahead[:_AHEAD], wait=False)
        if isinstance(found, str):
            raise PictureMissing(found)
        return found

    def close(self) -> None:
        """Read no further ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def rendered(self, at: int, side_px: int, ahead: Sequence[int] = ()) -> tuple[str, bytes]:
        """A picture upright, no larger than a screen: its media type and its bytes.

        Args:
            at: Number of its row.
            side_px: Length of its longer side at most, pixels.
            ahead: Numbers of those that will be wanted next.

        Raises:
            PictureMissing: It cannot be read or decoded.
        """
        return render(self.encoded(at, ahead), side_px)

    def _read_claimed(self, numbers: Sequence[int], *, wait: bool) -> None:
        """Read images that are neither in the cache nor being read; with ``wait``, return once all are there."""
        with self._lock:
            wanted = [at for at in dict.fromkeys(numbers) if at not in self._images and at not in self._reading]
            self._reading |= set(wanted)
        try:
            self._read(wanted)
        finally:
            with self._lock:
                self._reading -= set(wanted)
                self._lock.notify_all()
                while wait and any(at in self._reading for at in numbers):
                    self._lock.wait()

    def _read(self, wanted: Sequence[int]) -> None:
        """Read images into the cache; what cannot be read leaves the reason there."""
        elsewhere: list[int] = []
        for at in wanted:
            if (image := self._beside(at)) is not None:
                self._keep(at, image)
            else:
                elsewhere.append(at)
        if not elsewhere:
            return
        try:
            located = self.located()
            numbers = {located[at].wanted: at for at in elsewhere if at in located}
            assert self._output is not None
            for row, image, problem in self._output.fetch([located[at] for at in numbers.values()]):
                self._keep(numbers[row], problem if image is None else image)
            lost = [at for at in elsewhere if at not in located]
            problem = "is not among the labelled images of the output, or several are the same"
        except ShardlabelError as error:
            lost, problem = elsewhere, str(error)
        for at in lost:
            self._keep(at, problem)

    def _beside(self, at: int) -> bytes | None:
        """The image that lies beside the list, if it is there, and is the one that was labelled."""
        row = self._rows[at]
        if not row.image or row.image.startswith("/") or ".." in row.image.split("/"):
            return None
        try:
            image = self._storage.read(join(self._folder, row.image))
        except StorageError:
            return None
        return image if not row.sha256 or hashlib.sha256(image).hexdigest() == row.sha256 else None

    def _keep(self, at: int, found: bytes | str) -> None:
        with self._lock:
            self._images[at] = found
            total = sum(len(image) for image in self._images.values())
            while total > _CACHE_BYTES and len(self._images) > 1:
                total -= len(self._images.popitem(last=False)[1])
            self._reading.discard(at)  # who waits for this one need not wait for the rest
            self._lock.notify_all()


def render(image: bytes, side_px: int) -> tuple[str, bytes]:
    """A picture as the networks saw it, upright, no larger than a screen: its media type and its bytes.

    Args:
        image: Encoded, in any format that can be labelled.
        side_px: Length of its longer side at most, pixels.

    Raises:
        PictureMissing: It cannot be decoded.
    """
    from PIL import Image

    try:
        decoded = _load_decoder()(image, fast_to_px=side_px)
    except ImageError as error:
        raise PictureMissing(f"cannot be decoded: {error.message or error.reason}") from error
    picture = Image.fromarray(decoded.pixels_CHW.permute(1, 2, 0).contiguous().numpy())
    longest, shortest = max(picture.size), min(picture.size)
    scale = min(1.0, max(side_px / longest, _SHORT_SIDE_PX / shortest), _LONG_SIDE_PX / longest)
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    if picture.width * picture.height <= _LOSSLESS_PIXELS:
        picture.save(buffer, "PNG", compress_level=1)
        return "image/png", buffer.getvalue()
    picture.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return "image/jpeg", buffer.getvalue()


def _load_decoder() -> Callable[..., Decoded]:
    from pipeline.stages.decode import decode  # torch takes seconds to import: the page is there before

    return decode
