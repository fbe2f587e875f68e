"""The two ratios of a run, and the report that it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TARGET = 0.9

Found = Mapping[str, Any]


def summarise(steps: Found) -> dict[str, Any]:
    """The ratios, as far as what they are made of is known.

    Args:
        steps: By name, with what each found.
    """

    def figure(step: str, name: str) -> float | None:
        value = steps.get(step, {}).get("found", {}).get(name)
        return value if isinstance(value, int | float) else None

    job, device = figure("job", "job images/s"), figure("job", "device images/s")
    one, decoding = figure("job-one", "job images/s"), figure("decoding", "decoding images/s")
    return {
        "ratios": {
            "job with all members over its device": _ratio(job, device),
            "job with the first member over decoding on all cores": _ratio(one, decoding),
        }
    }


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def report(found: Found) -> str:
    """What to read first: each step's end, and the ratios."""
    lines = []
    for name, step in found["steps"].items():
        wrong = f": {', '.join(step['wrong'])}" if step["wrong"] else ""
        reason = f": {step['reason']}" if "reason" in step else ""
        lines.append(f"{name:<12}{step['state']:<9}{step['seconds']:>6.1f} s{wrong}{reason}")
    for name, ratio in found["ratios"].items():
        verdict = "not measured" if ratio is None else f"{ratio:.3f} ({'reached' if ratio >= TARGET else 'missed'})"
        lines.append(f"{name} (target {TARGET}): {verdict}")
    return "\n".join(lines)
