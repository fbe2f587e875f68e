"""A calibration on disk: readable JSON that says what it was fitted on, and fits nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config import fingerprint
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
    """A member, as far as a person wants to know it."""

    alias: str
    arch: str
    factor: float
    weights_sha256: str


class Calibration(_Frozen):
    """A temperature for the consensus of one ensemble.

    Attributes:
        format: Of this file.
        rule: How the members were combined.
        temperature: The pooled probabilities become p^(1/T), normalised.
        members_fingerprint: Hash of everything about the members that changes the pool.
        members: The members, for people.
        num_classes: Size of the label space.
        truths: Labelled images that it was fitted on.
        folds: In how many parts these were cut to find ``after``.
        top1: Share of them whose label is right, 0-1; the same before and after.
        before: Figures of the scores as they were.
        after: Figures of scores from temperatures that were fitted without the image in question.
        out: The output that it was fitted on.
        truth: Where the truth came from.
    """

    format: Literal["shardlabel calibration 1"]
    rule: Literal["mean", "geometric"]
    temperature: Annotated[float, Field(ge=0.01, le=100)]
    members_fingerprint: str
    members: tuple[FittedMember, ...]
    num_classes: Annotated[int, Field(ge=1)]
    truths: Annotated[int, Field(ge=1)]
    folds: Annotated[int, Field(ge=2)]
    top1: _Share
    before: Figures
    after: Figures
    out: str
    truth: str

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
            fitted = [member.model_dump() for member in self.members]
            raise RequestError(
                f"--calibration {source}: it was fitted on other members ({_listed(fitted)}) than this job has "
                f"({_listed(members)}); members, weights, factors and recipes must be the same"
            )


def members_fingerprint(members: Sequence[Mapping[str, Any]]) -> str:
    """Hash of what changes the pool: everything but what members are called, and their order.

    Args:
        members: As ``job.json`` has them.
    """
    nameless = [{name: value for name, value in member.items() if name != "alias"} for member in members]
    return fingerprint({"members": sorted(nameless, key=lambda member: json.dumps(member, sort_keys=True))})


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
