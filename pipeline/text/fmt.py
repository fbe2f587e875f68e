"""Formatting of numbers, times and sizes."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable

NONE = "-"
_SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB")


def count(number: int) -> str:
    """An integer with thousands separators."""
    return f"{number:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share (0-1) in per cent; only 0 and 1 become 0 % and 100 %, and values beside them ``<0.1 %``, ``>99.9 %``."""
    if share is None or math.isnan(share):
        return NONE
    shown = f"{100 * share:.{digits}f}"
    least = 10.0**-digits
    if share > 0 and float(shown) == 0:
        return f"<{least:.{digits}f} %"
    if share < 1 and float(shown) == 100:
        return f">{100 - least:.{digits}f} %"
    return f"{shown} %"


def score(value: float | None) -> str:
    """A score, an agreement (0-1), or an entropy (nats), with three decimals."""
    return NONE if value is None or math.isnan(value) else f"{value:.3f}"


def rate(images_per_s: float | None) -> str:
    """Images per second, with three significant digits below 100."""
    if images_per_s is None:
        return NONE
    return f"{images_per_s:,.0f}" if images_per_s >= 100 else f"{images_per_s:.3g}"


def size(num_bytes: float) -> str:
    """Bytes in a suitable unit, powers of 1000."""
    power = min(len(_SIZES) - 1, int(math.log10(num_bytes) // 3)) if num_bytes >= 1 else 0
    return f"{num_bytes / 1000**power:,.{1 if power else 0}f} {_SIZES[power]}"


def duration(seconds: float) -> str:
    """Seconds in a suitable unit: s, min, h or days."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:,.0f} min"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 86400:,.1f} days"


def clock(seconds: float) -> str:
    """Seconds as a countdown: ``1:05:00``, or ``5:00`` below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(unix_s: float) -> str:
    """Unix seconds as date and time in UTC."""
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun, singular or plural; without ``many`` that takes an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def few(names: Iterable[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are; empty for none."""
    listed = list(names)
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown:,} more" if len(listed) > shown else "")
