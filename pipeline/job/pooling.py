"""How a job combines its members: by ``--combine`` and factors, or by a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import RequestError
from pipeline.models.consensus import Rule
from pipeline.storage import Storage
from pipeline.trust.calibration import read_calibration
from pipeline.trust.fitted import JOB_KEY


@dataclass(frozen=True, slots=True)
class Pooling:
    """How members are combined.

    Attributes:
        rule: See :func:`pipeline.models.consensus.combine`.
        factors: Of each member.
        temperature: Of the pool.
        results: What the fingerprint sees of it.
        about: What else ``job.json`` holds about it: the truths that it was fitted on.
    """

    rule: Rule
    factors: tuple[float, ...]
    temperature: float
    results: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)


def choose_pooling(
    members: Sequence[Mapping[str, Any]], rule: Rule, calibration: str | None, storage: Storage, *, explicit: bool
) -> Pooling:
    """How members are combined: by the rule that was given, or by a calibration.

    Args:
        members: As ``job.json`` has them.
        rule: That was given.
        calibration: File of a calibration, if there is one.
        storage: Reads it.
        explicit: Whether the rule was given explicitly; if not, a calibration may bring its own.

    Raises:
        RequestError: The calibration is missing, or was fitted on something else.
    """
    factors = tuple(float(member["factor"]) for member in members)
    if calibration is None:
        return Pooling(rule, factors, 1.0, {"combine": rule})
    found, digest = read_calibration(calibration, storage)
    about: dict[str, Any] = {"temperature": found.temperature, "sha256": digest}
    if found.method == "stack":
        if explicit and rule != found.rule:
            raise RequestError(
                f"--calibration {calibration}: a log-stack brings its own rule, a geometric pool with fitted weights, "
                f"and --combine {rule} asks for another; leave one of the two out"
            )
        rule, factors = found.rule, found.weights_for(members, calibration)
        about |= {"method": "stack", "weights": list(factors)}
    else:
        found.check(members, rule, calibration)
    fitted = {} if found.fitted_on is None else {JOB_KEY: found.fitted_on}
    return Pooling(rule, factors, found.temperature, {"combine": rule, "calibration": about}, fitted)
