"""Types of the settings: how the text of an option becomes a value, and what the JSON schema says of it."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema


def _split(value: object) -> object:
    """Make a tuple of a string or a list of strings; commas separate items in both."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list | tuple):
        return tuple(part.strip() for item in value for part in str(item).split(",") if part.strip())
    return () if value is None else value


# Commas between members: not those within quotes, before a bare number (?mean=0.5,0.5,0.5), or before the end of a path
_BETWEEN_MEMBERS = re.compile(
    r""",(?=(?:[^"]*"[^"]*")*[^"]*$)"""
    r"""(?!\s*[0-9.]+\s*(?:[,&*]|$))"""
    r"""(?![^,=]*\.(?:pth|pt|safetensors|bin|ckpt|tar)(?:[?*][^,]*)?(?:,|$))"""
)


def split_members(texts: Iterable[object]) -> tuple[str, ...]:
    """Split lists of member SPECs at the commas between members."""
    return tuple(part.strip() for text in texts for part in _BETWEEN_MEMBERS.split(str(text)) if part.strip())


def _split_members(value: object) -> object:
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, list | tuple):
        return split_members(value)
    return () if value is None else value


def _path(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def make_paths(value: object) -> object:
    """Make a tuple of one path or several; commas belong to the path."""
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


# The schema of options that may be written in several ways
_TEXT = {"type": "string", "minLength": 1}
_ONE_OR_MORE = WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]})
_LIST = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


def _auto_or(least: int) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": least}]})


DEFAULT_ROWS_PER_PART = 10_000
Decoding = Literal["exact", "fast", "gpu"]
Images = Literal["auto", "all"]
TextList = Annotated[tuple[str, ...], BeforeValidator(_split), _LIST]
MemberList = Annotated[tuple[str, ...], BeforeValidator(_split_members), _LIST]
Text = Annotated[str, BeforeValidator(_path), Field(min_length=1)]
AutoInt = Annotated[Literal["auto"] | int, PlainValidator(_auto_or_count), _auto_or(1)]
AutoNumber = Annotated[Literal["auto"] | int, PlainValidator(_auto_or_number), _auto_or(0)]
AutoBool = Annotated[
    bool | None,
    BeforeValidator(lambda value: None if value == "auto" else value),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "auto"}, {"type": "null"}]}),
]
InputList = Annotated[tuple[Text, ...], BeforeValidator(make_paths), Field(min_length=1), _ONE_OR_MORE]


def above_zero(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for the arguments of a script: a number above 0.

    Args:
        kind: ``int`` or ``float``.
    """

    def parse(text: str) -> float:
        number = kind(text)
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return number

    return parse
