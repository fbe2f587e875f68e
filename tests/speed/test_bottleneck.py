"""From rates to limit, bottleneck and advice: arithmetic on given numbers."""

from __future__ import annotations

import pytest
from made_up_rates import on_cpu, on_gpu, rates, stage

from pipeline.speed.bottleneck import find_bottleneck


def test_on_a_cpu_the_limit_is_what_the_cores_do_together():
    found = find_bottleneck(on_cpu(job=40.0))
    assert found.limit_images_per_s == pytest.approx(4000 / 34)
    assert found.job_images_per_s == pytest.approx(100)
    assert found.share == pytest.approx(34 / 40)
    assert found.bottleneck == "forward"


def test_the_share_is_taken_round_by_round():
    """A machine that slows down for a round slows the job and its limit alike."""
    limits, jobs = (100.0, 50.0, 100.0), (98.0, 49.0, 98.0)
    given = [s for s in on_cpu().stages if s.stage not in {"limit", "job"}]
    found = find_bottleneck(rates(*given, stage("limit", 34.0, rounds=limits), stage("job", 34.0, rounds=jobs)))
    assert found.share == pytest.approx(0.98)


def test_sharing_compares_the_whole_with_its_parts():
    found = find_bottleneck(on_cpu()).sharing
    assert (found.together_ms, found.apart_ms) == (34.0, 33.0)
    assert found.overhead == pytest.approx(1 / 33)
    assert found.hash_share == pytest.approx(0.17 / 34.18)
    assert found.write_share == pytest.approx(0.01 / 34.18)


def test_the_stage_with_the_most_core_time_is_the_bottleneck():
    assert find_bottleneck(on_cpu(decode=40.0, limit=71.0)).bottleneck == "decode"
    assert find_bottleneck(on_cpu(read=50.0)).bottleneck == "read"


def test_the_interpreter_is_named_where_one_labeler_cannot_carry_more():
    found = find_bottleneck(on_gpu(stage("host", 4.0)))
    assert found.bottleneck == "host"
    assert "one labeler's interpreter carries 1,000.0 images/s with 4 threads: several labelers" in found.advice[0]
    assert find_bottleneck(on_gpu(stage("host", 2.0))).bottleneck == "decode"


def test_dropping_the_costliest_member_is_advised():
    advice = find_bottleneck(on_cpu()).advice
    then = 4000 / 34 * 34 / 14
    assert f"without a: a limit of {then:,.1f} images/s, 2.43 times this one" in advice
    assert not any("without b" in line for line in advice)


def test_a_faster_precision_is_named_with_its_price():
    faster = [stage("forward", ms, "bf16", name, configured=False) for ms, name in ((10, "a"), (5, "b"))]
    slower = [stage("forward", ms, "mixed", name, configured=False) for ms, name in ((30, "a"), (9, "b"))]
    advice = find_bottleneck(on_cpu(*faster, *slower)).advice
    assert "--precision bf16: a limit of 210.5 images/s, 1.79 times this one" in advice[0]
    assert "changes the top-1" in advice[0]
    assert not any("mixed" in line for line in advice)


def test_fast_decoding_is_advised_only_where_it_gains():
    gains = find_bottleneck(on_cpu(stage("decode", 10.0, "fast", configured=False), decode=40.0, limit=71.0)).advice
    assert any(line.startswith("--decode fast: a limit of 97.6 images/s") for line in gains)
    same = find_bottleneck(on_cpu(stage("decode", 2.0, "fast", configured=False))).advice
    assert not any("--decode fast" in line for line in same)


def test_idle_cpus_and_bigger_batches_and_slow_reading_are_named():
    bigger = stage("ensemble", 20.0, "batch 32", configured=False)
    given = on_cpu(bigger)
    assert "--batch-size 32: the members together run 1.50 times as fast" in find_bottleneck(given).advice
    few = rates(*given.stages, num_threads=4, num_cpus=16)
    assert "--decode-threads auto: 16 CPUs are here, 4 are used" in find_bottleneck(few).advice
    assert find_bottleneck(on_cpu(read=50.0)).advice[0].startswith("reading gives 80.0 images/s (8 MB/s)")


def test_a_job_below_its_limit_says_so():
    assert any("stays 15% below its limit" in line for line in find_bottleneck(on_cpu(job=40.0)).advice)
    assert not any("below its limit" in line for line in find_bottleneck(on_cpu()).advice)


def test_on_a_gpu_the_slower_of_cores_and_device_is_the_limit():
    found = find_bottleneck(on_gpu())
    assert found.limit_images_per_s == pytest.approx(4000 / 3)
    assert found.bottleneck == "decode"
    assert any(line.startswith("more cores: 10 cores per GPU") for line in found.advice)
    assert found.sharing.together_ms == pytest.approx(0.3)
    assert found.sharing.overhead == pytest.approx(0.0)
    assert not any("without a" in line for line in found.advice)


def test_on_a_gpu_that_is_busy_the_members_are_what_to_change():
    found = find_bottleneck(on_gpu(a=2.0, b=1.0, ensemble=3.0))
    assert found.limit_images_per_s == pytest.approx(1000 / 3)
    assert found.bottleneck == "forward"
    assert "without a: a limit of 1,000.0 images/s, 3.00 times this one" in found.advice
    fast = find_bottleneck(on_gpu(stage("decode", 0.5, "fast", configured=False)))
    assert any(line.startswith("--decode fast: a limit of 2,666.7") for line in fast.advice)


def test_one_member_is_not_to_be_dropped():
    given = [s for s in on_cpu().stages if s.member != "b"]
    assert not any("without" in line for line in find_bottleneck(rates(*given)).advice)


def test_decoding_on_the_gpu_is_advised_where_the_cores_bind():
    tried = stage("prepare", 0.5, "GPU decode + resize", configured=False)
    assert any(line.startswith("--decode gpu: a limit of") for line in find_bottleneck(on_gpu(tried)).advice)
    assert not any("--decode gpu" in line for line in find_bottleneck(on_gpu()).advice)
    no_faster = stage("prepare", 4.0, "GPU decode + resize", configured=False)
    assert not any("--decode gpu" in line for line in find_bottleneck(on_gpu(no_faster)).advice)
