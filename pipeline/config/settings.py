"""Settings of the commands: parsed once, frozen, and handed down piece by piece.

:class:`LabelConfig` is the whole request. Nothing below the job sees it: each part gets only the settings it needs.
What changes results goes into the fingerprint, which is compared on resume.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from pipeline.columns import RESERVED_COLUMNS
from pipeline.config.members import MemberRequest, parse_members
from pipeline.config.option_types import (
    AutoBool,
    AutoInt,
    AutoNumber,
    Decoding,
    Images,
    InputList,
    MemberList,
    Text,
    TextList,
    make_paths,
)
from pipeline.records import Reason

DEFAULT_MODELS = ("resnet50", "resnext50_32x4d", "efficientnet_v2_s")


class StorageConfig(BaseModel):
    """How to reach S3. What is None comes from AWS's own variables and files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    s3_endpoint: str | None = None
    no_sign_request: bool = False
    request_payer: bool = False


class EnsembleConfig(BaseModel):
    """Settings of every command that runs networks. Field names are the command line's options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: MemberList = DEFAULT_MODELS
    weights_dir: Text | None = None
    labels: Text | None = None
    combine: Literal["mean", "geometric", "vote"] = "mean"
    classes: Text | None = None
    top_k: Annotated[int, Field(ge=1)] = 5
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "mixed", "bf16", "fp16"] = "auto"
    compile: AutoBool = None
    batch_size: AutoInt = "auto"
    decode: Decoding = "exact"
    decode_threads: AutoInt = "auto"
    s3_endpoint: str | None = None
    no_sign_request: bool = False
    request_payer: bool = False
    progress: Literal["auto", "bar", "plain", "json", "none"] = "auto"

    @property
    def members(self) -> tuple[MemberRequest, ...]:
        """The members that ``model`` requests."""
        return parse_members(self.model)

    @property
    def storage(self) -> StorageConfig:
        """The part of the settings that the storage layer needs."""
        return StorageConfig(
            s3_endpoint=self.s3_endpoint,
            no_sign_request=self.no_sign_request,
            request_payer=self.request_payer,
        )

    @property
    def ensemble_options(self) -> dict[str, Any]:
        """The options that all these commands share, with their values."""
        return {name: getattr(self, name) for name in EnsembleConfig.model_fields}


class EngineConfig(Protocol):
    """Settings of an engine."""

    @property
    def engine(self) -> Literal["auto", "ray", "inline"]:
        """Which engine; ``auto`` for what suits the machine."""

    @property
    def ray_address(self) -> str | None:
        """Address of a running cluster; None starts Ray here."""

    @property
    def verbose(self) -> bool:
        """Whether Ray's own log is shown."""


class OpenEngineConfig(EngineConfig, Protocol):
    """Settings in which an engine may still have to be chosen."""

    @property
    def workers(self) -> Literal["auto"] | int:
        """How many workers."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Pydantic's copy with changes."""


class RunConfig(EngineConfig, Protocol):
    """Settings of a run over units, whatever is done with them."""

    @property
    def max_bad_rate(self) -> float:
        """Share of samples that may be quarantined."""

    @property
    def max_failed_units(self) -> Literal["auto"] | int:
        """Units that may fail."""


class LabelConfig(EnsembleConfig):
    """Settings of a labelling job."""

    inputs: InputList
    out: Text
    engine: Literal["auto", "ray", "inline"] = "auto"
    ray_address: str | None = None
    workers: AutoInt = "auto"
    rows_per_part: AutoInt | None = "auto"
    keep: TextList = ()
    images: Images = "auto"
    calibration: Text | None = None
    keep_probs: bool = False
    reuse: Text | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    max_bad_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    max_failed_units: AutoNumber = "auto"
    overwrite: bool = False
    prune: bool = False
    retry: TextList = ()
    verbose: bool = False

    @field_validator("keep")
    @classmethod
    def _without_duplicates(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(keep))

    @field_validator("retry")
    @classmethod
    def _known_reasons(cls, retry: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [reason for reason in retry if reason not in set(Reason)]:
            near = difflib.get_close_matches(unknown[0], list(Reason), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"no reason for quarantine; {hint}they are {', '.join(Reason)}")
        return tuple(dict.fromkeys(retry))

    @model_validator(mode="after")
    def _check_kept_fields(self) -> Self:
        if clash := sorted(RESERVED_COLUMNS & set(self.keep)):
            raise ValueError(f"keep: {', '.join(clash)} is already a column of the predictions")
        return self


class PlanConfig(EnsembleConfig):
    """Settings of a plan.

    Attributes:
        inputs: As for a job.
        workers: Number of workers like the one measured here.
        price_per_hour: Price of one worker, in any currency.
        measure: Whether to measure rates, or only to count.
        seconds: Time that measuring may take, about.
        images: As for a job.
    """

    inputs: InputList
    images: Images = "auto"
    workers: AutoInt = "auto"
    price_per_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    measure: bool = True
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 15.0


class BenchConfig(EnsembleConfig):
    """Settings of a benchmark.

    Attributes:
        inputs: As for a job; none for the sample data that ships with the project.
        seconds: Time that it may take, about.
    """

    inputs: Annotated[tuple[Text, ...], BeforeValidator(make_paths)] = ()
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0


class CombineConfig(BaseModel):
    """Settings of ``combine``: compute the consensus of an output again.

    Attributes:
        source: The output that holds the probabilities.
        out: Where the new output goes.
        model: The members to use, each ``ALIAS[*FACTOR]``; none for all, with the factors that they have.
        combine: The rule; None for the rule of ``source``.
        calibration: As for a job.
        classes: As for a job.
        top_k: Number of classes; None for as many as ``source`` has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Text
    out: Text
    model: TextList = ()
    combine: Literal["mean", "geometric", "vote"] | None = None
    calibration: Text | None = None
    classes: Text | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    engine: Literal["auto", "ray", "inline"] = "auto"
    ray_address: str | None = None
    workers: AutoInt = "auto"
    overwrite: bool = False
    s3_endpoint: str | None = None
    no_sign_request: bool = False
    request_payer: bool = False
    progress: Literal["auto", "bar", "plain", "json", "none"] = "auto"
    verbose: bool = False

    @property
    def max_bad_rate(self) -> float:
        """1: samples that ``source`` quarantined stay quarantined, and are no reason to stop."""
        return 1.0

    @property
    def max_failed_units(self) -> Literal["auto"] | int:
        """No limit: units that are not in ``source`` yet are listed, and the others are combined."""
        return sys.maxsize


def fingerprint(results: Mapping[str, Any]) -> str:
    """SHA-256 of everything that changes results: 64 hex digits."""
    canonical = json.dumps(results, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
