"""One network on one device: crops in, logits out, in the precision that was asked for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from pipeline.models.recipe import Recipe
from pipeline.models.weights import MemberSpec, network_from_blob

Precision = Literal["fp32", "mixed", "bf16", "fp16"]

# Under ``mixed``, images whose low-precision top-1 leads by less than this are computed again in fp32.
# Measured on 200 photographs: no top-1 changed beyond a lead of 0.1 in bf16; fp16 has three more bits.
_NEAR_TIE = {torch.bfloat16: 0.1, torch.float16: 0.02}

_log = logging.getLogger(__name__)


class Classifier:
    """A member of an ensemble, resident on its device.

    Args:
        spec: What it is.
        blob: Its tensors, as safetensors bytes.
        device: Where it lives.
        precision: ``fp32``; ``bf16`` or ``fp16`` (autocast); ``mixed``: the device's low precision first,
            and fp32 again for near ties.
        compiled: Whether to run it through torch.compile.
        at_once: Images in one forward pass at most; None for what suits the device and precision.
    """

    def __init__(
        self,
        spec: MemberSpec,
        blob: bytes,
        device: torch.device,
        precision: Precision,
        *,
        compiled: bool = False,
        at_once: int | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.precision = precision
        self._at_once = at_once or _images_at_once(device, precision)
        network = _fused(network_from_blob(spec, blob))
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch stub
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        if compiled:
            self._compiled = torch.compile(self._network, dynamic=True)
        self._mean, self._std = _normalisation(spec.recipe, device)

    @property
    def low_precision(self) -> torch.dtype | None:
        """The dtype of autocast, or None for fp32."""
        if self.precision == "fp32":
            return None
        if self.precision == "mixed":
            return torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.bfloat16 if self.precision == "bf16" else torch.float16

    def logits(self, crops_BCHW: torch.Tensor) -> torch.Tensor:
        """Classify a batch.

        Args:
            crops_BCHW: uint8, (B, 3, S, S), RGB, on this member's device.

        Returns:
            float32, (B, K), on the device.
        """
        return torch.cat([self._logits(some) for some in torch.split(crops_BCHW, self._at_once)])

    def _logits(self, crops_BCHW: torch.Tensor) -> torch.Tensor:
        inputs = crops_BCHW.to(torch.float32, memory_format=torch.channels_last)
        inputs = inputs.div_(255).sub_(self._mean).div_(self._std)
        dtype = self.low_precision
        if dtype is None:
            return self._forward(inputs)
        with torch.autocast(self.device.type, dtype):
            logits = self._forward(inputs)
        if self.precision == "mixed":
            logits = self._settle_near_ties(logits, inputs, _NEAR_TIE[dtype])
        return logits

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits in float32; a network that cannot be compiled here runs as it is."""
        if (compiled := self._compiled) is not None:
            try:
                return compiled(inputs).float()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - no compiler, or a network that it does not understand
                _log.warning(
                    "%s runs without torch.compile: %s", self.spec.alias, str(error).strip().partition("\n")[0]
                )
                self._compiled = None
        logits: torch.Tensor = self._network(inputs)
        return logits.float()

    def _settle_near_ties(self, logits: torch.Tensor, inputs: torch.Tensor, margin: float) -> torch.Tensor:
        if logits.shape[1] < 2:
            return logits
        best = logits.softmax(dim=1).topk(2, dim=1).values
        clear = best[:, 0] - best[:, 1] >= margin  # NaN, where fp16 overflowed, is not clear either
        near = clear.logical_not().nonzero()[:, 0]
        if len(near):
            logits[near] = self._forward(inputs[near])
        return logits


def _images_at_once(device: torch.device, precision: Precision) -> int:
    """How many images one forward pass takes best.

    On a CPU their activations should stay in a core's own cache: 4 in fp32 and 8 in half the bytes ran up to
    1.5 times as fast as 32, most of all with several threads.
    """
    if device.type != "cpu":
        return 128
    return 4 if precision == "fp32" else 8


def _normalisation(recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.tensor(recipe.mean, device=device).view(1, 3, 1, 1)
    return mean, torch.tensor(recipe.std, device=device).view(1, 3, 1, 1)


def _fused(network: nn.Module) -> nn.Module:
    """The same function with batch norms folded into the convolutions before them, where it can be traced."""
    from torch.fx.experimental.optimization import fuse

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused: nn.Module = fuse(network)
    except Exception as error:  # noqa: BLE001 - tracing fails in as many ways as there are networks
        _log.debug("not fused: %s", error)
        return network
    return fused.eval().requires_grad_(False)
