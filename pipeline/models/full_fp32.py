"""fp32 that is fp32: TF32 off for convolutions and for matrix products, and the caller's setting back afterwards.

TF32 rounds as coarsely as fp16, so that computing in "fp32" would not decide near ties. It is cuDNN's default, and
NVIDIA's containers switch it on for cuBLAS as well (``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1``). The switches belong to the
process, not to a network.
"""

from __future__ import annotations

import threading
from typing import Any

import torch


class FullFp32:
    """Switches TF32 off while anyone wants it so. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_holding = 0
        self._on_before = (False, False)

    def hold(self) -> None:
        """Switch TF32 off, until :meth:`release` was called as often."""
        with self._lock:
            if self._num_holding == 0:
                self._on_before = tf32_in_force()
            self._num_holding += 1
            _switch(convolutions=False, matmul=False)

    def release(self) -> None:
        """Undo a call of :meth:`hold`; the last one restores what was set before the first."""
        with self._lock:
            self._num_holding -= 1
            if self._num_holding == 0:
                convolutions, matmul = self._on_before
                _switch(convolutions=convolutions, matmul=matmul)


FULL_FP32 = FullFp32()


def tf32_in_force() -> tuple[bool, bool]:
    """Whether TF32 is on, by whichever switch: for convolutions, and for matrix products."""
    convolutions, matmul = _newer_switches()
    return convolutions.fp32_precision == "tf32", matmul.fp32_precision == "tf32"


def _newer_switches() -> tuple[Any, Any]:
    return torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]  # set when torch loads


def _switch(*, convolutions: bool, matmul: bool) -> None:
    # The older switches first: after a newer one was used, reading them raises, and torch's compiler reads them. But
    # the older one may do nothing for convolutions then (findings/torch-tf32-switches), so what is in force decides.
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = matmul
    for switch, wanted in zip(_newer_switches(), (convolutions, matmul), strict=True):
        if (switch.fp32_precision == "tf32") != wanted:
            switch.fp32_precision = "tf32" if wanted else "ieee"
