"""The size of parts where nobody said: small for small and slow jobs, the job's for large and fast ones."""

from __future__ import annotations

import pytest

from pipeline.engines.workload import Share
from pipeline.job import part_sizes
from pipeline.job.part_sizes import estimate_image_s, rows_by_rate, rows_by_total


@pytest.mark.parametrize(
    ("gmacs", "num_cpus", "on_gpu", "least", "most"),
    [
        (1.1, 2, False, 256, 1024),  # two small networks on a laptop
        (4.1, 16, False, 1024, 2048),  # resnet50
        (300, 2, False, 32, 32),  # minutes for a few dozen images
        (16.7, 16, True, 8192, 1 << 20),  # the default members on a GPU
        (1000, 16, True, 128, 256),
    ],
)
def test_a_part_takes_some_seconds_at_the_expected_rate(monkeypatch, gmacs, num_cpus, on_gpu, least, most):
    class Cost:
        macs = int(gmacs * 1e9)

    monkeypatch.setattr(part_sizes, "member_cost", lambda _: Cost)
    image_s = estimate_image_s([None], Share(num_cpus, None, own_process=False), on_gpu=on_gpu)
    assert least <= rows_by_rate(image_s, 1000) <= most
    assert rows_by_rate(image_s, 1000) <= rows_by_rate(image_s, 10_000_000) <= 4 * most


@pytest.mark.parametrize(("images", "rows"), [(0, 32), (216, 32), (512, 32), (513, 64), (2_000, 128), (20_000, 2048)])
def test_a_small_job_has_some_parts(images, rows):
    assert rows_by_total(images) == rows


def test_a_large_job_has_no_more_files_than_before():
    assert rows_by_total(10_000_000) >= 10_000
