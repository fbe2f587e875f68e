"""One network on one device: crops in, logits out, in the precision that was asked for."""

from __future__ import annotations

import copy
import logging
import math
import time
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name the field uses

from pipeline.models.forward import Forward, folded
from pipeline.models.recipe import Recipe
from pipeline.models.tuning import (
    CPU_SIZES,
    GPU_SIZES,
    Tuning,
    default_size,
    rate_on_lanes,
    smallest_of_the_best,
    usual_size,
)
from pipeline.models.weights import MemberSpec, network_from_blob

Precision = Literal["fp32", "mixed", "bf16", "fp16"]

# Under ``mixed``, images whose low-precision top-1 leads by less than a margin are computed again in fp32. What can
# turn a top-1 is the error of its lead, so the margin follows that error, which is the network's own: so many of its
# standard deviations on made-up pictures. Photographs were seen to have 0.4 to 2.5 times that error, so the margin ...
_NUM_DEVIATIONS = 2.0
# ... is also no less than so many units in the last place of the spread of its logits, or of a usual one's.
_MIN_UNITS = 25
_USUAL_SPREAD = 2.0
_HOPELESS_LEAD = 3.0  # a network that needs a wider margin gains nothing from low precision: it runs in fp32 alone
_NUM_PROBES = 8
_STEPS_PER_OCTAVE = 4  # margins are rounded up to such steps: the same on machines that round a little differently

_TRIALS = 3  # the first of which warms up
_WORTH_RECORDING = 1.03  # times as fast, or the memory it keeps is better used otherwise

_log = logging.getLogger(__name__)


class Classifier:
    """A member of an ensemble, resident on its device.

    Args:
        spec: What it is.
        blob: Its tensors, as safetensors bytes.
        device: Where it lives.
        precision: ``fp32``; ``bf16`` or ``fp16``; ``mixed``: the device's low precision first, and fp32 again for
            near ties. What overflows in fp16 is computed again in fp32 too.
        compiled: Whether to run it through torch.compile.
        at_once: Images in one forward pass at most; None for what suits the network and the device, which on a GPU is
            found by trying. There it is also halved where memory runs out.
        tuning: What is known, and may be tried, on a CPU.
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
        tuning: Tuning | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.precision = precision
        network = folded(network_from_blob(spec, blob))
        dtype = self.low_precision or torch.float32
        self._again: Forward | None = None  # bfloat16 has the range of float32: nothing overflows
        if precision in {"mixed", "fp16"}:
            few = at_once or usual_size(device, torch.float32)
            self._again = self._form(copy.deepcopy(network), torch.float32, few)
        self._first = self._best_form(network, dtype, at_once, tuning or Tuning(), compiled=compiled)
        self._scale, self._shift = _normalisation(spec.recipe, device)
        self.min_logit_lead = 0.0
        if self._again is not None and precision == "mixed" and spec.num_classes > 1:
            self.min_logit_lead = self._near_tie(self._again)
            if self.min_logit_lead > _HOPELESS_LEAD:
                _log.info("%s rounds too badly for %s: it runs in fp32", spec.alias, dtype)
                self._first, self._again = self._again, None
        if at_once is None and device.type == "cuda" and not compiled:
            self._first.at_once = smallest_of_the_best(GPU_SIZES, self._try)
            self._record_if_faster()

    @torch.inference_mode()
    def _near_tie(self, exact: Forward) -> float:
        """The lead of a top-1, in logits, below which low precision may have put the wrong class first."""
        pictures = octaves(_NUM_PROBES, self.spec.recipe.geometry.crop_px).to(self.device)
        low_BK, exact_BK = (
            torch.cat([form(some) for some in torch.split(pictures, form.at_once)]) for form in (self._first, exact)
        )
        top = low_BK.topk(2, dim=1).indices
        change_B2 = low_BK.gather(1, top) - exact_BK.gather(1, top)
        error = float((change_B2[:, 0] - change_B2[:, 1]).std())
        spread = min(float(exact_BK.std(dim=1).mean()), _USUAL_SPREAD)
        least = _MIN_UNITS * torch.finfo(self.low_precision or torch.float32).eps * spread
        return rounded_up(max(_NUM_DEVIATIONS * error, least))

    def _form(self, network: nn.Module, dtype: torch.dtype, at_once: int, *, compiled: bool = False) -> Forward:
        return Forward(
            network,
            self.device,
            dtype,
            at_once=at_once,
            input_px=self.spec.recipe.geometry.crop_px,
            name=self.spec.alias,
            compiled=compiled,
        )

    def _best_form(
        self, network: nn.Module, dtype: torch.dtype, at_once: int | None, tuning: Tuning, *, compiled: bool
    ) -> Forward:
        """The network in a form for as many images as suit it, on a CPU as was found by trying where it was tried."""
        if at_once is None and self.device.type == "cpu" and not compiled:
            inputs = octaves(max(CPU_SIZES), self.spec.recipe.geometry.crop_px)

            def images_per_s(size: int) -> float:
                form = self._form(copy.deepcopy(network), dtype, size)
                return rate_on_lanes(lambda: form(inputs[:size]), size, tuning.num_lanes)

            at_once = tuning.size(f"{self.spec.arch} {self.spec.num_classes} {dtype}", images_per_s)
        return self._form(network, dtype, at_once or default_size(self.device, dtype, network), compiled=compiled)

    @property
    def at_once(self) -> int:
        """Images in one forward pass at most."""
        return self._first.at_once

    @property
    def low_precision(self) -> torch.dtype | None:
        """The number format of the first pass, or None for fp32."""
        if self.precision == "fp32":
            return None
        if self.precision == "mixed":
            return torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.bfloat16 if self.precision == "bf16" else torch.float16

    @torch.inference_mode()
    def logits(self, crops_BCHW: torch.Tensor) -> torch.Tensor:
        """Classify a batch.

        Args:
            crops_BCHW: uint8, (B, 3, S, S), RGB, on this member's device.

        Returns:
            float32, (B, K), on the device.
        """
        logits_BK, again_B = self.first_pass(crops_BCHW)
        if again_B is not None:
            where = again_B.nonzero()[:, 0]
            if len(where):
                self.second_pass(logits_BK, crops_BCHW, where)
        return logits_BK

    @torch.inference_mode()
    def first_pass(self, crops_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits, and which images should be computed again, bool, (B,); None where none ever is.

        On a GPU nothing here waits for the device.
        """
        logits_BK = self._run(self._first, crops_BCHW)
        if self._again is None:
            return logits_BK, None
        again_B = logits_BK.isfinite().all(dim=1).logical_not()
        if self.precision == "mixed":
            again_B |= near_ties(logits_BK, self.min_logit_lead)
        return logits_BK, again_B

    @torch.inference_mode()
    def second_pass(self, logits_BK: torch.Tensor, crops_BCHW: torch.Tensor, where_b: torch.Tensor) -> None:
        """Compute some images of a batch again in fp32, and put their logits in place of the first ones."""
        assert self._again is not None
        logits_BK[where_b] = self._run(self._again, crops_BCHW[where_b])

    def _run(self, form: Forward, crops_BCHW: torch.Tensor) -> torch.Tensor:
        """All of a batch, a few images at a time; fewer from then on where the GPU's memory does not suffice."""
        while True:
            try:
                return torch.cat([form(self._normalised(some)) for some in torch.split(crops_BCHW, form.at_once)])
            except torch.OutOfMemoryError:
                if form.at_once == 1:
                    raise
                form.at_once = (form.at_once + 1) // 2
                form.forget_recording()
                torch.cuda.empty_cache()
                _log.warning("%s: out of memory; %d images at a time from here on", self.spec.alias, form.at_once)

    def _try(self, size: int) -> float:
        """Images per second with so many in each forward pass; 0 if they do not fit in memory."""
        self._first.at_once = size
        rate = self._rate()
        return rate if self._first.at_once == size else 0.0

    def _rate(self) -> float:
        """Images per second of the first pass on a GPU."""
        side = self.spec.recipe.geometry.crop_px
        crops_BCHW = torch.zeros(max(GPU_SIZES), 3, side, side, dtype=torch.uint8, device=self.device)
        seconds = []
        for _ in range(_TRIALS):
            begun = time.perf_counter()
            self.first_pass(crops_BCHW)[0].sum().item()  # waits for the device
            seconds.append(time.perf_counter() - begun)
        return len(crops_BCHW) / min(seconds)

    def _record_if_faster(self) -> None:
        """Replay recorded passes where launching kernels one by one is what takes the time."""
        usual, side = self._rate(), self.spec.recipe.geometry.crop_px
        crops_BCHW = torch.zeros(self._first.at_once, 3, side, side, dtype=torch.uint8, device=self.device)
        if self._first.record(self._normalised(crops_BCHW)) and self._rate() < _WORTH_RECORDING * usual:
            self._first.forget_recording()

    def _normalised(self, crops_BCHW: torch.Tensor) -> torch.Tensor:
        inputs = crops_BCHW.contiguous(memory_format=torch.channels_last).float()
        return torch.addcmul(self._shift, inputs, self._scale)


def octaves(batch: int, input_px: int) -> torch.Tensor:
    """Made-up pictures with structure at every scale, as photographs have it: seeded noise of falling amplitude.

    Args:
        batch: How many.
        input_px: Side.

    Returns:
        float32, (B, 3, S, S), mean about 0, standard deviation 1.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(batch, 3, input_px, input_px)
    side = 2
    while side <= input_px // 2:
        coarse = torch.randn(batch, 3, side, side, generator=generator) * (2 / side) ** 0.6
        pictures += F.interpolate(coarse, size=(input_px, input_px), mode="bicubic", align_corners=False)
        side *= 2
    pictures /= pictures.std(dim=(1, 2, 3), keepdim=True)
    return pictures.contiguous(memory_format=torch.channels_last)


def near_ties(logits_BK: torch.Tensor, min_lead: float) -> torch.Tensor:
    """Which images have a top-1 that another class nearly has.

    Args:
        logits_BK: float32, (B, K).
        min_lead: Lead in logits below which it is one.

    Returns:
        bool, (B,).
    """
    if logits_BK.shape[1] < 2:
        return torch.zeros(len(logits_BK), dtype=torch.bool, device=logits_BK.device)
    first, second = logits_BK.topk(2, dim=1).values.unbind(dim=1)
    return first - second < min_lead


def rounded_up(margin: float) -> float:
    """The next step above, on a scale of four steps to a doubling; infinite for what is no number."""
    if not math.isfinite(margin):
        return math.inf
    if margin <= 0:
        return 0.0
    return float(2.0 ** (math.ceil(_STEPS_PER_OCTAVE * math.log2(margin)) / _STEPS_PER_OCTAVE))


def _normalisation(recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What turns 0-255 into what the network expects: x * scale + shift."""
    std = torch.tensor(recipe.std, dtype=torch.float64)
    shift = -torch.tensor(recipe.mean, dtype=torch.float64) / std
    scale, shift = (values.to(device, torch.float32).view(1, 3, 1, 1) for values in (1 / (255 * std), shift))
    return scale, shift
