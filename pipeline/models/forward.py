"""The forward pass of one network, in one number format on one device, optimised for it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from pipeline.models import packed_conv
from pipeline.models.device_errors import is_device_failure, is_out_of_memory
from pipeline.models.graphs import CapturedGraph, GraphMemory, pass_sizes, split_into_passes

# Largest difference of a packed network from the plain one, as a share of its largest logit. Rounding causes 1e-6.
_TOLERANCE = 1e-3

_SIMD_BITS = {"AVX2": 256, "AVX512": 512}  # of a register, by what torch calls these CPUs

_log = logging.getLogger(__name__)

Network = Callable[[torch.Tensor], torch.Tensor]


class Forward:
    """Computes a network: float32 in, float32 out, in any number format.

    On a CPU, networks that can be traced have packed convolutions (:mod:`pipeline.models.packed_conv`). Those that
    cannot be traced keep their batch norms and, in low precision, run under autocast. On a GPU passes are padded to a
    few sizes, and captured as CUDA graphs where that works.

    Args:
        network: From :func:`fold_batch_norms`. It is changed.
        device: Device to run on.
        dtype: Number format to compute in.
        batch_size: Images in one call, at most and most of the time; may be lowered later.
        input_px: Side of its input, pixels.
        name: For messages.
        compiled: Whether to use torch.compile, if that works.
        graphs: Memory of CUDA graphs, on a GPU; None elsewhere.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        batch_size: int,
        input_px: int,
        name: str,
        compiled: bool = False,
        graphs: GraphMemory | None = None,
    ) -> None:
        self._dtype = dtype
        self.batch_size = batch_size
        self._input_px = input_px
        self._name = name
        self._device = device
        self._autocast = dtype != torch.float32 and not isinstance(network, fx.GraphModule)
        self._compiled: Network | None = None
        self._graphs = graphs
        self._captured: dict[int, CapturedGraph] = {}
        network = _channels_last(network.to(device))
        packs = not compiled and device.type == "cpu" and packed_conv.is_available(dtype)
        if packs and isinstance(network, fx.GraphModule):
            network = self._pack(network, input_px)
        elif not self._autocast:
            packed_conv.cast(network, dtype)
        elif graphs is not None:
            _cast_ahead(network, dtype)
        self._network: Network = network
        if compiled:
            self._compile(network, input_px)

    @property
    def sizes(self) -> tuple[int, ...]:
        """What passes are padded to, ascending; empty where a pass has as many images as its batch."""
        if self._compiled is not None:
            return (self.batch_size,)
        return () if self._graphs is None else pass_sizes(self.batch_size)

    def split(self, num_images: int) -> list[int]:
        """Split a batch into calls: the number of images in each."""
        if self.sizes:
            return split_into_passes(num_images, self.sizes)
        rest = num_images % self.batch_size
        return [self.batch_size] * (num_images // self.batch_size) + [rest] * (rest > 0)

    @torch.inference_mode()
    def __call__(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        """Compute the logits of a batch.

        Args:
            inputs_BCHW: float32, (B, 3, S, S), normalised, on the device.

        Returns:
            float32, (B, K).
        """
        num_images = len(inputs_BCHW)
        size = next((size for size in self.sizes if size >= num_images), num_images)
        captured = self._captured.get(size)
        if captured is not None:
            return captured(inputs_BCHW)
        return self._compute(pad(inputs_BCHW, size))[:num_images]

    def _compute(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        if self._compiled is not None:
            try:
                return self._run(self._compiled, inputs_BCHW)
            except Exception as error:  # no compiler, or an unsupported network
                if is_out_of_memory(error) or is_device_failure(error):
                    raise
                reason = str(error).strip().partition("\n")[0]
                _log.warning("%s runs without torch.compile: %s", self._name, reason)
                self._compiled = None
        return self._run(self._network, inputs_BCHW)

    @torch.inference_mode()
    def capture(self) -> None:
        """On a GPU, capture a CUDA graph for each size. Where that fails, cuDNN has at least its plans for this size.

        It must be called in the thread that will compute, because the plans are that thread's own.

        Raises:
            RuntimeError: The device has failed.
        """
        if self._graphs is None:
            return
        network = self._compiled or self._network
        for size in reversed(self.sizes):  # smaller graphs fit in the memory of larger ones
            try:
                self._captured[size] = CapturedGraph(
                    lambda inputs: self._run(network, inputs), self._graphs, size, self._input_px
                )
            except RuntimeError as error:
                self._graphs.check_device()
                reason = str(error).strip().partition("\n")[0]
                _log.info("%s, %d images: not captured as a CUDA graph: %s", self._name, size, reason)

    def shrink(self) -> None:
        """Halve the batch size, because memory has run out, and drop larger graphs."""
        self.batch_size = (self.batch_size + 1) // 2
        self._captured = {size: graph for size, graph in self._captured.items() if size <= self.batch_size}

    def _run(self, network: Network, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        if self._autocast:
            with torch.autocast(self._device.type, self._dtype):
                return network(inputs_BCHW).float()
        return network(inputs_BCHW.to(self._dtype)).float()

    def _pack(self, network: fx.GraphModule, input_px: int) -> nn.Module:
        """Pack the network's convolutions; only cast it if packing fails or changes its logits."""
        try:
            example = _noise(1, input_px)
            expected, sizes = packed_conv.record_input_sizes(network, example, self.batch_size)
            trial = packed_conv.pack(network, torch.float32, sizes)
            with torch.no_grad():
                difference = (trial(example) - expected).abs().max()
            if difference <= _TOLERANCE * expected.abs().max():
                return trial if self._dtype == torch.float32 else packed_conv.pack(network, self._dtype, sizes)
            reason = f"its logits move by {difference:.1e}"
        except Exception as error:  # noqa: BLE001 - graphs differ in as many ways as there are networks
            reason = str(error).strip().partition("\n")[0]
        _log.warning("%s runs without packed convolutions: %s", self._name, reason)
        return packed_conv.cast(network, self._dtype)

    def _compile(self, network: nn.Module, input_px: int) -> None:
        """Compile now, for one batch size, and not during the first batch."""
        options: dict[str, Any] = _cpu_options() if self._device.type == "cpu" else {}
        self._compiled = torch.compile(network, dynamic=False, options=options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self(_noise(self.batch_size, input_px).to(self._device))


def _cpu_options() -> dict[str, Any]:
    """Options of torch.compile on this CPU.

    The width of its registers is what would be chosen anyway, but makes the cache of compiled code, which machines may
    share, keep AVX2 and AVX-512 apart. Without, they compute each other's loops (findings/torch-compile-cache-cpu).
    """
    width = _SIMD_BITS.get(torch.backends.cpu.get_cpu_capability())
    return {"freezing": True} | ({} if width is None else {"cpp.simdlen": width})


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them; a network that cannot be traced stays as it is.

    The result shares its other layers with what was given, which computes as before.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused: nn.Module = fuse(network, inplace=True)
    except Exception as error:  # noqa: BLE001 - tracing fails in as many ways as there are networks
        _log.debug("not folded: %s", error)
        return network
    return fused.eval().requires_grad_(False)


def _cast_ahead(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights that autocast would cast in each pass; torch does not keep what it casts without gradients."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            for tensor in module.parameters(recurse=False):
                tensor.data = tensor.data.to(dtype)


def _channels_last(network: nn.Module) -> nn.Module:
    """Lay pictures and kernels out with their channels last; torch's own way refuses tensors of five dimensions.

    A traced network of timm's Swin has such constants.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return network


def _noise(batch: int, input_px: int) -> torch.Tensor:
    """Random input, float32, (B, 3, S, S), standard normal."""
    noise = torch.randn(batch, 3, input_px, input_px, generator=torch.Generator().manual_seed(0))
    return noise.to(memory_format=torch.channels_last)


def pad(inputs_BCHW: torch.Tensor, batch: int) -> torch.Tensor:
    """Pad a batch with copies of its last image, up to a size."""
    missing = batch - len(inputs_BCHW)
    if missing <= 0:
        return inputs_BCHW
    return torch.cat([inputs_BCHW, inputs_BCHW[-1:].expand(missing, -1, -1, -1)])
