"""What the fuzzers attack, attacked for a moment without them: every seed as it is, and damaged."""

from __future__ import annotations

import random

import pytest
from fuzz.damage import damaged
from fuzz.targets import TARGETS

QUICK = {"tar": 40, "part": 150, "keys": 150, "listing": 60}  # images: tests/stages/test_decode_damage.py
SLOW = {"tar": 2_000, "image": 100, "part": 10_000, "keys": 10_000, "listing": 3_000}


def attack(name: str, times: int, seed: int) -> None:
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    for data in target.seeds():
        target.holds(data)
        for number in range(times):
            changed = damaged(data, rng)
            target.holds(target.mend(changed) if number % 2 else changed)


@pytest.mark.parametrize("name", QUICK)
def test_any_bytes(name):
    attack(name, QUICK[name], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_any_bytes_at_length(name):
    attack(name, SLOW[name], seed=2)


@pytest.mark.parametrize("name", TARGETS)
def test_sound_bytes_are_no_finding(name):
    """A property that nothing sound can have would find nothing worth finding."""
    seeds = list(TARGETS[name].seeds())
    assert len(seeds) >= 2
    for data in seeds:
        TARGETS[name].holds(data)
