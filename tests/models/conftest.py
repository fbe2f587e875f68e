"""What the tests of networks share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def with_bfloat16():
    """``mixed`` rounds as on a CPU that computes in bfloat16, on any CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.models.classifier.is_in_hardware", lambda *_: True)
        yield
