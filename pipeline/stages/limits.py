"""Limits of a decode: pixels, time, and one large image at a time, which bounds the memory that a bad shard takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pipeline.errors import ImageError
from pipeline.records import Reason

# Pillow's own limit: twice its MAX_IMAGE_PIXELS. Checked in the header, before anything is allocated.
MAX_PIXELS = 178_956_970
_LARGE_PIXELS = 32 << 20
# A decoder that takes longer hangs: the slowest image within the limits (JPEG 2000 of noise) takes 35 s of a core.
DECODE_TIMEOUT_S = 120.0
# On a GPU a thread holds the pictures that it has decoded at once, and one of them in float32 while it is resized.
GPU_MAX_PIXELS, GPU_MAX_PIXELS_AT_ONCE = 16 << 20, 32 << 20
GPU_THREAD_BYTES = 3 * GPU_MAX_PIXELS_AT_ONCE + 4 * 3 * GPU_MAX_PIXELS

Waiting = Callable[[], AbstractContextManager[object]]


class LargeImageLock:
    """Lets one large image in at a time. An image that hangs (:data:`DECODE_TIMEOUT_S`) loses the lock."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._owner: object | None = None
        self._since = 0.0

    @contextmanager
    def acquire(self, waiting: Waiting) -> Iterator[None]:
        """Hold the lock.

        Args:
            waiting: Context manager that is entered while this waits.
        """
        own = object()
        with waiting(), self._condition:
            while self._owner is not None and (left_s := self._since + DECODE_TIMEOUT_S - time.monotonic()) > 0:
                self._condition.wait(left_s)
            self._owner, self._since = own, time.monotonic()
        try:
            yield
        finally:
            with self._condition:
                if self._owner is own:
                    self._owner = None
                    self._condition.notify()


large_image_lock = LargeImageLock()


def lock_if_large(width: int, height: int, waiting: Waiting, *, held: bool = False) -> AbstractContextManager[object]:
    """Check the size of a picture, and lock out other large ones if it is large.

    Args:
        width: Pixels.
        height: Pixels.
        waiting: Context manager that is entered while this waits.
        held: Whether the caller holds the lock already.

    Raises:
        ImageError: The picture is too large, or has no pixels.
    """
    if width <= 0 or height <= 0:
        raise ImageError(Reason.CORRUPT_IMAGE, f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(Reason.TOO_LARGE, f"{width} x {height} pixels; the limit is {MAX_PIXELS} in all")
    return large_image_lock.acquire(waiting) if width * height > _LARGE_PIXELS and not held else nullcontext()
