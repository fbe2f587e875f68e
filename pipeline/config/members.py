"""Member SPECs, as ``-m`` takes them: ``[ALIAS:]ARCH[@WEIGHTS][=CHECKPOINT][?OPTIONS][*FACTOR]`` or ``hf:FOLDER``."""

from __future__ import annotations

import math
import re
from typing import Self

from pydantic import BaseModel, ConfigDict

from pipeline.config.member_options import MemberOptions, parse_options
from pipeline.config.option_types import split_members
from pipeline.errors import ModelError

_FORM = "[ALIAS:]ARCH[@WEIGHTS][=CHECKPOINT][?OPTIONS][*FACTOR]"
_ALIAS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_NO_ALIAS = re.compile(r"^[^A-Za-z0-9_]|[^A-Za-z0-9_.\-]")
_QUOTED = re.compile(r'(?P<left>[^="]*=)"(?P<path>[^"]+)"(?P<rest>(\?[^"]*)?(\*[^"*]*)?)')
HUGGING_FACE = "hf"  # the architecture of ``hf:FOLDER``: that which the folder says
_FOLDER = re.compile(r"(?:(?P<alias>[^:=]*):)?hf:(?P<folder>.+)", re.DOTALL)
_OPTIONS = re.compile(r"\?(?=[a-z_]+=)")  # a question mark before anything else belongs to a file's name


class MemberRequest(BaseModel):
    """One requested member: ``[ALIAS:]ARCH[@WEIGHTS][=CHECKPOINT][?OPTIONS][*FACTOR]``.

    Attributes:
        alias: Name of the member's column.
        arch: A torchvision classifier, or ``timm/NAME``; ``hf`` for the one that a folder of Hugging Face's says.
        weights: Name of torchvision's weights enum, or None for its default.
        checkpoint: Path or URI of a checkpoint, or None to look one up.
        factor: Weight in the consensus, above 0.
        options: What is said of its preprocessing and of its checkpoint.
    """

    model_config = ConfigDict(frozen=True)

    alias: str
    arch: str
    weights: str | None = None
    checkpoint: str | None = None
    factor: float = 1.0
    options: MemberOptions = MemberOptions()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse one SPEC.

        Raises:
            ModelError: It does not follow the grammar.
        """
        if quoted := _QUOTED.fullmatch(text.strip()):  # in quotes, a path may hold every sign of the grammar
            left, checkpoint, tail = quoted["left"][:-1], quoted["path"], quoted["rest"]
            equals = "="
            tail, factor = _split_factor(tail)
            words = tail.removeprefix("?")
        else:
            body, factor = _split_factor(text.strip())
            body, words = _split_options(body)
            left, equals, checkpoint = body.partition("=")
            if folder := _FOLDER.fullmatch(body):
                own = folder["alias"] or _NO_ALIAS.sub("_", folder["folder"].rstrip("/").rpartition("/")[2])
                left, equals, checkpoint = f"{own}:{HUGGING_FACE}", "=", folder["folder"]
        alias, colon, arch = left.rpartition(":")
        arch, at, weights = arch.partition("@")
        if not arch.removeprefix("timm/"):
            raise ModelError(f"model {text!r}: no architecture; the form is {_FORM}")
        for sign, value, what in (
            (colon, alias, "alias"),
            (at, weights, "weights"),
            (equals, checkpoint, "checkpoint"),
        ):
            if sign and not value:
                raise ModelError(f"model {text!r}: the {what} is empty; the form is {_FORM}")
        if "*" in left:
            raise ModelError(f"model {text!r}: the factor after * is not a number: {left.partition('*')[2]!r}")
        if not (math.isfinite(factor) and factor > 0):
            raise ModelError(f"model {text!r}: the factor must be above 0")
        alias = alias or arch.removeprefix("timm/")
        if not _ALIAS.fullmatch(alias):
            raise ModelError(f"model {text!r}: an alias is made of letters, digits, '_', '-' and '.'; not {alias!r}")
        return cls(
            alias=alias,
            arch=arch,
            weights=weights or None,
            checkpoint=checkpoint or None,
            factor=factor,
            options=parse_options(words, text),
        )


def is_alias(text: str) -> bool:
    """Whether a member can be called so."""
    return _ALIAS.fullmatch(text) is not None


def _split_factor(text: str) -> tuple[str, float]:
    """Split ``*FACTOR`` off the end; a star before anything but a number belongs to a file's name."""
    rest, _, factor = text.rpartition("*")
    try:
        return (rest, float(factor)) if rest or text.startswith("*") else (text, 1.0)
    except ValueError:
        return text, 1.0


def _split_options(text: str) -> tuple[str, str]:
    """Split ``?OPTIONS`` off the end."""
    found = list(_OPTIONS.finditer(text))
    return (text[: found[-1].start()], text[found[-1].end() :]) if found else (text, "")


def parse_members(specs: tuple[str, ...]) -> tuple[MemberRequest, ...]:
    """Parse all SPECs, comma lists included; a comma in a path stands in quotes.

    Raises:
        ModelError: One is malformed, none is left, or two share an alias.
    """
    members = tuple(MemberRequest.parse(text) for text in split_members(specs))
    if not members:
        raise ModelError("no models: give at least one with -m, for example -m resnet50")
    seen: set[str] = set()
    for member in members:
        if member.alias in seen:
            spec = f"{HUGGING_FACE}:{member.checkpoint}" if member.arch == HUGGING_FACE else member.arch
            raise ModelError(f"two members are called {member.alias!r}: name one of them, for example -m other:{spec}")
        seen.add(member.alias)
    return members
