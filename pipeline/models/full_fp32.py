"""fp32 that is fp32: TF32 off for convolutions and for matrix products, and the caller's setting back afterwards.

TF32 rounds as coarsely as fp16, so that computing in "fp32" would not decide near ties. It is cuDNN's default, and
NVIDIA's containers switch it on for cuBLAS as well (``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1``). The switches belong to the
process, not to a network.
"""

from __future__ import annotations

import threading

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
    return torch.backends.cudnn.conv.fp32_precision == "tf32", torch.backends.cuda.matmul.fp32_precision == "tf32"


def _switch(*, convolutions: bool, matmul: bool) -> None:
    # The older switches first: after a newer one was used, reading them raises, and torch's compiler reads them. But
    # the older one may do nothing for convolutions then (findings/torch-tf32-switches), so what is in force decides.
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = matmul
    for backend, wanted in ((torch.backends.cudnn.conv, convolutions), (torch.backends.cuda.matmul, matmul)):
        if (backend.fp32_precision == "tf32") != wanted:
            backend.fp32_precision = "tf32" if wanted else "ieee"
