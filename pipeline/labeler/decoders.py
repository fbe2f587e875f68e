"""Decoders: the decode step under a watchdog, in a child process, and ahead on a GPU."""

from __future__ import annotations

import threading

from pipeline.labeler.executor import Executor
from pipeline.labeler.image_path import decode_and_crop, prepare
from pipeline.labeler.tasks import Decoder, EncodedImage, Piece
from pipeline.labeler.watchdog import Clock, Watchdog
from pipeline.records import Sample
from pipeline.stages.decode import Decoded, decode
from pipeline.stages.isolation import IsolatedDecoder
from pipeline.stages.limits import DECODE_TIMEOUT_S
from pipeline.stages.nvjpeg import DeviceDecoder


class ChildDecoder:
    """Decodes in a child process, one image at a time: for units that labelers have died of.

    Args:
        fast_to_px: See :func:`pipeline.stages.decode.decode`.
    """

    def __init__(self, fast_to_px: int | None) -> None:
        self._fast_to_px = fast_to_px
        self._child = IsolatedDecoder(DECODE_TIMEOUT_S)

    def decode(self, image: EncodedImage) -> Decoded:
        """Decode one image."""
        return self._child.decode(image.data, fast_to_px=self._fast_to_px)

    def close(self) -> None:
        """End the child."""
        self._child.close()


class WatchedDecoder:
    """Decodes in the calling thread, under a watchdog.

    An image that takes too long is taken from its thread, which cannot be ended. Another thread takes its place, has
    the child try the image, and goes on with the piece. As each thread that hangs may keep a core busy, a labeler in
    which a quarter of them hang decodes in the child only.

    Args:
        fast_to_px: See :func:`pipeline.stages.decode.decode`.
        child: Decodes what hangs.
        num_threads: Worker threads.
        executor: Theirs.
    """

    def __init__(self, fast_to_px: int | None, child: ChildDecoder, num_threads: int, executor: Executor) -> None:
        self._fast_to_px = fast_to_px
        self._child = child
        self._max_hanging = max(1, num_threads // 4)
        self._executor = executor
        self._watchdog = Watchdog(DECODE_TIMEOUT_S, self._rescue)

    def decode(self, image: EncodedImage) -> Decoded:
        """Decode one image."""
        if self._executor.num_hanging >= self._max_hanging:
            return self._child.decode(image)
        with self._watchdog.over(image) as clock:
            return self._decode(image, clock)

    def _decode(self, image: EncodedImage, clock: Clock[EncodedImage]) -> Decoded:
        return decode(image.data, fast_to_px=self._fast_to_px, waiting=clock.paused)

    def _rescue(self, image: EncodedImage, thread: threading.Thread) -> None:
        def go_on(piece: Piece) -> None:
            decode_and_crop(image, self._child)
            prepare(piece)

        self._executor.take_over(image.piece, thread, go_on)

    def close(self) -> None:
        """End the watchdog."""
        self._watchdog.close()


class GpuDecoder:
    """Has a GPU decode what it can of a piece, many images at once, when the first of them is needed.

    Args:
        on_device: Decodes many images at once.
        otherwise: Decodes what the GPU does not.
    """

    def __init__(self, on_device: DeviceDecoder, otherwise: Decoder) -> None:
        self._on_device = on_device
        self._otherwise = otherwise

    def decode(self, image: EncodedImage) -> Decoded:
        """Decode one image, unless it is decoded already."""
        ahead = image.piece.decoded_ahead
        if image.slot not in ahead:
            ahead.update(self._decode_ahead(image))
        decoded = ahead.pop(image.slot)
        if decoded is None:
            return self._otherwise.decode(image)
        image.piece.result.num_on_gpu += 1
        return decoded

    def _decode_ahead(self, first: EncodedImage) -> dict[int, Decoded | None]:
        images = [(first.slot, first.data)]
        for slot, item in first.piece.remaining:
            if isinstance(item, Sample) and item.image:
                images.append((slot, item.image))
        found = self._on_device.decode([data for _, data in images])
        return {slot: decoded for (slot, _), decoded in zip(images, found, strict=False)}
