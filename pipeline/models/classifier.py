"""One network on one device: crops in, logits out, in the requested precision."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import math
import time

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name the field uses

from pipeline.models.forward import Forward, fold_batch_norms
from pipeline.models.number_formats import Precision, first_format, is_in_hardware
from pipeline.models.preprocessing import Recipe
from pipeline.models.tuning import (
    CPU_BATCH_SIZES,
    GPU_BATCH_SIZES,
    Tuning,
    default_batch_size,
    measure_rate,
    pick_batch_size,
    usual_batch_size,
)
from pipeline.models.weights import MemberSpec, build_network

# With ``mixed``, images whose low-precision top-1 leads by less than a margin are computed again in fp32. The error of
# the lead can change a top-1, so the margin is a multiple of that error's standard deviation, measured for each network
# on pink noise.
_NUM_DEVIATIONS = 2.0
# Photographs had 0.4 to 2.5 times that error. So the margin is also at least this many units in the last place (ulp)
# of the standard deviation of the logits, of which at most a usual one counts.
_MIN_ULPS = 25
_USUAL_SPREAD = 2.0
_MAX_MARGIN = 3.0  # a network that needs a wider margin gains nothing from low precision, and runs in fp32 only
_NUM_PROBES = 8
_STEPS_PER_OCTAVE = (
    4  # margins are rounded up to these steps, so that they are equal on machines that round differently
)

_TRIALS = 3  # the first of which warms up
_WORTH_CAPTURING = 1.03  # speed-up; below it, the memory of the graph is not worth it

_log = logging.getLogger(__name__)


class Classifier:
    """A member of an ensemble, resident on its device.

    Args:
        spec: The member.
        blob: Its tensors, as safetensors bytes.
        device: Device to run on.
        precision: ``fp32``; ``bf16`` or ``fp16``; ``mixed``: the device's low precision first, and fp32 again for
            near ties; fp32 alone on a CPU that lacks bfloat16. Images that overflow in fp16 are computed again in
            fp32 too.
        compiled: Whether to run it through torch.compile.
        batch_size: Images in one forward pass at most; None for what suits the network and the device, measured on
            a GPU. There it is also halved when memory runs out.
        tuning: Finds batch sizes on a CPU.

    Attributes:
        near_tie_margin: Lead of a top-1, in logits, below which ``mixed`` computes an image again; else 0.
    """

    def __init__(
        self,
        spec: MemberSpec,
        blob: bytes,
        device: torch.device,
        precision: Precision,
        *,
        compiled: bool = False,
        batch_size: int | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        if precision == "mixed" and not is_in_hardware(precision, device.type):
            _log.info("%s runs in fp32: this CPU does not compute in bfloat16", spec.alias)
            precision = "fp32"
        self.precision = precision
        network = fold_batch_norms(build_network(spec, blob))
        dtype = self.low_precision or torch.float32
        self._second: Forward | None = None  # None in bf16: it has the range of float32, so nothing overflows
        if precision in {"mixed", "fp16"}:
            few = batch_size or usual_batch_size(device, torch.float32)
            self._second = self._make_forward(copy.deepcopy(network), torch.float32, few)
        self._first = self._make_tuned_forward(network, dtype, batch_size, tuning or Tuning(), compiled=compiled)
        self._scale, self._shift = _scale_and_shift(spec.recipe, device)
        self.near_tie_margin = 0.0
        if self._second is not None and precision == "mixed" and spec.num_classes > 1:
            self.near_tie_margin = self._measure_near_tie_margin(self._second)
            if self.near_tie_margin > _MAX_MARGIN:
                _log.info("%s rounds too badly for %s: it runs in fp32", spec.alias, dtype)
                self._first, self._second = self._second, None
        if batch_size is None and device.type == "cuda" and not compiled:
            self._first.batch_size = pick_batch_size(GPU_BATCH_SIZES, self._measure_batch_size)
            self._capture_if_faster()

    @torch.inference_mode()
    def _measure_near_tie_margin(self, exact: Forward) -> float:
        """Measure the lead of a top-1, in logits, below which low precision may put the wrong class first."""
        pictures = pink_noise(_NUM_PROBES, self.spec.recipe.geometry.crop_px).to(self.device)
        low_BK, exact_BK = (
            torch.cat([forward(some) for some in torch.split(pictures, forward.batch_size)])
            for forward in (self._first, exact)
        )
        top = low_BK.topk(2, dim=1).indices
        change_B2 = low_BK.gather(1, top) - exact_BK.gather(1, top)
        error = float((change_B2[:, 0] - change_B2[:, 1]).std())
        spread = min(float(exact_BK.std(dim=1).mean()), _USUAL_SPREAD)
        least = _MIN_ULPS * torch.finfo(self.low_precision or torch.float32).eps * spread
        return round_up_margin(max(_NUM_DEVIATIONS * error, least))

    def _make_forward(
        self, network: nn.Module, dtype: torch.dtype, batch_size: int, *, compiled: bool = False
    ) -> Forward:
        return Forward(
            network,
            self.device,
            dtype,
            batch_size=batch_size,
            input_px=self.spec.recipe.geometry.crop_px,
            name=self.spec.alias,
            compiled=compiled,
        )

    def _make_tuned_forward(
        self, network: nn.Module, dtype: torch.dtype, batch_size: int | None, tuning: Tuning, *, compiled: bool
    ) -> Forward:
        """Make the forward pass with the best batch size: on a CPU measured or cached, else by rule."""
        if batch_size is None and self.device.type == "cpu" and not compiled:
            make_inputs = functools.cache(pink_noise)  # only where a size is tried: it takes as long as a network

            def images_per_s(size: int) -> float:
                inputs = make_inputs(max(CPU_BATCH_SIZES), self.spec.recipe.geometry.crop_px)
                forward = self._make_forward(copy.deepcopy(network), dtype, size)
                return measure_rate(lambda: forward(inputs[:size]), size, tuning.num_threads)

            batch_size = tuning.best_batch_size(f"{self.spec.arch} {self.spec.num_classes} {dtype}", images_per_s)
        return self._make_forward(
            network, dtype, batch_size or default_batch_size(self.device, dtype, network), compiled=compiled
        )

    def with_recipe(self, recipe: Recipe) -> Classifier:
        """The same network, in shared memory, with another preprocessing."""
        found = copy.copy(self)
        found.spec = dataclasses.replace(self.spec, recipe=recipe)
        found._scale, found._shift = _scale_and_shift(recipe, self.device)
        return found

    @property
    def batch_size(self) -> int:
        """Images in one forward pass at most."""
        return self._first.batch_size

    @property
    def low_precision(self) -> torch.dtype | None:
        """Type of the first pass; None for fp32."""
        return None if self.precision == "fp32" else first_format(self.precision, self.device.type)

    @torch.inference_mode()
    def logits(self, crops_BCHW: torch.Tensor) -> torch.Tensor:
        """Classify a batch.

        Args:
            crops_BCHW: uint8, (B, 3, S, S), 0-255, RGB, on this member's device.

        Returns:
            float32, (B, K), on the device.
        """
        logits_BK, recompute_B = self.first_pass(crops_BCHW)
        if recompute_B is not None:
            where = recompute_B.nonzero()[:, 0]
            if len(where):
                self.second_pass(logits_BK, crops_BCHW, where)
        return logits_BK

    @torch.inference_mode()
    def first_pass(self, crops_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute logits, and which images must be computed again.

        On a GPU this does not wait for the device.

        Args:
            crops_BCHW: uint8, (B, 3, S, S), 0-255, RGB, on this member's device.

        Returns:
            Logits, float32, (B, K), and a mask, bool, (B,); None for the mask if no image is ever computed again.
        """
        logits_BK = self._run(self._first, crops_BCHW)
        if self._second is None:
            return logits_BK, None
        recompute_B = logits_BK.isfinite().all(dim=1).logical_not()
        if self.precision == "mixed":
            recompute_B |= find_near_ties(logits_BK, self.near_tie_margin)
        return logits_BK, recompute_B

    @torch.inference_mode()
    def second_pass(self, logits_BK: torch.Tensor, crops_BCHW: torch.Tensor, where_b: torch.Tensor) -> None:
        """Compute some images of a batch again in fp32, and overwrite their logits.

        Args:
            logits_BK: float32, (B, K), from the first pass; changed.
            crops_BCHW: uint8, (B, 3, S, S), 0-255, RGB, on this member's device.
            where_b: int64, indices of the images.
        """
        assert self._second is not None
        logits_BK[where_b] = self._run(self._second, crops_BCHW[where_b])

    def _run(self, forward: Forward, crops_BCHW: torch.Tensor) -> torch.Tensor:
        """Run a batch in pieces of ``batch_size`` images, which is halved whenever the GPU runs out of memory."""
        while True:
            try:
                return torch.cat(
                    [forward(self._normalise(some)) for some in torch.split(crops_BCHW, forward.batch_size)]
                )
            except torch.OutOfMemoryError:
                if forward.batch_size == 1:
                    raise
                forward.batch_size = (forward.batch_size + 1) // 2
                forward.drop_graph()
                torch.cuda.empty_cache()
                _log.warning("%s: out of memory; %d images at a time from here on", self.spec.alias, forward.batch_size)

    def _measure_batch_size(self, size: int) -> float:
        """Measure images per second with a batch size; 0 if it does not fit in memory."""
        self._first.batch_size = size
        rate = self._measure_rate()
        return rate if self._first.batch_size == size else 0.0

    def _measure_rate(self) -> float:
        """Measure images per second of the first pass on a GPU."""
        side = self.spec.recipe.geometry.crop_px
        crops_BCHW = torch.zeros(max(GPU_BATCH_SIZES), 3, side, side, dtype=torch.uint8, device=self.device)
        seconds = []
        for _ in range(_TRIALS):
            start = time.perf_counter()
            self.first_pass(crops_BCHW)[0].sum().item()  # waits for the device
            seconds.append(time.perf_counter() - start)
        return len(crops_BCHW) / min(seconds)

    def _capture_if_faster(self) -> None:
        """Capture the forward pass as a CUDA graph, and keep the graph if it is faster than single kernels."""
        usual, side = self._measure_rate(), self.spec.recipe.geometry.crop_px
        crops_BCHW = torch.zeros(self._first.batch_size, 3, side, side, dtype=torch.uint8, device=self.device)
        if self._first.capture(self._normalise(crops_BCHW)) and self._measure_rate() < _WORTH_CAPTURING * usual:
            self._first.drop_graph()

    def _normalise(self, crops_BCHW: torch.Tensor) -> torch.Tensor:
        inputs = crops_BCHW.contiguous(memory_format=torch.channels_last).float()
        return torch.addcmul(self._shift, inputs, self._scale)


def pink_noise(batch: int, input_px: int) -> torch.Tensor:
    """Make pictures of pink noise: random structure at every scale, as photographs have it. The seed is fixed.

    Args:
        batch: Number of pictures.
        input_px: Side, pixels.

    Returns:
        float32, (B, 3, S, S), mean about 0, standard deviation 1 for each picture.
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


def find_near_ties(logits_BK: torch.Tensor, min_lead: float) -> torch.Tensor:
    """Find images whose top-1 leads by less than a margin.

    Args:
        logits_BK: float32, (B, K).
        min_lead: The margin, in logits.

    Returns:
        bool, (B,).
    """
    if logits_BK.shape[1] < 2:
        return torch.zeros(len(logits_BK), dtype=torch.bool, device=logits_BK.device)
    first, second = logits_BK.topk(2, dim=1).values.unbind(dim=1)
    return first - second < min_lead


def round_up_margin(margin: float) -> float:
    """Round a margin up to the next of four steps per doubling; infinite if it is not finite."""
    if not math.isfinite(margin):
        return math.inf
    if margin <= 0:
        return 0.0
    return float(2.0 ** (math.ceil(_STEPS_PER_OCTAVE * math.log2(margin)) / _STEPS_PER_OCTAVE))


def _scale_and_shift(recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift that normalise pixels: 0-255 * scale + shift, float32, (1, 3, 1, 1) each."""
    std = torch.tensor(recipe.std, dtype=torch.float64)
    shift = -torch.tensor(recipe.mean, dtype=torch.float64) / std
    scale, shift = (values.to(device, torch.float32).view(1, 3, 1, 1) for values in (1 / (255 * std), shift))
    return scale, shift
