"""How a result shows itself: one line at a prompt, tables in a notebook."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from pipeline.text.safe import printable

_WIDTH = 160  # of the line
_MOST_ITEMS = 10  # of a collection in a table
_DEPTH = 2  # of tables in tables

_STYLE = "text-align: left; vertical-align: top"


class Result:
    """A dataclass or pydantic model that shows itself in short: ``repr`` as one line, ``_repr_html_`` as a table.

    Fields that have their default value are left out, and collections are counted in the line.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        shown = [f"{name}={_in_line(value)}" for name, value in self._headline().items()]
        line = f"{type(self).__name__}({', '.join(shown)})"
        return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 6].rsplit(', ', 1)[0]}, ...)"

    def _repr_html_(self) -> str:
        """The fields as an HTML table; IPython's protocol."""
        return f"<b>{html.escape(type(self).__name__)}</b>{_table(_fields(self), _DEPTH)}"

    def _headline(self) -> Mapping[str, object]:
        """What the line shows, by name."""
        return _fields(self)


def _fields(value: Any) -> dict[str, object]:  # noqa: ANN401 - any dataclass or model
    """The fields that say something: all but those with their default, and empty ones."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: field.default for field in dataclasses.fields(value)}
    else:
        fields = {name: field.default for name, field in type(value).model_fields.items()}
    found = {name: (getattr(value, name), default) for name, default in fields.items()}
    return {
        name: each
        for name, (each, default) in found.items()
        if each is not None and each != default and not (_is_collection(each) and not each)
    }


def _is_structured(value: object) -> bool:
    return dataclasses.is_dataclass(value) or hasattr(type(value), "model_fields")


def _is_collection(value: object) -> TypeGuard[Mapping[object, object] | Sequence[object]]:
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str)


def _in_line(value: object) -> str:
    if isinstance(value, str):
        return repr(printable(value))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping) and all(isinstance(each, int | float) for each in value.values()):
        return repr(dict(value))
    if _is_collection(value):
        return f"<{len(value)}>"
    return f"<{type(value).__name__}>" if _is_structured(value) else repr(value)


def _table(rows: Mapping[str, object], depth: int) -> str:
    lines = (
        f'<tr><th style="{_STYLE}">{_escaped(name)}</th><td style="{_STYLE}">{_cell(value, depth)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table>{''.join(lines)}</table>"


def _cell(value: object, depth: int) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if _is_structured(value):
        return _table(_fields(value), depth - 1) if depth else _escaped(_in_line(value))
    if isinstance(value, Mapping):
        some = {str(name): each for name, each in list(value.items())[:_MOST_ITEMS]}
        return (_table(some, depth - 1) if depth else _escaped(_in_line(value))) + _more(len(value))
    if _is_collection(value):
        items = [_cell(each, depth - 1 if depth else 0) for each in list(value)[:_MOST_ITEMS]]
        return "<br>".join(items) + _more(len(value))
    return _escaped(str(value))


def _more(length: int) -> str:
    return f"<br>and {length - _MOST_ITEMS:,} more" if length > _MOST_ITEMS else ""


def _escaped(text: str) -> str:
    return html.escape(printable(text))
