"""One network on one device: crops in, logits out, in the requested precision."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name the field uses

from pipeline.models.device_errors import is_out_of_memory
from pipeline.models.forward import Forward, fold_batch_norms, pad
from pipeline.models.graphs import graph_memory_of
from pipeline.models.number_formats import Precision, first_format, is_in_hardware
from pipeline.models.preprocessing import Recipe
from pipeline.models.tuning import (
    CPU_BATCH_SIZES,
    Tuning,
    default_batch_size,
    measure_rate,
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
        batch_size: Images in one forward pass at most; None for what suits the network and the device. On a GPU it
            is halved when memory runs out.
        tuning: Finds batch sizes on a CPU.

    Attributes:
        near_tie_margin: Lead of a top-1, in logits, below which ``mixed`` computes an image again; else 0. On a GPU it
            is measured by :meth:`warm_up`.
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
        self._graphs = graph_memory_of(device)
        network = fold_batch_norms(build_network(spec, blob))
        dtype = self.low_precision or torch.float32
        self._second: Forward | None = None  # None in bf16: it has the range of float32, so nothing overflows
        if precision in {"mixed", "fp16"}:
            few = batch_size or usual_batch_size(device, torch.float32)
            self._second = self._make_forward(copy.deepcopy(network), torch.float32, few)
        self._first = self._make_tuned_forward(network, dtype, batch_size, tuning or Tuning(), compiled=compiled)
        self._scale, self._shift = _scale_and_shift(spec.recipe, device)
        self.near_tie_margin = 0.0
        self._is_warm = self._graphs is None
        if self._is_warm:
            self._settle_near_ties()

    def warm_up(self) -> None:
        """On a GPU, capture the passes as CUDA graphs, and measure the margin with them; elsewhere nothing.

        To be called in the thread that will compute. The first pass does it where nobody has.

        Raises:
            RuntimeError: The device has failed.
        """
        if self._graphs is None:
            return
        with self._graphs.lock:
            if not self._is_warm:
                self._first.capture()
                if self._second is not None:
                    self._second.capture()
                self._settle_near_ties()
                self._is_warm = True

    def _settle_near_ties(self) -> None:
        """Measure the margin, and run in fp32 alone where it would be too wide."""
        if self._second is None or self.precision != "mixed" or self.spec.num_classes < 2:
            return
        self.near_tie_margin = self._measure_near_tie_margin(self._second)
        if self.near_tie_margin > _MAX_MARGIN:
            _log.info("%s rounds too badly for %s: it runs in fp32", self.spec.alias, self.low_precision)
            self._first, self._second = self._second, None

    @torch.inference_mode()
    def _measure_near_tie_margin(self, exact: Forward) -> float:
        """Measure the lead of a top-1, in logits, below which low precision may put the wrong class first."""
        pictures = pink_noise(_NUM_PROBES, self.spec.recipe.geometry.crop_px).to(self.device)
        low_BK, exact_BK = (self._run_full(forward, pictures) for forward in (self._first, exact))
        top = low_BK.topk(2, dim=1).indices
        change_B2 = low_BK.gather(1, top) - exact_BK.gather(1, top)
        error = float((change_B2[:, 0] - change_B2[:, 1]).std())
        spread = min(float(exact_BK.std(dim=1).mean()), _USUAL_SPREAD)
        least = _MIN_ULPS * torch.finfo(self.low_precision or torch.float32).eps * spread
        return round_up_margin(max(_NUM_DEVIATIONS * error, least))

    def _run_full(self, forward: Forward, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        """Run a few images, on a GPU in full passes: passes of another size may round in another way."""

        def run() -> torch.Tensor:
            found = []
            for some in torch.split(inputs_BCHW, forward.batch_size):
                size = len(some) if self._graphs is None else forward.batch_size
                found.append(forward(pad(some, size))[: len(some)])
            return torch.cat(found)

        return self._with_less_at_once(forward, run)

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
            graphs=self._graphs,
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
        self.warm_up()
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
        """Run a batch in passes of at most ``batch_size`` images."""

        def run() -> torch.Tensor:
            pieces = torch.split(crops_BCHW, forward.split(len(crops_BCHW)))
            return torch.cat([forward(self._normalise(some)) for some in pieces])

        return self._with_less_at_once(forward, run)

    def _with_less_at_once(self, forward: Forward, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Run a forward pass, again with half the ``batch_size`` whenever the GPU runs out of memory."""
        while True:
            try:
                return run()
            except RuntimeError as error:
                if not is_out_of_memory(error) or forward.batch_size == 1:
                    raise
            forward.shrink()  # when the error is gone, whose traceback holds tensors
            torch.cuda.empty_cache()
            _log.warning("%s: out of memory; %d images at a time from here on", self.spec.alias, forward.batch_size)

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
