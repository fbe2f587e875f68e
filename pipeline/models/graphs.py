"""CUDA graphs: a forward pass captured once and replayed, with one launch instead of hundreds.

Launching kernels one by one takes the interpreter lock for each, which the threads that decode want as well. A CUDA
graph launches all kernels at once, for batches of one size and at the memory addresses of the capture. So passes are
padded to a few sizes (:func:`pass_sizes`), each of which is captured. That also keeps cuDNN from planning its
convolutions anew for each number of images.

All graphs of a process share their memory: they are replayed one after the other, and outputs are copied at once.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html (CUDA graphs: warm up on a side stream, capture,
copy inputs in, replay; sharing memory across captures).
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence

import torch

_WARM_UP_PASSES = 3
_SMALLER_SIZES = (8, 32, 128)


def pass_sizes(batch_size: int) -> tuple[int, ...]:
    """The numbers of images that forward passes on a GPU have, ascending: the batch size, and a few smaller ones."""
    return (*(size for size in _SMALLER_SIZES if size < batch_size), batch_size)


def split_into_passes(num_images: int, sizes: Sequence[int]) -> list[int]:
    """Split a batch into passes of which little is padding.

    Args:
        num_images: Images in the batch.
        sizes: What passes are padded to, ascending.

    Returns:
        Images in each pass; at most the last is less than a size. It depends on the arguments alone.
    """
    passes = []
    while num_images:
        holding = next((size for size in sizes if size >= num_images), None)
        fits_well = holding is not None and (holding < 2 * num_images or holding == sizes[0])
        passes.append(num_images if fits_well else max(size for size in sizes if size <= num_images))
        num_images -= passes[-1]
    return passes


class GraphMemory:
    """What all CUDA graphs on a device share: the memory of their activations and of their inputs.

    Args:
        device: A GPU.

    Attributes:
        lock: Held while inputs are copied in, a graph is replayed, and outputs are copied.
        pool: Of the activations.
    """

    def __init__(self, device: torch.device) -> None:
        self.lock = threading.RLock()
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self._inputs: dict[int, torch.Tensor] = {}

    def inputs(self, size: int, input_px: int) -> torch.Tensor:
        """Where graphs read their inputs: float32, (B, 3, S, S), with channels last.

        Args:
            size: B.
            input_px: S.
        """
        found = self._inputs.get(input_px)
        if found is None or len(found) < size:
            found = torch.zeros(size, 3, input_px, input_px, device=self.device)
            found = self._inputs[input_px] = found.contiguous(memory_format=torch.channels_last)
        return found[:size]

    def check_device(self) -> None:
        """Wait for the device.

        Raises:
            RuntimeError: It has failed.
        """
        torch.cuda.synchronize(self.device)


_memories: weakref.WeakValueDictionary[torch.device, GraphMemory] = weakref.WeakValueDictionary()
_memories_lock = threading.Lock()


def graph_memory_of(device: torch.device) -> GraphMemory | None:
    """The memory that this process's graphs on a device share while any of them is left; None where there are none."""
    if device.type != "cuda":
        return None
    with _memories_lock:
        found = _memories.get(device)
        if found is None:
            found = _memories[device] = GraphMemory(device)
        return found


class CapturedGraph:
    """A forward pass captured as a CUDA graph, for one batch size.

    Args:
        network: The forward pass. Nothing in it may wait for the device.
        memory: Shared with the other graphs.
        size: Images in it.
        input_px: Side of its input, pixels.

    Raises:
        RuntimeError: The network cannot be captured, or memory runs out.
    """

    def __init__(
        self, network: Callable[[torch.Tensor], torch.Tensor], memory: GraphMemory, size: int, input_px: int
    ) -> None:
        self._memory = memory
        self._inputs = memory.inputs(size, input_px)
        current = torch.cuda.current_stream(memory.device)
        side_stream = torch.cuda.Stream(memory.device)  # type: ignore[no-untyped-call]  # torch's own
        side_stream.wait_stream(current)
        with torch.cuda.stream(side_stream):
            for _ in range(_WARM_UP_PASSES - 1):
                network(self._inputs)
            with _waiting_refused():
                network(self._inputs)
        current.wait_stream(side_stream)
        self._graph = torch.cuda.CUDAGraph()
        # other threads of this process may use the device during the capture
        with torch.cuda.graph(self._graph, pool=memory.pool, capture_error_mode="thread_local"):
            self._outputs = network(self._inputs)

    def __call__(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        """Compute a batch of at most the captured size, without waiting for the device."""
        num_images = len(inputs_BCHW)
        with self._memory.lock:
            self._inputs[:num_images].copy_(inputs_BCHW)  # what is behind them is computed as well, and left out
            self._graph.replay()
            return self._outputs[:num_images].clone()


@contextlib.contextmanager
def _waiting_refused() -> Iterator[None]:
    """Let what waits for the device raise RuntimeError.

    In a capture it would fail as well, but torch 2.11 and 2.12 do not get over that: their allocator takes the capture
    for unfinished, and frees nothing that was used on two streams (pytorch#180395, pytorch#190348). The mode is that of
    the process, so nobody else may use the device meanwhile.
    """
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
