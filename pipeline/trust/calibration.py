"""A calibration as a JSON file, and the check that it belongs to a job's members."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config.settings import fingerprint
from pipeline.errors import RequestError, StorageError
from pipeline.storage import Storage, absolute_uri
from pipeline.text.result import Result

FORMAT = "shardlabel calibration 1"

_UnitInterval = Annotated[float, Field(ge=0, le=1)]


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CalibrationMetrics(_FrozenModel):
    """How well scores fit the truth.

    Attributes:
        nll: Mean negative log-likelihood, nats.
        ece: Expected calibration error, 0-1.
        ece_floor: Expected ECE of perfectly calibrated scores on so many images, 0-1.
    """

    nll: Annotated[float, Field(ge=0)]
    ece: _UnitInterval
    ece_floor: _UnitInterval


class FittedMember(_FrozenModel):
    """A member that a calibration was fitted on.

    Attributes:
        alias, arch, factor, weights_sha256: As in ``job.json``.
        identity: For a log-stack: hash of network, tensors and recipe, without alias and factor.
        weight: For a log-stack: its exponent.
    """

    alias: str
    arch: str
    factor: float
    weights_sha256: str
    identity: str | None = None
    weight: Annotated[float, Field(ge=0)] | None = None


class Calibration(Result, _FrozenModel):
    """The calibration of one ensemble's consensus.

    Attributes:
        format: Version of the file format.
        method: ``temperature``: one temperature for the pool. ``stack``: a log-stack, p proportional to
            exp(sum of a_m log p_m) with a weight a_m for each member. It is a geometric pool with the weights
            a_m / sum a, at the temperature 1 / sum a.
        rule: How the members are combined.
        temperature: T; the pooled probabilities become p^(1/T), normalised.
        members_fingerprint: Hash of everything about the members that changes the pool.
        members: The members, in readable form.
        num_classes: K.
        truths: Images with known truth that it was fitted on.
        no_class: Of these, images in which no class fits.
        folds: Folds of the cross-validation behind ``after``.
        top1: Share of these images whose label is right, 0-1.
        top1_after: The same for held-out images of the cross-validation; None for a temperature, which changes no
            label.
        before: Metrics of the uncalibrated scores.
        after: Metrics of calibrated scores on held-out images.
        temperature_alone: The same for a temperature alone; None where nothing else was fitted.
        strength: Of the regularization towards equal weights; for a log-stack.
        out: The output that it was fitted on.
        truth: Where the truth came from.
        fitted_on: The truths that it was fitted on (:class:`pipeline.trust.fitted.FittedTruths`); None in files of
            earlier versions.
        held_out: Images with known truth that were left out of the fit, for a promise.
    """

    format: Literal["shardlabel calibration 1"]
    method: Literal["temperature", "stack"] = "temperature"
    rule: Literal["mean", "geometric"]
    temperature: Annotated[float, Field(ge=0.01, le=100)]
    members_fingerprint: str
    members: tuple[FittedMember, ...]
    num_classes: Annotated[int, Field(ge=1)]
    truths: Annotated[int, Field(ge=1)]
    no_class: Annotated[int, Field(ge=0)] = 0
    folds: Annotated[int, Field(ge=2)]
    top1: _UnitInterval
    top1_after: _UnitInterval | None = None
    before: CalibrationMetrics
    after: CalibrationMetrics
    temperature_alone: CalibrationMetrics | None = None
    strength: Annotated[float, Field(ge=0)] | None = None
    out: str
    truth: str
    fitted_on: str | None = None
    held_out: Annotated[int, Field(ge=0)] = 0

    def weights_for(self, members: Sequence[Mapping[str, Any]], source: str) -> tuple[float, ...]:
        """The weights of a log-stack for these members, in their order. Aliases do not matter.

        Args:
            members: As ``job.json`` has them.
            source: Where the calibration was read from.

        Raises:
            RequestError: It was fitted on other members.
        """
        left: dict[str | None, list[float]] = {}
        for fitted in self.members:
            left.setdefault(fitted.identity, []).append(fitted.weight or 0.0)
        try:
            weights = tuple(left[member_identity(member)].pop(0) for member in members)
        except (KeyError, IndexError):
            weights = ()
        if len(weights) != len(self.members) or not any(weights):
            raise self._other_members_error(members, source, "members, weights and recipes")
        return weights

    def check(self, members: Sequence[Mapping[str, Any]], rule: str, source: str) -> None:
        """Check that it was fitted on the consensus of these members.

        Args:
            members: As ``job.json`` has them.
            rule: How they are combined.
            source: Where the calibration was read from.

        Raises:
            RequestError: It was not; the message names the difference.
        """
        if rule != self.rule:
            raise RequestError(
                f"--calibration {source}: it was fitted on the {self.rule} of the members, and this job combines them "
                f"by {rule}; fit another calibration for {rule}"
            )
        if members_fingerprint(members) != self.members_fingerprint:
            raise self._other_members_error(members, source, "members, weights, factors and recipes")

    def _other_members_error(self, members: Sequence[Mapping[str, Any]], source: str, what: str) -> RequestError:
        fitted = [member.model_dump() for member in self.members]
        return RequestError(
            f"--calibration {source}: it was fitted on other members ({_format_members(fitted)}) than this job has "
            f"({_format_members(members)}); {what} must be the same"
        )


def members_fingerprint(members: Sequence[Mapping[str, Any]]) -> str:
    """Hash of all that changes the pool: the members without their aliases and their order.

    Args:
        members: As ``job.json`` has them.
    """
    nameless = [{name: value for name, value in member.items() if name != "alias"} for member in members]
    return fingerprint({"members": sorted(nameless, key=lambda member: json.dumps(member, sort_keys=True))})


def member_identity(member: Mapping[str, Any]) -> str:
    """Hash of a member's network, tensors and recipe, without alias and factor.

    Args:
        member: As ``job.json`` has it.
    """
    return fingerprint({name: value for name, value in member.items() if name not in {"alias", "factor"}})


def _format_members(members: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{member['alias']}@{member['weights_sha256'][:8]}*{member['factor']:g}" for member in members)


def read_calibration(path: str, storage: Storage) -> tuple[Calibration, str]:
    """Read a calibration.

    Returns:
        The calibration, and the SHA-256 of the file: 64 hex digits.

    Raises:
        RequestError: The file is missing, or is no calibration.
    """
    try:
        data = storage.read(absolute_uri(path))
    except StorageError as error:
        raise RequestError(f"--calibration {error}") from error
    try:
        found = Calibration.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(
            f"--calibration {path}: no calibration of shardlabel: {f'{where}: ' * bool(where)}{first['msg']}"
        ) from None
    return found, hashlib.sha256(data).hexdigest()


def write_calibration(path: str, calibration: Calibration, storage: Storage) -> None:
    """Write a calibration; an older file is replaced.

    Raises:
        RequestError: It cannot be written there.
    """
    text = json.dumps(calibration.model_dump(mode="json"), indent=2, ensure_ascii=False)
    try:
        storage.replace(absolute_uri(path), text.encode() + b"\n")
    except StorageError as error:
        raise RequestError(f"--save {error}") from error
