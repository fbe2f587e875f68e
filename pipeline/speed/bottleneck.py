"""The bottleneck of a job from measured rates: the limit, how close the job comes to it, and what would help.

Pure arithmetic. On a CPU each core takes images from bytes to probabilities, so the limit is decoding plus all members,
on all cores, with the images in memory. On a GPU it is the slower of two stages that run at the same time: decoding and
resizing on the cores, and the members on the device.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from pipeline.speed.rates import Rates, StageRate

_MIN_GAIN = 1.05
_NEAR_LIMIT = 0.95


@dataclass(frozen=True, slots=True)
class Sharing:
    """The cost of all members together, against the sum of each stage alone.

    Attributes:
        together_ms: Milliseconds per image for one decode, the distinct resizes and all members; on a GPU, for the
            members on the device.
        apart_ms: Sum of the same stages measured alone, milliseconds per image.
        overhead: ``together / apart - 1``, the median of the rounds.
        hash_share, write_share: Share of hashing, and of writing Parquet, in the CPU time of an image, 0-1.
    """

    together_ms: float
    apart_ms: float
    overhead: float
    hash_share: float
    write_share: float


@dataclass(frozen=True, slots=True)
class BottleneckAnalysis:
    """The limit and the bottleneck of a job.

    Attributes:
        limit_images_per_s: The rate that decoding and the members allow.
        limit_by: What sets this limit.
        job_images_per_s: Rate of the whole job.
        share: Job over limit, the median of the rounds.
        bottleneck: ``read``, ``host``, ``decode`` or ``forward``.
        advice: Options that would raise the limit, and the limit with each.
        sharing: The cost of several members.
    """

    limit_images_per_s: float
    limit_by: str
    job_images_per_s: float
    share: float
    bottleneck: str
    advice: tuple[str, ...]
    sharing: Sharing


BOTTLENECKS = {
    "read": "reading the inputs",
    "host": "the interpreter of one labeler: reading, hashing, queues and Parquet beside all of its threads",
    "decode": "decoding and resizing on the CPU cores",
    "forward": "the members' forward passes",
}


def find_bottleneck(rates: Rates) -> BottleneckAnalysis:
    """Find the limit and the bottleneck of a job, and what would help.

    Args:
        rates: Of all stages and of the job.
    """
    limits = _limits(rates)
    limit = statistics.median(limits)
    job = rates.one("job")
    bottleneck = _bottleneck(rates, limit)
    share = statistics.median(done / best for done, best in zip(job.rounds, limits, strict=True))
    return BottleneckAnalysis(
        limit_images_per_s=limit,
        limit_by=_limit_by(rates),
        job_images_per_s=job.images_per_s,
        share=share,
        bottleneck=bottleneck,
        advice=tuple(_advice(rates, bottleneck, limit, share)),
        sharing=_sharing(rates),
    )


def _on_gpu(rates: Rates) -> bool:
    return rates.device == "cuda"


def _limits(rates: Rates) -> list[float]:
    """The limit of each round, images/s."""
    if not _on_gpu(rates):
        return list(rates.one("limit").rounds)
    pairs = zip(rates.one("prepare").rounds, rates.one("ensemble").rounds, strict=True)
    return [min(pair) for pair in pairs]


def _limit_by(rates: Rates) -> str:
    if not _on_gpu(rates):
        return f"decode, resize and all members on {rates.num_threads} threads, images in memory"
    prepare, ensemble = rates.one("prepare").images_per_s, rates.one("ensemble").images_per_s
    return (
        f"the slower of decode and resize on {rates.num_threads} threads ({prepare:,.1f} images/s) "
        f"and all members on the GPU ({ensemble:,.1f})"
    )


def _sum_ms(stages: list[StageRate]) -> float:
    return sum(stage.ms_per_image for stage in stages)


def _decode_ms(rates: Rates) -> float:
    return _sum_ms(rates.all_of("decode")) + _sum_ms(rates.all_of("resize"))


def _bottleneck(rates: Rates, limit: float) -> str:
    if rates.one("read").images_per_s < limit:
        return "read"
    if any(host.images_per_s < limit for host in rates.all_of("host")):
        return "host"
    if _on_gpu(rates):
        slower = rates.one("prepare").images_per_s < rates.one("ensemble").images_per_s
    else:
        slower = _decode_ms(rates) > _sum_ms(rates.all_of("forward"))
    return "decode" if slower else "forward"


def _sharing(rates: Rates) -> Sharing:
    members = rates.all_of("forward")
    on_cores = [*rates.all_of("decode"), *rates.all_of("resize")]
    whole = rates.one("ensemble" if _on_gpu(rates) else "limit")
    parts = members if _on_gpu(rates) else [*on_cores, *members]
    # by round, like the share of the limit: other load on the machine slows both
    apart_s = [
        sum(1 / seen for seen in round_rates) for round_rates in zip(*(part.rounds for part in parts), strict=True)
    ]
    overhead = statistics.median(1 / seen / apart for seen, apart in zip(whole.rounds, apart_s, strict=True)) - 1
    hashing, writing = rates.one("hash").ms_per_image, rates.one("write").ms_per_image
    cores = _sum_ms(on_cores if _on_gpu(rates) else [whole]) + hashing + writing
    return Sharing(whole.ms_per_image, _sum_ms(parts), overhead, hashing / cores, writing / cores)


# -- advice -----------------------------------------------------------------------------------------------


def _advice(rates: Rates, bottleneck: str, limit: float, share: float) -> list[str]:
    advice: list[str] = []
    if bottleneck == "read":
        read = rates.one("read")
        advice.append(
            f"reading gives {read.images_per_s:,.1f} images/s ({read.images_per_s * rates.bytes_per_image / 1e6:,.0f} "
            "MB/s): bring the inputs nearer, or spread the job over more machines"
        )
    if bottleneck == "host":
        host = rates.one("host")
        advice.append(
            f"one labeler's interpreter carries {host.images_per_s:,.1f} images/s with {rates.num_threads} threads: "
            "several labelers with fewer threads each carry more (--engine ray --workers N)"
        )
    if rates.num_threads < rates.num_cpus and not (_on_gpu(rates) and bottleneck == "forward"):
        advice.append(f"--decode-threads auto: {rates.num_cpus} CPUs are here, {rates.num_threads} are used")
    if bottleneck == "decode" and _on_gpu(rates):
        advice += [_cores_to_match(rates), *_gpu_decode(rates, limit)]
    advice += _faster_decode(rates, limit, bottleneck)
    if bottleneck == "forward" or not _on_gpu(rates):
        advice += [*_other_precisions(rates, limit), *_without_costliest(rates, limit), *_bigger_batch(rates)]
    if bottleneck not in {"read", "host"} and share < _NEAR_LIMIT:
        advice.append(
            f"the job stays {1 - share:.0%} below its limit: short inputs leave cores idle at their ends "
            "(the job rate of a long run is higher), or something else keeps this machine busy"
        )
    return advice


def _cores_to_match(rates: Rates) -> str:
    needed = rates.num_threads * rates.one("ensemble").images_per_s / rates.one("prepare").images_per_s
    return f"more cores: {needed:,.0f} cores per GPU would decode as fast as it runs the members"


def _gpu_decode(rates: Rates, limit: float) -> list[str]:
    """The limit with decoding on the GPU, where that was measured; the members lose some GPU time to it."""
    tried = [stage for stage in rates.stages if stage.stage == "prepare" and not stage.configured]
    new_limit = min((stage.images_per_s for stage in tried if stage.what.startswith("GPU")), default=0.0)
    new_limit = min(new_limit, rates.one("ensemble").images_per_s)
    return [_gain("--decode gpu", new_limit, limit) + " at most"] if new_limit > _MIN_GAIN * limit else []


def _cpu_limit_with_saving(rates: Rates, limit: float, saved_ms: float) -> float:
    """The limit on a CPU if an image took so many milliseconds less, images/s."""
    total = rates.one("limit").ms_per_image
    return limit * total / max(total - saved_ms, total / 1000)


def _faster_decode(rates: Rates, limit: float, bottleneck: str) -> list[str]:
    fast = next((stage for stage in rates.stages if stage.stage == "decode" and not stage.configured), None)
    if fast is None:
        return []
    saved = rates.one("decode").ms_per_image - fast.ms_per_image
    if _on_gpu(rates):
        if bottleneck != "decode":
            return []
        prepare = rates.one("prepare")
        new_limit = prepare.images_per_s * prepare.ms_per_image / max(prepare.ms_per_image - saved, 0.001)
        new_limit = min(new_limit, rates.one("ensemble").images_per_s)
    else:
        new_limit = _cpu_limit_with_saving(rates, limit, saved)
    return [_gain("--decode fast", new_limit, limit)] if new_limit > _MIN_GAIN * limit else []


def _gain(what: str, new_limit: float, limit: float) -> str:
    return f"{what}: a limit of {new_limit:,.1f} images/s, {new_limit / limit:.2f} times this one"


def _limit_with_cheaper_members(rates: Rates, limit: float, saved_ms: float) -> float:
    """The limit if the members took so many milliseconds less per image, images/s."""
    if not _on_gpu(rates):
        return _cpu_limit_with_saving(rates, limit, saved_ms)
    ensemble = rates.one("ensemble")
    faster = ensemble.images_per_s * ensemble.ms_per_image / max(ensemble.ms_per_image - saved_ms, 0.001)
    return min(faster, rates.one("prepare").images_per_s)


_CAVEATS = {
    "fp32": "",
    "mixed": " (near ties are computed again in fp32)",
    "bf16": " (changes the top-1 of some images in a hundred)",
    "fp16": " (may change the top-1 of near ties)",
}


def _other_precisions(rates: Rates, limit: float) -> list[str]:
    """The other precisions that would raise the limit, each for all members."""
    advice = []
    configured_ms = _sum_ms(rates.all_of("forward"))
    for precision in dict.fromkeys(stage.what for stage in rates.stages if stage.stage == "forward"):
        stages = [stage for stage in rates.stages if stage.stage == "forward" and stage.what == precision]
        if precision not in _CAVEATS or all(stage.configured for stage in stages):
            continue
        new_limit = _limit_with_cheaper_members(rates, limit, configured_ms - _sum_ms(stages))
        if new_limit > _MIN_GAIN * limit:
            advice.append(_gain(f"--precision {precision}", new_limit, limit) + _CAVEATS[precision])
    return advice


def _without_costliest(rates: Rates, limit: float) -> list[str]:
    members = rates.all_of("forward")
    if len(members) < 2:
        return []
    costliest = max(members, key=lambda stage: stage.ms_per_image)
    new_limit = _limit_with_cheaper_members(rates, limit, costliest.ms_per_image)
    return [_gain(f"without {costliest.member}", new_limit, limit)] if new_limit > _MIN_GAIN * limit else []


def _bigger_batch(rates: Rates) -> list[str]:
    configured = rates.one("ensemble")
    other = next((stage for stage in rates.stages if stage.stage == "ensemble" and not stage.configured), None)
    if other is None or other.images_per_s < _MIN_GAIN * configured.images_per_s:
        return []
    size, ratio = other.what.removeprefix("batch "), other.images_per_s / configured.images_per_s
    return [f"--batch-size {size}: the members together run {ratio:.2f} times as fast"]
