"""Just enough of PromQL to say which metrics and which of their labels an expression asks for."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")
      | (?P<duration>\[[^\]]*\]) | (?P<number>\d+(?:\.\d+)?\w*)
      | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
      | (?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},])
      | (?P<space>\s+)""",
    re.VERBOSE,
)
_GROUPING = frozenset("by without on ignoring group_left group_right".split())
_AFTER_A_FUNCTION = frozenset({"(", "by", "without"})
_OPERATORS = frozenset("and or unless bool offset".split())


def asked_for(expression: str) -> tuple[dict[str, set[str]], set[str]]:
    """The metrics of an expression with the labels in their braces, and the labels that it groups by.

    Raises:
        ValueError: It holds what no expression of ours should, or its brackets do not match.
    """
    tokens = _tokens(expression)
    metrics: dict[str, set[str]] = {}
    grouped: set[str] = set()
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if kind == "name" and text in _GROUPING:
            end = tokens.index(("sign", ")"), at)
            grouped |= {name for kind, name in tokens[at:end] if kind == "name"} - {text}
            at = end
        elif kind == "name" and text not in _OPERATORS and following not in _AFTER_A_FUNCTION:
            labels = metrics.setdefault(text, set())
            if following == "{":
                end = tokens.index(("sign", "}"), at)
                labels |= {name for kind, name in tokens[at + 1 : end] if kind == "name"}
                at = end
        at += 1
    return metrics, grouped


def _tokens(expression: str) -> list[tuple[str, str]]:
    found = []
    at = 0
    open_brackets: list[str] = []
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"no PromQL at {expression[at : at + 20]!r}")
        at = match.end()
        kind, text = str(match.lastgroup), match.group()
        if text in ("(", "{"):
            open_brackets.append(text)
        if text in (")", "}") and (not open_brackets or open_brackets.pop() + text not in ("()", "{}")):
            raise ValueError(f"a bracket too many before {expression[at:]!r}")
        if kind != "space":
            found.append((kind, text))
    if open_brackets:
        raise ValueError(f"a bracket is left open in {expression!r}")
    return found
