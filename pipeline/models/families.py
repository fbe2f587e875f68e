"""Families of architectures, with year and paper, which no library provides."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

_FILE = Path(__file__).with_name("families.yaml")


@dataclass(frozen=True, slots=True)
class Family:
    """A family of architectures.

    Attributes:
        name: As its authors write it.
        year: When its paper appeared.
        paper: Title of the paper.
        url: Address of the paper.
        architectures: Names of its architectures, smallest first.
        accuracy: ImageNet top-1 and top-5, percent, by the tagged name of timm's weights.
    """

    name: str
    year: int
    paper: str
    url: str
    architectures: tuple[str, ...]
    accuracy: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@functools.cache
def families() -> tuple[Family, ...]:
    """All families, oldest first."""
    return tuple(
        Family(
            name=entry["family"],
            year=entry["year"],
            paper=entry["paper"],
            url=entry["url"],
            architectures=tuple(entry["architectures"]),
            accuracy={name: (top1, top5) for name, (top1, top5) in entry.get("accuracy", {}).items()},
        )
        for entry in yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    )


def family_of(architecture: str) -> Family | None:
    """Find the family of an architecture; None if it is in no family here (most of timm's)."""
    base, _, _ = architecture.partition(".")  # a timm name may end in the tag of its weights
    return next((family for family in families() if base in family.architectures), None)
