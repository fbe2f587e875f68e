"""A forward pass recorded once on a GPU and replayed: one launch instead of hundreds.

Small networks leave a fast GPU waiting for the next kernel to be launched. A CUDA graph launches all of them at once,
for batches of one size whose memory stays where it was when the graph was recorded.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html (CUDA graphs: warm up on a stream of its own, record,
copy inputs in, replay).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_WARM_UP_PASSES = 3


class Recording:
    """A network recorded for one batch size.

    Args:
        network: What to record. Nothing in it may wait for the device.
        inputs_BCHW: On a GPU; its shape, type and layout are those of every batch to come. It is not changed.

    Raises:
        RuntimeError: The network does something that cannot be recorded, or memory runs out.
    """

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor], inputs_BCHW: torch.Tensor) -> None:
        self.batch = len(inputs_BCHW)
        self._inputs = inputs_BCHW.clone(memory_format=torch.preserve_format)
        current = torch.cuda.current_stream(inputs_BCHW.device)
        aside = torch.cuda.Stream(inputs_BCHW.device)  # type: ignore[no-untyped-call]  # torch's own
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_PASSES):
                network(self._inputs)
        current.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # other threads of this process may use the device meanwhile
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = network(self._inputs)

    def __call__(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        """What the network says of a batch of the recorded size. Nothing here waits for the device."""
        self._inputs.copy_(inputs_BCHW)
        self._graph.replay()
        return self._outputs.clone()
