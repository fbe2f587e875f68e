"""One network in one number format on one device, in the form that runs fastest there."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from pipeline.models import packed
from pipeline.models.graphs import Recording

# How far a packed network may be from the plain one, as a share of its largest logit. Rounding makes 1e-6.
_TOLERANCE = 1e-3

_log = logging.getLogger(__name__)

Network = Callable[[torch.Tensor], torch.Tensor]


class Forward:
    """A network that is given float32 and gives back float32, whatever it computes in.

    On a CPU, networks that can be traced have their convolutions packed (:mod:`pipeline.models.packed`). Those that
    cannot be traced keep their batch norms and, in low precision, run under autocast.

    Args:
        network: Batch norms folded where they can be (:func:`folded`). It is taken over, and changed.
        device: Where it will live.
        dtype: What it computes in.
        at_once: Images it is given at once, at most and most of the time; may be lowered later.
        input_px: Side of its input.
        name: For messages.
        compiled: Whether to run it through torch.compile, where that works.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        at_once: int,
        input_px: int,
        name: str,
        compiled: bool = False,
    ) -> None:
        self._dtype = dtype
        self.at_once = at_once
        self._name = name
        self._device = device
        self._autocast = dtype != torch.float32 and not isinstance(network, fx.GraphModule)
        self._compiled: Network | None = None
        self._recording: Recording | None = None
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch stub
        if not compiled and device.type == "cpu" and isinstance(network, fx.GraphModule) and packed.is_available():
            network = self._packed(network, input_px)
        elif not self._autocast:
            packed.cast(network, dtype)
        self._network: Network = network
        if compiled:
            self._compile(network, input_px)

    @torch.inference_mode()
    def __call__(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits of a batch.

        Args:
            inputs_BCHW: float32, (B, 3, S, S), normalised, on the device.

        Returns:
            float32, (B, K).
        """
        if self._compiled is not None:
            try:
                return self._run(self._compiled, _padded(inputs_BCHW, self.at_once))[: len(inputs_BCHW)]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - no compiler, or a network that it does not understand
                reason = str(error).strip().partition("\n")[0]
                _log.warning("%s runs without torch.compile: %s", self._name, reason)
                self._compiled = None
        if self._recording is not None and self._recording.batch == len(inputs_BCHW):
            return self._recording(inputs_BCHW)
        return self._run(self._network, inputs_BCHW)

    @torch.inference_mode()
    def record(self, inputs_BCHW: torch.Tensor) -> bool:
        """Record passes of this size on a GPU, to be replayed from now on; whether that worked."""
        try:
            self._recording = Recording(lambda inputs: self._run(self._network, inputs), inputs_BCHW)
        except RuntimeError as error:
            _log.debug("%s is not recorded: %s", self._name, error)
            return False
        return True

    def forget_recording(self) -> None:
        """Let go of what was recorded, and of the memory that it keeps."""
        self._recording = None

    def _run(self, network: Network, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        if self._autocast:
            with torch.autocast(self._device.type, self._dtype):
                return network(inputs_BCHW).float()
        return network(inputs_BCHW.to(self._dtype)).float()

    def _packed(self, network: fx.GraphModule, input_px: int) -> nn.Module:
        """The network packed; or only cast, where packing fails or changes what it says."""
        try:
            example = _noise(1, input_px)
            expected, sizes = packed.observe(network, example, self.at_once)
            trial = packed.pack(network, torch.float32, sizes)
            with torch.no_grad():
                difference = (trial(example) - expected).abs().max()
            if difference <= _TOLERANCE * expected.abs().max():
                return trial if self._dtype == torch.float32 else packed.pack(network, self._dtype, sizes)
            reason = f"its logits move by {difference:.1e}"
        except Exception as error:  # noqa: BLE001 - graphs differ in as many ways as there are networks
            reason = str(error).strip().partition("\n")[0]
        _log.warning("%s runs without packed convolutions: %s", self._name, reason)
        return packed.cast(network, self._dtype)

    def _compile(self, network: nn.Module, input_px: int) -> None:
        """Compile now, for batches of one size, rather than under the first images."""
        options: dict[str, Any] = {"freezing": True} if self._device.type == "cpu" else {}
        self._compiled = torch.compile(network, dynamic=False, options=options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self(_noise(self.at_once, input_px).to(self._device))


def folded(network: nn.Module) -> nn.Module:
    """The same function with batch norms folded into the convolutions before them, where it can be traced."""
    from torch.fx.experimental.optimization import fuse

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused: nn.Module = fuse(network)
    except Exception as error:  # noqa: BLE001 - tracing fails in as many ways as there are networks
        _log.debug("not folded: %s", error)
        return network
    return fused.eval().requires_grad_(False)


def _noise(batch: int, input_px: int) -> torch.Tensor:
    """What a normalised picture might be, float32, (B, 3, S, S)."""
    noise = torch.randn(batch, 3, input_px, input_px, generator=torch.Generator().manual_seed(0))
    return noise.to(memory_format=torch.channels_last)


def _padded(inputs_BCHW: torch.Tensor, batch: int) -> torch.Tensor:
    """At least so many images: compiled code is made for one number of them."""
    missing = batch - len(inputs_BCHW)
    if missing <= 0:
        return inputs_BCHW
    return torch.cat([inputs_BCHW, inputs_BCHW[-1:].expand(missing, -1, -1, -1)])
