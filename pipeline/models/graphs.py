"""CUDA graphs: a forward pass captured once and replayed, with one launch instead of hundreds.

With small networks a fast GPU waits for the next kernel launch. A CUDA graph launches all kernels at once, for batches
of one size and at the memory addresses of the capture.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html (CUDA graphs: warm up on a side stream, capture,
copy inputs in, replay).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_WARM_UP_PASSES = 3


class CapturedGraph:
    """A forward pass captured as a CUDA graph, for one batch size.

    Args:
        network: The forward pass. Nothing in it may wait for the device.
        inputs_BCHW: A batch on a GPU; all later batches must have its shape, type and layout. It is not changed.

    Raises:
        RuntimeError: The network cannot be captured, or memory runs out.
    """

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor], inputs_BCHW: torch.Tensor) -> None:
        self.batch = len(inputs_BCHW)
        self._inputs = inputs_BCHW.clone(memory_format=torch.preserve_format)
        current = torch.cuda.current_stream(inputs_BCHW.device)
        side_stream = torch.cuda.Stream(inputs_BCHW.device)  # type: ignore[no-untyped-call]  # torch's own
        side_stream.wait_stream(current)
        with torch.cuda.stream(side_stream):
            for _ in range(_WARM_UP_PASSES):
                network(self._inputs)
        current.wait_stream(side_stream)
        self._graph = torch.cuda.CUDAGraph()
        # other threads of this process may use the device during the capture
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = network(self._inputs)

    def __call__(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        """Compute a batch of the captured size, without waiting for the device."""
        self._inputs.copy_(inputs_BCHW)
        self._graph.replay()
        return self._outputs.clone()
