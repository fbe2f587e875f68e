"""Tables of ``bench`` and ``plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipeline.cli.summaries import left_out_row
from pipeline.cli.tables import print_tables
from pipeline.commands.plan import Expected, Forecast
from pipeline.speed.bottleneck import BOTTLENECKS, BottleneckAnalysis
from pipeline.speed.rates import Rates, StageRate
from pipeline.text import fmt
from pipeline.text.fmt import duration, size
from pipeline.text.omissions import advise_images_all, omitted_rows
from pipeline.text.safe import printable

if TYPE_CHECKING:  # `plan --no-measure` does without torch, which measuring loads
    from pipeline.commands.bench import Benchmark

_TITLES = {
    "read": "read",
    "hash": "hash",
    "decode": "decode",
    "resize": "resize",
    "prepare": "decode + resize",
    "forward": "",
    "ensemble": "all members",
    "write": "write Parquet",
    "host": "all but decoding and members",
}
_SUMS = {"prepare", "ensemble", "host"}


def print_benchmark(found: Benchmark) -> None:
    """Print the rates, the limit, the rate of the job and the bottleneck."""
    console = Console()
    _print(console, f"{_describe_ensemble(found.rates)}; {', '.join(found.inputs)}")
    for note in found.notes:
        _print(console, note)
    print_tables(_stage_table(found.rates))
    console.print()
    _print_rows(console, _bottleneck_rows(found.verdict, found.rates))


def print_plan(found: Forecast) -> None:
    """Print counts and, where rates were measured, time and cost."""
    console = Console()
    _print(console, ", ".join(found.inputs))
    for note in found.notes:
        _print(console, note)
    rows = [("shards", _format_shards(found))] if found.shards else []
    if found.loose_images:
        missing = f", and {found.unreadable_images:,} missing or forbidden" if found.unreadable_images else ""
        rows.append(("loose images", f"{found.loose_images:,}{missing}"))
    rows += [
        ("units", f"{found.units:,}"),
        ("bytes", size(found.size_bytes)),
        ("images", _format_images(found.images, found.images_standard_error)),
        *left_out_row(found.left_out),
    ]
    rows += omitted_rows(found)
    if advice := advise_images_all(found):
        rows.append(("note", advice))
    if found.time is not None and found.rates is not None:
        rows += _time_rows(found, found.time, found.rates)
    _print_rows(console, rows)


def _format_shards(found: Forecast) -> str:
    missing = f", {found.unreadable:,} of them missing or forbidden" if found.unreadable else ""
    return f"{found.shards:,}{missing}"


def _format_images(images: int, standard_error: float | None) -> str:
    if standard_error == 0:
        return f"{images:,} (counted)"
    if standard_error is None:
        return f"about {images:,} (from the beginning of one shard)"
    return f"about {images:,} +- {2 * standard_error:,.0f} (95 %, from a sample of the shards)"


def _time_rows(found: Forecast, time: Expected, rates: Rates) -> list[tuple[str, str]]:
    verdict = time.verdict
    workers = "worker" if time.workers == 1 else "workers"
    rows = [
        ("ensemble", _describe_ensemble(rates)),
        ("measured", _describe_rates(rates)),
        ("bottleneck", BOTTLENECKS[verdict.bottleneck]),
        ("rate", f"{time.images_per_s:,.1f} images/s with {time.workers:,} {workers}"),
        ("time", duration(time.seconds) + _time_error(found, time.seconds)),
    ]
    if time.cost is not None:
        rows.append(("cost", f"{time.cost:,.2f} for {time.worker_hours:,.1f} worker hours"))
    rows.append(("predictions", f"{size(time.output_bytes)}, {time.output_bytes / max(1, found.images):,.0f} an image"))
    rows += [("assuming", line) for line in time.assumptions]
    return rows


def _time_error(found: Forecast, seconds: float) -> str:
    error = found.images_standard_error
    if not error or not found.images:
        return ""
    return f" +- {duration(2 * error / found.images * seconds)} for the number of images"


def _describe_rates(rates: Rates) -> str:
    names = {"read": "read", "decode": "decode", "ensemble": "all members", "job": "the whole job"}
    return ", ".join(f"{words} {rates.one(stage).images_per_s:,.1f}" for stage, words in names.items()) + " images/s"


def _describe_ensemble(rates: Rates) -> str:
    compiled = ", compiled" if rates.compiled else ""
    where = "one GPU" if rates.device == "cuda" else "CPU"
    return (
        f"{', '.join(rates.members)} in {rates.precision}{compiled} on {where}, {rates.num_threads} threads; "
        f"{fmt.plural(rates.images, 'image')} of {rates.bytes_per_image / 1000:,.0f} kB"
    )


def _stage_table(rates: Rates) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("alone")
    table.add_column("")
    for title in ("images/s", "+-", "ms/image", "share"):
        table.add_column(title, justify="right")
    counted = [stage for stage in rates.stages if stage.stage in _TITLES]
    for stage in counted:
        beside = [
            other
            for other in counted
            if _is_part_of_image(other) and _device_of(other, rates) == _device_of(stage, rates)
        ]
        share = stage.ms_per_image / sum(other.ms_per_image for other in beside) if _is_part_of_image(stage) else None
        table.add_row(
            _TITLES[stage.stage] or stage.member,
            stage.what + ("" if stage.configured else " (not used)"),
            f"{stage.images_per_s:,.1f}",
            f"{stage.spread:.0%}" if len(stage.rounds) > 1 else "once",
            f"{stage.ms_per_image:,.3f}",
            "" if share is None else f"{share:.1%}",
        )
    return table


def _is_part_of_image(stage: StageRate) -> bool:
    """Whether its time is part of the time of an image, and not part of another stage as well."""
    return stage.configured and stage.stage not in _SUMS | {"read"}


def _device_of(stage: StageRate, rates: Rates) -> str:
    """The device that it runs on: shares are of the time of an image on the same device."""
    return rates.device if stage.stage == "forward" else "cpu"


def _bottleneck_rows(verdict: BottleneckAnalysis, rates: Rates) -> list[tuple[str, str]]:
    sharing = verdict.sharing
    where = "GPU" if rates.device == "cuda" else "core"
    members = f"{len(rates.members)} member{'s' if len(rates.members) > 1 else ''}"
    resizes = f"{rates.num_geometries} resize{'s' if rates.num_geometries > 1 else ''}"
    return [
        ("limit", f"{verdict.limit_images_per_s:,.1f} images/s: {verdict.limit_by}"),
        ("job", f"{verdict.job_images_per_s:,.1f} images/s, {verdict.share:.1%} of the limit (median of the rounds)"),
        ("bottleneck", BOTTLENECKS[verdict.bottleneck]),
        (
            "sharing",
            f"{members}, {resizes}: together {sharing.together_ms:,.2f} ms of a {where} for an image; "
            f"each part alone adds up to {sharing.apart_ms:,.2f} ({sharing.overhead:+.1%})",
        ),
        ("besides", f"hashing {sharing.hash_share:.1%} and Parquet {sharing.write_share:.2%} of the cores' time"),
        *(("relief", line) for line in verdict.advice),
    ]


def _print_rows(console: Console, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    older = ""
    for name, value in rows:
        _print(console, f"  {'' if name == older else name:<{width}}  {value}")
        older = name


def _print(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
