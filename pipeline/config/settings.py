"""Settings: parsed once, frozen, and handed down piece by piece.

:class:`LabelConfig` is the whole request. Nothing below the job sees it: each part gets only its own
words. What changes results goes into the fingerprint, which is compared word by word on resume.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from pipeline.config.file import read_config_file
from pipeline.errors import ModelError, RequestError
from pipeline.records import RESERVED_COLUMNS

DEFAULT_MODELS = ("resnet50", "resnext50_32x4d", "efficientnet_v2_s")

_FORM = "[ALIAS:]ARCH[@WEIGHTS][=CHECKPOINT][*FACTOR]"
_ALIAS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


class MemberRequest(BaseModel):
    """One member as asked for: ``[ALIAS:]ARCH[@WEIGHTS][=CHECKPOINT][*FACTOR]``.

    Attributes:
        alias: Name of its column.
        arch: A torchvision classifier, or ``timm/NAME``.
        weights: Name of torchvision's weights enum, or None for its default.
        checkpoint: Path or URI of a checkpoint, or None to look one up.
        factor: Its weight in the consensus, above 0.
    """

    model_config = ConfigDict(frozen=True)

    alias: str
    arch: str
    weights: str | None = None
    checkpoint: str | None = None
    factor: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one SPEC.

        Raises:
            ModelError: It does not follow the grammar.
        """
        left, equals, checkpoint = text.strip().partition("=")
        rest, factor = _split_factor(checkpoint or left)
        left, checkpoint = (left, rest) if checkpoint else (rest, "")
        alias, colon, arch = left.rpartition(":")
        arch, at, weights = arch.partition("@")
        if not arch.removeprefix("timm/"):
            raise ModelError(f"model {text!r}: no architecture; the form is {_FORM}")
        for sign, word, what in ((colon, alias, "alias"), (at, weights, "weights"), (equals, checkpoint, "checkpoint")):
            if sign and not word:
                raise ModelError(f"model {text!r}: the {what} is empty; the form is {_FORM}")
        if "*" in left:
            raise ModelError(f"model {text!r}: the factor after * is not a number: {left.partition('*')[2]!r}")
        if not (math.isfinite(factor) and factor > 0):
            raise ModelError(f"model {text!r}: the factor must be above 0")
        alias = alias or arch.removeprefix("timm/")
        if not _ALIAS.fullmatch(alias):
            raise ModelError(f"model {text!r}: an alias is made of letters, digits, '_', '-' and '.'; not {alias!r}")
        return cls(alias=alias, arch=arch, weights=weights or None, checkpoint=checkpoint or None, factor=factor)


def _split_factor(text: str) -> tuple[str, float]:
    """Split ``*FACTOR`` off the end; a star before anything but a number belongs to a file's name."""
    rest, _, factor = text.rpartition("*")
    try:
        return (rest, float(factor)) if rest or text.startswith("*") else (text, 1.0)
    except ValueError:
        return text, 1.0


def parse_members(specs: tuple[str, ...]) -> tuple[MemberRequest, ...]:
    """Read all SPECs, comma lists included.

    Raises:
        ModelError: One is malformed, none is left, or two share an alias.
    """
    words = [word for spec in specs for word in spec.split(",") if word.strip()]
    members = tuple(MemberRequest.parse(word) for word in words)
    if not members:
        raise ModelError("no models: give at least one with -m, for example -m resnet50")
    seen: set[str] = set()
    for member in members:
        if member.alias in seen:
            raise ModelError(
                f"two members are called {member.alias!r}: name one of them, for example -m other:{member.arch}"
            )
        seen.add(member.alias)
    return members


def _words(value: object) -> object:
    """A string or a list of strings, commas allowed, as a tuple."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list | tuple):
        return tuple(word.strip() for item in value for word in str(item).split(",") if word.strip())
    return () if value is None else value


def _path(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _paths(value: object) -> object:
    if isinstance(value, str | os.PathLike):
        value = (value,)
    return tuple(_path(item) for item in value) if isinstance(value, list | tuple) else value


def _auto_or_count(value: object) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, int | str) and not isinstance(value, bool) and str(value).isdecimal() and int(value) > 0:
        return int(value)
    raise ValueError("'auto' or a whole number above 0 is expected")


def _auto_or_number(value: object) -> int | str:
    return 0 if value in (0, "0") and not isinstance(value, bool) else _auto_or_count(value)


# what the published schema says of words that may be written in several ways
_TEXT = {"type": "string", "minLength": 1}
_ONE_OR_MORE = WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]})
_LIST = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


def _auto_or(least: int) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": least}]})


Decoding = Literal["exact", "fast", "gpu"]
Words = Annotated[tuple[str, ...], BeforeValidator(_words), _LIST]
Text = Annotated[str, BeforeValidator(_path), Field(min_length=1)]
AutoInt = Annotated[Literal["auto"] | int, PlainValidator(_auto_or_count), _auto_or(1)]
AutoNumber = Annotated[Literal["auto"] | int, PlainValidator(_auto_or_number), _auto_or(0)]
AutoBool = Annotated[
    bool | None,
    BeforeValidator(lambda value: None if value == "auto" else value),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "auto"}, {"type": "null"}]}),
]


class StorageConfig(BaseModel):
    """How to reach S3; whatever is None is left to AWS's own variables and files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    s3_endpoint: str | None = None
    no_sign_request: bool = False


class EnsembleConfig(BaseModel):
    """What every command that runs networks is told. Field names are the command line's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Words = DEFAULT_MODELS
    weights_dir: Text | None = None
    labels: Text | None = None
    combine: Literal["mean", "geometric", "vote"] = "mean"
    top_k: Annotated[int, Field(ge=1)] = 5
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "mixed", "bf16", "fp16"] = "auto"
    compile: AutoBool = None
    batch_size: AutoInt = "auto"
    decode: Decoding = "exact"
    decode_threads: AutoInt = "auto"
    s3_endpoint: str | None = None
    no_sign_request: bool = False
    progress: Literal["auto", "bar", "plain", "json", "none"] = "auto"

    @property
    def members(self) -> tuple[MemberRequest, ...]:
        """The members asked for."""
        return parse_members(self.model)

    @property
    def storage(self) -> StorageConfig:
        """The part of the settings that the storage layer needs."""
        return StorageConfig(s3_endpoint=self.s3_endpoint, no_sign_request=self.no_sign_request)

    @property
    def ensemble_words(self) -> dict[str, Any]:
        """The words that all these commands share, as they were given."""
        return {name: getattr(self, name) for name in EnsembleConfig.model_fields}


InputWords = Annotated[tuple[Text, ...], BeforeValidator(_paths), Field(min_length=1), _ONE_OR_MORE]


class EngineConfig(Protocol):
    """What an engine takes."""

    @property
    def engine(self) -> Literal["ray", "inline"]:
        """Which engine."""

    @property
    def ray_address(self) -> str | None:
        """Of a running cluster."""

    @property
    def verbose(self) -> bool:
        """Whether Ray may talk."""


class RunConfig(EngineConfig, Protocol):
    """What running units takes, whatever is done with them."""

    @property
    def max_bad_rate(self) -> float:
        """Share of samples that may be quarantined."""

    @property
    def max_failed_units(self) -> Literal["auto"] | int:
        """Units that may fail."""


class LabelConfig(EnsembleConfig):
    """One labelling job, as asked for."""

    inputs: InputWords
    out: Text
    engine: Literal["ray", "inline"] = "ray"
    ray_address: str | None = None
    workers: AutoInt = "auto"
    rows_per_part: Annotated[int, Field(ge=1)] | None = None
    keep: Words = ()
    calibration: Text | None = None
    keep_probs: bool = False
    reuse: Text | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    max_bad_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    max_failed_units: AutoNumber = "auto"
    overwrite: bool = False
    verbose: bool = False

    @field_validator("keep")
    @classmethod
    def _without_doubles(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(keep))

    @model_validator(mode="after")
    def _check_kept_fields(self) -> Self:
        if clash := sorted(RESERVED_COLUMNS & set(self.keep)):
            raise ValueError(f"keep: {', '.join(clash)} is already a column of the predictions")
        return self


class PlanConfig(EnsembleConfig):
    """A forecast, as asked for.

    Attributes:
        inputs: As for a job.
        workers: How many workers like the one measured here.
        price_per_hour: Of one worker, in any currency.
        measure: Whether to measure rates, or only to count.
        seconds: What measuring may take, about.
    """

    inputs: InputWords
    workers: AutoInt = "auto"
    price_per_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    measure: bool = True
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 15.0


class BenchConfig(EnsembleConfig):
    """A benchmark, as asked for.

    Attributes:
        inputs: As for a job; none for the photographs that ship with the project.
        seconds: What it may take, about.
    """

    inputs: Annotated[tuple[Text, ...], BeforeValidator(_paths)] = ()
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0


class CombineConfig(BaseModel):
    """A consensus to be computed again, as asked for.

    Attributes:
        source: The output that holds the probabilities.
        out: Where the new one goes.
        model: Its members that are used, each ``ALIAS[*FACTOR]``; none for all, with the factors that they have.
        combine: The rule; None for the one of ``source``.
        calibration: As for a job.
        top_k: How many classes; None for as many as ``source`` has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Text
    out: Text
    model: Words = ()
    combine: Literal["mean", "geometric", "vote"] | None = None
    calibration: Text | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    engine: Literal["ray", "inline"] = "ray"
    ray_address: str | None = None
    workers: AutoInt = "auto"
    overwrite: bool = False
    s3_endpoint: str | None = None
    no_sign_request: bool = False
    progress: Literal["auto", "bar", "plain", "json", "none"] = "auto"
    verbose: bool = False

    @property
    def max_bad_rate(self) -> float:
        """What was quarantined stays so: no reason to stop."""
        return 1.0

    @property
    def max_failed_units(self) -> Literal["auto"] | int:
        """Units that are not in ``source`` yet are listed, and keep no other from being combined."""
        return sys.maxsize


Config = TypeVar("Config", bound=BaseModel)


def label_config(values: Mapping[str, Any], config_file: str | None = None) -> LabelConfig:
    """Build the settings from words given by the caller, over those of a YAML file.

    Args:
        values: Words given explicitly; they win over the file's.
        config_file: A YAML mapping with the same words (dashes or underscores).

    Raises:
        RequestError: A word is unknown or its value is wrong; one line names it.
    """
    merged: dict[str, Any] = {}
    if config_file is not None:
        read = read_config_file(config_file)
        if read.doubles:
            name, line = read.doubles[0]
            raise RequestError(f"--config {config_file}: line {line}: {option_name(name)} is given twice")
        merged |= read.values
    return parse_config(LabelConfig, merged | dict(values))


def parse_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build settings of a kind from their words.

    Raises:
        RequestError: A word is unknown or its value is wrong; one line names it.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise RequestError("; ".join(explain(e, kind) for e in error.errors()[:3])) from None


def explain(error: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """What is wrong with one word of a kind of settings, in one line.

    Args:
        error: One of pydantic's.
        kind: The settings.
    """
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        meant = f" (is {near[0].replace('_', '-')!r} meant?)" if near else ""
        return f"unknown option {name.replace('_', '-')!r}{meant}"
    if error["type"] == "missing" or error["input"] in ("", [], (), None):
        return f"{option_name(name)}: missing"
    return f"{option_name(name)}: {message}, not {error['input']!r}"


def option_name(name: str) -> str:
    """An option as the command line calls it."""
    return {"inputs": "INPUT", "source": "OUT"}.get(name, f"--{name.replace('_', '-')}")


def fingerprint(results: Mapping[str, Any]) -> str:
    """Hash of everything that changes results: 64 hex digits."""
    canonical = json.dumps(results, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
