"""Rates that were never measured, for tests of what follows from rates."""

from __future__ import annotations

from pipeline.speed.rates import Rates, StageRate

THREADS = 4


def stage(name: str, ms: float, what: str = "", member: str = "", configured: bool = True, rounds=None, cores=THREADS):
    rate = 1000 * cores / ms
    return StageRate(name, what, member, rate, 0.0, ms, tuple(rounds or [rate] * 3), configured)


def rates(*stages: StageRate, device: str = "cpu", num_threads: int = THREADS, num_cpus: int = THREADS) -> Rates:
    return Rates(
        device=device,
        precision="fp32",
        compiled=False,
        fast_decode=False,
        num_threads=num_threads,
        num_cpus=num_cpus,
        members=tuple(s.member for s in stages if s.stage == "forward" and s.configured),
        num_geometries=1,
        images=64,
        bytes_per_image=100_000.0,
        row_bytes=200.0,
        part_bytes=9000.0,
        stages=stages,
    )


def on_cpu(*more: StageRate, decode=2.0, resize=1.0, a=20.0, b=10.0, limit=34.0, job=34.0, read=0.1) -> Rates:
    return rates(
        stage("read", read),
        stage("hash", 0.17),
        stage("decode", decode, "exact"),
        stage("resize", resize, "256 to 224"),
        stage("forward", a, "fp32", "a"),
        stage("forward", b, "fp32", "b"),
        stage("ensemble", a + b),
        stage("write", 0.01, cores=1),
        stage("limit", limit),
        stage("job", job),
        *more,
    )


def on_gpu(*more: StageRate, decode=2.0, resize=1.0, prepare=3.0, a=0.2, b=0.1, ensemble=0.3) -> Rates:
    return rates(
        stage("read", 0.1),
        stage("hash", 0.1),
        stage("decode", decode, "exact"),
        stage("resize", resize, "256 to 224"),
        stage("prepare", prepare),
        stage("forward", a, "fp32", "a", cores=1),
        stage("forward", b, "fp32", "b", cores=1),
        stage("ensemble", ensemble, cores=1),
        stage("write", 0.01, cores=1),
        stage("job", 3.3),
        *more,
        device="cuda",
    )
