"""The options of an export: which images, in which format, and where to."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.config.option_types import AutoInt, Text
from pipeline.config.settings import StorageConfig

Format = Literal["webdataset", "imagefolder", "csv", "parquet"]
_Share = Annotated[float, Field(ge=0, le=1)]
_Nats = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ExportConfig(BaseModel):
    """The options of one export. Field names are those of the command line, with underscores.

    Attributes:
        out: Output of a job.
        to: Where the dataset goes.
        min_score, min_agreement, max_entropy, max_disagreement: Limits on each image.
        max_ood_score: Limit on minus the mean of the members' energies; larger means further out of distribution.
        max_per_class: Accept at most so many images of each class, the best by score.
        repeat_to: Images that each class has after repetition; the column ``copies`` says how often.
        dedupe: Whether to accept only the first of images with the same bytes.
        target_precision, delta: Accept images at or above the lowest score at which this precision can be promised,
            with a risk of delta.
        truth: Truth file for the promise; None for the ``.cls`` of the samples.
        unknown_labels: Whether truths that are not understood stop the promise, or count as wrong.
        classes: Own classes, as for a job; None for those of the output.
        level: The level whose groups are the labels.
        back_off: Whether each image gets the finest name, class or group, that ``target_precision`` allows.
        partial: Whether to export an output that is not finished, as it is.
        license: Of the images, for the dataset card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Text
    to: Text
    format: Format
    min_score: _Share | None = None
    min_agreement: _Share | None = None
    max_entropy: _Nats | None = None
    max_disagreement: _Nats | None = None
    max_ood_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    max_per_class: Annotated[int, Field(ge=1)] | None = None
    repeat_to: Annotated[int, Field(ge=1)] | None = None
    dedupe: bool = True
    target_precision: Annotated[float, Field(gt=0, lt=1)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.1
    truth: Text | None = None
    unknown_labels: Literal["refuse", "wrong"] = "refuse"
    classes: Text | None = None
    level: Text | None = None
    back_off: bool = False
    partial: bool = False
    license: Text = "unknown"
    engine: Literal["auto", "ray", "inline"] = "auto"
    ray_address: str | None = None
    workers: AutoInt = "auto"
    overwrite: bool = False
    s3_endpoint: str | None = None
    no_sign_request: bool = False
    request_payer: bool = False
    progress: Literal["auto", "bar", "plain", "json", "none"] = "auto"
    verbose: bool = False

    @model_validator(mode="after")
    def _check_truth(self) -> Self:
        if self.truth is not None and self.target_precision is None:
            raise ValueError("--truth is what --target-precision rests on; give both")
        if self.unknown_labels != "refuse" and self.target_precision is None:
            raise ValueError("--unknown-labels is about the truths of --target-precision; give both")
        return self

    @model_validator(mode="after")
    def _check_back_off(self) -> Self:
        if not self.back_off:
            return self
        if self.target_precision is None:
            raise ValueError("--back-off gives the names that --target-precision allows; give both")
        if self.level is not None:
            raise ValueError("--level takes the groups of one level, --back-off the names of all; leave one out")
        if self.min_score is not None:
            raise ValueError("--min-score and --back-off: how likely a name must be is what --target-precision finds")
        return self

    @property
    def storage(self) -> StorageConfig:
        """The part of the settings that the storage layer needs."""
        return StorageConfig(
            s3_endpoint=self.s3_endpoint,
            no_sign_request=self.no_sign_request,
            request_payer=self.request_payer,
        )

    @property
    def choices(self) -> dict[str, Any]:
        """The options that decide what is exported; the fingerprint covers them."""
        names = (
            *("format", "min_score", "min_agreement", "max_entropy", "max_disagreement", "max_ood_score"),
            *("max_per_class", "repeat_to", "dedupe", "target_precision", "license"),
        )
        chosen = {name: getattr(self, name) for name in names}
        if self.target_precision is None:
            return chosen
        lenient = {} if self.unknown_labels == "refuse" else {"unknown_labels": self.unknown_labels}
        return chosen | {"delta": self.delta} | lenient
