"""What an error of a GPU means: too little memory, which is tried again with less, or a device that is lost.

Not every lack of memory is torch's OutOfMemoryError: cuDNN and cuBLAS have words of their own for it. After an illegal
access, an uncorrectable memory error or the loss of the GPU, each later call of the process fails as well.
"""

from __future__ import annotations

import re

import torch

_TOO_LITTLE_MEMORY = re.compile(
    r"out of memory|ALLOC_FAILED|ALLOCATION_FAILED|unable to find an engine to execute|unable to find a valid cuDNN",
    re.IGNORECASE,
)
_FROM_THE_DEVICE = re.compile(r"CUDA(?: driver)? error|device-side assert|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU has too little memory, by whichever library."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _TOO_LITTLE_MEMORY.search(str(error)) is not None


def is_device_failure(error: BaseException) -> bool:
    """Whether an error says that a GPU can no longer be used by this process."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or _FROM_THE_DEVICE.search(str(error)) is not None
