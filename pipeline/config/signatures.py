"""Real signatures for functions that take a job's options as keyword arguments.

``call_options`` holds the options of each function as a ``TypedDict``, generated from the command line and the
settings. Editors and type checkers read it from ``**options: Unpack[...]``. ``help()`` and the completion of notebooks
ask the function itself: for them :func:`takes_options` adds signature and docstring.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

Function = TypeVar("Function", bound=Callable[..., Any])

_WIDTH = 110
_PLACE = re.compile(r"^( *)\*\*options: .*$", re.MULTILINE)


def takes_options(options: type, kind: type[BaseModel], **defaults: object) -> Callable[[Function], Function]:
    """Give a function with ``**options`` the signature and the docstring of its options.

    The docstring without them stays as ``__short_doc__``.

    Args:
        options: The ``TypedDict`` of the options; texts in ``Annotated`` say what each means.
        kind: The settings that the options are parsed into, for their defaults.
        **defaults: Defaults of the function that differ from those of the settings.
    """
    unordered = typing.get_type_hints(options, include_extras=True)  # those that several functions share come first
    hints = {name: unordered[name] for name in (*kind.model_fields, *unordered) if name in unordered}
    known = {name: field.default for name, field in kind.model_fields.items()} | defaults

    def add(function: Function) -> Function:
        signature = inspect.signature(function)
        first = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        more = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=known.get(name),
                annotation=inspect.formatannotation(typing.get_args(hint)[0]).replace("typing.", ""),
            )
            for name, hint in hints.items()
        ]
        function.__short_doc__ = function.__doc__  # type: ignore[attr-defined]  # any callable
        function.__signature__ = signature.replace(parameters=[*first, *more])  # type: ignore[attr-defined]  # likewise
        function.__doc__ = _PLACE.sub(lambda match: _describe(hints, match[1]), function.__doc__ or "")
        return function

    return add


def _describe(hints: dict[str, Any], indent: str) -> str:
    """The options as entries of a docstring's ``Args``."""
    entries = (f"{name}: {typing.get_args(hint)[1]}" for name, hint in hints.items())
    return "\n".join(
        textwrap.fill(entry, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ", break_on_hyphens=False)
        for entry in entries
    )
