"""The shape of the files of OUT, as far as commands rely on it.

A file that somebody has edited, that another version wrote, or that is another tool's is a wrong request, not a bug.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.columns import GROUP_SCORE_SUFFIX, QUARANTINE_SCHEMA, predictions_schema
from pipeline.errors import ObjectDamaged, OutputError
from pipeline.text import fmt

_TYPES = {field.name: field.type for schema in (QUARANTINE_SCHEMA, predictions_schema([])) for field in schema}
_NEVER_NULL = {"index", "label", "score"}


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Member(_Shape):
    alias: str
    arch: str
    factor: float
    weights_sha256: str
    num_classes: int | None = None
    own_classes_sha256: str | None = None


class _Calibration(_Shape):
    temperature: float
    sha256: str
    method: str | None = None


class _Results(_Shape):
    members: list[_Member] = Field(min_length=1)
    combine: str
    top_k: int
    calibration: _Calibration | None = None
    precision: str = ""
    decode: str = ""
    keep: list[str] = []


class _WholeResults(_Results):
    labels_sha256: str
    precision: str
    decode: str
    keep: list[str]
    rows_per_part: int = Field(ge=1)


class OwnerShape(_Shape):
    """A ``job.json``, as a job reads it that wants to write there."""

    fingerprint: str
    results: _Results | None = None
    inputs: list[str] = []
    replaced: list[str] = []
    weights_files: dict[str, str | None] = {}
    versions: dict[str, str | None] = {}
    device: str = ""

    @field_validator("results", mode="before")
    @classmethod
    def _may_be_left_out_alone(cls, value: object) -> object:
        if value is None:
            raise ValueError("is null")
        return value


class _OwnClasses(_Shape):
    columns: dict[str, list[str]]


class JobShape(OwnerShape):
    """A ``job.json``, as commands read it that look at predictions."""

    results: _Results
    class_names: list[str] = Field(min_length=1)
    classes: _OwnClasses | None = None

    @model_validator(mode="after")
    def _one_name_a_class(self) -> Self:
        for member in self.results.members:
            if member.own_classes_sha256 is None and member.num_classes not in {None, len(self.class_names)}:
                raise ValueError(
                    f"{member.alias} has {fmt.plural(member.num_classes, 'class', 'classes')}, but there are "
                    f"{len(self.class_names)} class_names"
                )
        return self


class WholeJobShape(JobShape):
    """A ``job.json``, as a job reads it that goes on from its probabilities."""

    results: _WholeResults


class SuccessShape(_Shape):
    """A ``_SUCCESS``: rows of each part."""

    predictions: dict[str, int] = {}
    quarantine: dict[str, int] = {}


def check_shape(shape: type[_Shape], uri: str, content: Mapping[str, Any]) -> None:
    """Make sure that a JSON file of OUT holds what is read of it.

    Args:
        shape: What that is.
        uri: Of the file, for the message.
        content: Its content.

    Raises:
        OutputError: It does not.
    """
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise OutputError(
            f"{uri}: damaged, or written by another version of shardlabel: {f'{where}: ' * bool(where)}{first['msg']}"
        ) from error


def check_columns(uri: str, table: pa.Table, columns: Sequence[str], *, gaps: bool = False) -> None:
    """Make sure that a part has some columns, of the type that they are written with.

    Args:
        uri: Of the part, for the message.
        table: What was read of it.
        columns: What was asked for; of members, ``members.ALIAS.FIELD``.
        gaps: Whether an index may be null, as that of damage to a shard is in quarantine.

    Raises:
        ObjectDamaged: It has not.
    """
    for name in dict.fromkeys(column.partition(".")[0] for column in columns):
        if name not in table.column_names:
            raise ObjectDamaged(f"{uri}: damaged: it has no column {name}")
        kind, wanted = table.schema.field(name).type, _TYPES.get(name)
        if wanted is not None and _as_text(kind) != _as_text(wanted) and not pa.types.is_struct(wanted):
            raise ObjectDamaged(f"{uri}: damaged: its column {name} holds {kind}, not {wanted}")
        if not gaps and name in _NEVER_NULL and table[name].null_count:
            raise ObjectDamaged(f"{uri}: damaged: its column {name} has gaps")


def check_labels(uri: str, table: pa.Table, num_classes: int) -> None:
    """Make sure that the labels of a part of predictions are classes of its job, as far as they were read.

    Args:
        uri: Of the part, for the message.
        table: What was read of it.
        num_classes: K, labels are 0 to K - 1.

    Raises:
        ObjectDamaged: They are not.
    """
    for column, values in _labels_of(table):
        if len(values) and not 0 <= (least := pc.min_max(values))["min"].as_py() <= least["max"].as_py() < num_classes:
            found = least["max"] if least["min"].as_py() >= 0 else least["min"]
            raise ObjectDamaged(
                f"{uri}: damaged: its column {column} holds {found}, and the job has {num_classes} classes"
            )


def check_groups(uri: str, table: pa.Table, groups: Mapping[str, Sequence[str]]) -> None:
    """Make sure that a part of predictions has the columns of its job's own classes, and only their groups in them.

    Args:
        uri: Of the part, for the message.
        table: All of it.
        groups: Names of the groups of each column.

    Raises:
        ObjectDamaged: It has not.
    """
    for level, names in groups.items():
        for column, wanted in ((level, pa.string()), (level + GROUP_SCORE_SUFFIX, pa.float32())):
            if column not in table.column_names:
                raise ObjectDamaged(f"{uri}: damaged: it has no column {column}")
            if (kind := _as_text(table.schema.field(column).type)) != wanted:
                raise ObjectDamaged(f"{uri}: damaged: its column {column} holds {kind}, not {wanted}")
        if unknown := set(pc.unique(table[level].cast(pa.string())).to_pylist()) - {None, *names}:
            raise ObjectDamaged(
                f"{uri}: damaged: its column {level} holds {min(unknown)!r}, which is no group of the job"
            )


def _labels_of(table: pa.Table) -> Iterator[tuple[str, pa.Array]]:
    """The columns of labels, each as one array without nulls."""
    columns = {name: table[name].combine_chunks() for name in ("label", "labels") if name in table.column_names}
    if "members" in table.column_names and pa.types.is_struct(table["members"].type):
        members = table["members"].combine_chunks()
        for field in members.type:
            if pa.types.is_struct(field.type) and field.type.get_field_index("labels") >= 0:
                columns[f"members.{field.name}.labels"] = members.field(field.name).field("labels")
    for name, values in columns.items():
        values = values.flatten() if pa.types.is_list(values.type) else values
        if pa.types.is_integer(values.type):
            yield name, values.drop_null()


def _as_text(kind: pa.DataType) -> pa.DataType:
    """The type, one for all ways to store text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind
