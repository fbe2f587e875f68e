"""A calibration on disk: readable JSON that says what it was fitted on, and fits nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config.settings import fingerprint
from pipeline.errors import RequestError, StorageError
from pipeline.storage import Storage, absolute_uri

FORMAT = "shardlabel calibration 1"

_Share = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figures(_Frozen):
    """How well scores fit the truth.

    Attributes:
        nll: Mean negative log-likelihood, nats.
        ece: Expected calibration error, 0-1.
        ece_floor: What perfect scores would show in expectation, 0-1.
    """

    nll: Annotated[float, Field(ge=0)]
    ece: _Share
    ece_floor: _Share


class FittedMember(_Frozen):
    """A member, as far as a person wants to know it.

    Attributes:
        alias, arch, factor, weights_sha256: As in ``job.json``.
        identity: Hash of what it is, whatever it is called and however it counts; in a log-stack.
        weight: In a log-stack, its exponent.
    """

    alias: str
    arch: str
    factor: float
    weights_sha256: str
    identity: str | None = None
    weight: Annotated[float, Field(ge=0)] | None = None


class Calibration(_Frozen):
    """What makes the scores of one ensemble's consensus say how often they are right.

    Attributes:
        format: Of this file.
        method: ``temperature``: one number for the pool as it is. ``stack``: a log-stack, p proportional to
            exp(sum of a_m log p_m) with a weight a_m for each member; it is a geometric pool with the weights
            a_m / sum a, at the temperature 1 / sum a.
        rule: How the members are combined.
        temperature: The pooled probabilities become p^(1/T), normalised.
        members_fingerprint: Hash of everything about the members that changes the pool.
        members: The members, for people.
        num_classes: Size of the label space.
        truths: Labelled images that it was fitted on.
        folds: In how many parts these were cut to find ``after``.
        top1: Share of them whose label is right, 0-1.
        top1_after: The same of labels from weights that were fitted without the image in question; None where labels
            stay, as they do at any temperature.
        before: Figures of the scores as they were.
        after: Figures of scores from what was fitted without the image in question.
        temperature_alone: The same for one temperature, where more than that was fitted.
        strength: Of the pull towards equal weights.
        out: The output that it was fitted on.
        truth: Where the truth came from.
    """

    format: Literal["shardlabel calibration 1"]
    method: Literal["temperature", "stack"] = "temperature"
    rule: Literal["mean", "geometric"]
    temperature: Annotated[float, Field(ge=0.01, le=100)]
    members_fingerprint: str
    members: tuple[FittedMember, ...]
    num_classes: Annotated[int, Field(ge=1)]
    truths: Annotated[int, Field(ge=1)]
    folds: Annotated[int, Field(ge=2)]
    top1: _Share
    top1_after: _Share | None = None
    before: Figures
    after: Figures
    temperature_alone: Figures | None = None
    strength: Annotated[float, Field(ge=0)] | None = None
    out: str
    truth: str

    def weights_of(self, members: Sequence[Mapping[str, Any]], source: str) -> tuple[float, ...]:
        """The weights of a log-stack for these members, in their order, whatever they are called.

        Args:
            members: As ``job.json`` has them.
            source: Where the calibration was read from.

        Raises:
            RequestError: It was fitted on others.
        """
        left: dict[str | None, list[float]] = {}
        for fitted in self.members:
            left.setdefault(fitted.identity, []).append(fitted.weight or 0.0)
        try:
            weights = tuple(left[member_identity(member)].pop(0) for member in members)
        except (KeyError, IndexError):
            weights = ()
        if len(weights) != len(self.members) or not any(weights):
            raise self._of_others(members, source, "members, weights and recipes")
        return weights

    def check(self, members: Sequence[Mapping[str, Any]], rule: str, source: str) -> None:
        """Make sure that it was fitted on the consensus of these members.

        Args:
            members: As ``job.json`` has them.
            rule: How they are combined.
            source: Where the calibration was read from.

        Raises:
            RequestError: It was not; the message says what differs.
        """
        if rule != self.rule:
            raise RequestError(
                f"--calibration {source}: it was fitted on the {self.rule} of the members, and this job combines them "
                f"by {rule}; a temperature of one says nothing of the other"
            )
        if members_fingerprint(members) != self.members_fingerprint:
            raise self._of_others(members, source, "members, weights, factors and recipes")

    def _of_others(self, members: Sequence[Mapping[str, Any]], source: str, what: str) -> RequestError:
        fitted = [member.model_dump() for member in self.members]
        return RequestError(
            f"--calibration {source}: it was fitted on other members ({_listed(fitted)}) than this job has "
            f"({_listed(members)}); {what} must be the same"
        )


def members_fingerprint(members: Sequence[Mapping[str, Any]]) -> str:
    """Hash of what changes the pool: everything but what members are called, and their order.

    Args:
        members: As ``job.json`` has them.
    """
    nameless = [{name: value for name, value in member.items() if name != "alias"} for member in members]
    return fingerprint({"members": sorted(nameless, key=lambda member: json.dumps(member, sort_keys=True))})


def member_identity(member: Mapping[str, Any]) -> str:
    """Hash of what a member is: its network, tensors and recipe; not what it is called and how much it counts.

    Args:
        member: As ``job.json`` has it.
    """
    return fingerprint({name: value for name, value in member.items() if name not in {"alias", "factor"}})


def _listed(members: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{member['alias']}@{member['weights_sha256'][:8]}*{member['factor']:g}" for member in members)


def read_calibration(path: str, storage: Storage) -> tuple[Calibration, str]:
    """Read a calibration.

    Returns:
        The calibration, and the hash of the file: 64 hex digits.

    Raises:
        RequestError: The file is missing, or is none.
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
    """Write a calibration, over an older one.

    Raises:
        RequestError: It cannot be written there.
    """
    text = json.dumps(calibration.model_dump(mode="json"), indent=2, ensure_ascii=False)
    try:
        storage.replace(absolute_uri(path), text.encode() + b"\n")
    except StorageError as error:
        raise RequestError(f"--save {error}") from error
