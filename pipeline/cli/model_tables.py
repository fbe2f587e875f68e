"""Tables of the model catalogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table
from rich.text import Text

from pipeline.cli.printing import print_stderr
from pipeline.cli.tables import make_console, print_tables
from pipeline.models.cards import ArchitectureCard, WeightsCard
from pipeline.models.member_card import MemberCard
from pipeline.text.safe import printable
from pipeline.trials.recipes import RecipeTrial

_MARGIN = 2
_FITS = {"short": "the shorter side, aspect ratio kept", "squash": "aspect ratio not kept"}
# Heading, alignment and cell of each column. A narrow terminal leaves out the last ones.
_COLUMNS: tuple[tuple[str, str, Callable[[WeightsCard], str]], ...] = (
    ("weights", "left", lambda card: card.weights),
    ("params M", "right", lambda card: _number(None if card.num_params is None else card.num_params / 1e6, 1)),
    ("GMACs", "right", lambda card: _number(card.gmacs, 2)),
    ("top-1", "right", lambda card: _number(card.top1, 1)),
    ("top-5", "right", lambda card: _number(card.top5, 1)),
    ("input", "right", lambda card: str(card.input_px)),
    ("here", "left", lambda card: "-" if card.found is None else "yes"),
    ("resize", "left", lambda card: _resize(card)),
    ("MB", "right", lambda card: _number(card.file_mb, 1)),
    ("file", "left", lambda card: card.weights_file),
    ("found", "left", lambda card: card.found or "-"),
)


def print_architectures(cards: Sequence[ArchitectureCard]) -> None:
    """Print one row for each set of published weights, by family, with as many columns as fit."""
    console = make_console()
    rows = [
        [card.name if number == 0 else "", *(printable(format_cell(entry)) for _, _, format_cell in _COLUMNS)]
        for card in cards
        for number, entry in enumerate(card.published)
    ]
    headings = ["architecture", *(name for name, _, _ in _COLUMNS)]
    widths = [max(len(row[at]) for row in [headings, *rows]) for at in range(len(headings))]
    needed = [sum(widths[:n]) + _MARGIN * n for n in range(len(headings) + 1)]
    num_columns = next((n for n in range(len(headings), 2, -1) if needed[n] <= console.width), 2)
    console.width = max(console.width, needed[num_columns])  # no name is cut
    table = Table(box=None, pad_edge=False, padding=(0, _MARGIN, 0, 0), header_style="bold")
    table.add_column(headings[0], no_wrap=True)
    for name, side, _ in _COLUMNS[: num_columns - 1]:
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    family: str | None = ""
    at = 0
    for card in cards:
        if card.family != family:
            family = card.family
            table.add_row(Text(f"{family} ({card.year})" if family else "others", style="bold cyan"))
        for _ in card.published:
            table.add_row(*(Text(cell) for cell in rows[at][:num_columns]))
            at += 1
    console.print(table)


def print_architecture(card: ArchitectureCard) -> None:
    """Print everything about one architecture."""
    family_rows = [("family", f"{card.family} ({card.year})"), ("paper", card.paper), ("", card.paper_url)]
    rows = [*(family_rows if card.family else []), ("library", card.library)]
    for entry in card.published:
        default = " (default)" if entry is card.published[0] else ""
        spec = card.name if card.library == "timm" else f"{card.name}@{entry.weights}"
        rows += [
            ("", ""),
            ("weights", f"{entry.weights}{default}"),
            ("as a member", f"-m {spec}"),
            ("parameters", "-" if entry.num_params is None else f"{entry.num_params:,}"),
            ("operations", f"{_number(entry.gmacs, 2)} GMACs an image"),
            ("ImageNet", f"top-1 {_number(entry.top1, 2)} %, top-5 {_number(entry.top5, 2)} %, as published"),
            ("input", f"{entry.input_px} px, the centre of {_resize(entry)} ({_FITS[entry.fit]})"),
            ("normalised by", f"mean {_triple(entry.mean)}, std {_triple(entry.std)}"),
            ("file", entry.weights_file + ("" if entry.file_mb is None else f", {entry.file_mb:,.1f} MB")),
            ("published at", entry.url or "-"),
            ("licence", entry.licence or "-"),
            ("found", entry.found or "not here"),
        ]
    _print_rows(card.name, rows)


def print_member(card: MemberCard) -> None:
    """Print what a member's file is, and how a job would use it."""
    names = ", ".join(card.class_names) + (", ..." if card.num_classes > len(card.class_names) else "")
    rows = [
        ("file", f"{card.file}, {card.num_bytes / 2**20:,.1f} MB"),
        ("sha256", card.sha256),
        ("tensors", card.tensors),
        *([("head", card.head)] if card.head else []),
        ("classes", f"{card.num_classes:,}: {names}"),
        ("", card.class_names_from),
        ("input", f"{card.input_px} px, the centre of {_resize(card)} ({_FITS[card.fit]})"),
        ("normalised by", f"mean {_triple(card.mean)}, std {_triple(card.std)}"),
        ("", f"from: {card.recipe_from}"),
        *(("note", note) for note in card.notes),
    ]
    _print_rows(f"{card.alias}: {card.arch}" if card.alias != card.arch else card.arch, rows)


def watch_trial(words: str, number: int, total: int) -> None:
    """Say on stderr which preprocessing is being tried."""
    print_stderr(f"trying {number + 1} of {total}: {words}")


def print_trial(trial: RecipeTrial, spec: str) -> None:
    """Print how often a network is right with each preprocessing, and which one to take."""
    console = make_console()
    table = Table(box=None, pad_edge=False, padding=(0, _MARGIN, 0, 0), header_style="bold")
    for heading in ("top-1", "95 % interval", "against now", "p"):
        table.add_column(heading, justify="right")
    table.add_column("preprocessing")
    for one in trial.tried:
        low, high = one.interval
        gain = one.gain
        table.add_row(
            f"{100 * one.top1:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f}",
            "now" if gain is None else f"{100 * gain.difference:+.1f}",
            "" if gain is None else f"{gain.p_value:.2g}",
            one.words,
        )
    console.print(f"{trial.num_images:,} images of known class")
    print_tables(table)
    if trial.better is not None:
        console.print(Text(f"better than now: -m '{spec.partition('?')[0]}?{trial.better.words}'"), soft_wrap=True)
    else:
        console.print("none is certainly better than now (exact McNemar test, Bonferroni's rule): more truths may tell")


def _print_rows(title: str, rows: Sequence[tuple[str, str | None]]) -> None:
    console = make_console()
    console.print(Text(title, style="bold"))
    for name, value in rows:
        console.print(Text(printable(f"  {name:<14}{value}".rstrip())), soft_wrap=True)


def _resize(card: WeightsCard | MemberCard) -> str:
    size = f"{card.resize_px}x{card.resize_px}" if card.fit == "squash" else f"{card.resize_px}"
    return f"{size} {card.interpolation}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:g}" for value in values)
