"""Escaping of text from outside for terminals and pages, and removal of secrets.

Keys, names and messages come from inputs, outputs and servers. A terminal would obey escape sequences, line breaks and
marks of writing direction in them, so all that is printed goes through here. Secrets get into text through URIs: all
messages leave them out, and URIs that hold them are refused.
"""

from __future__ import annotations

import json
import re

HIDDEN = "***"

# C0, DEL and C1 (U+009B alone begins an escape sequence), line and paragraph separators, marks that turn the writing
# direction around, and halves of surrogate pairs, which no encoding has: they stand for undecodable bytes of a path.
_OBEYED = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[\x00-\x1f{_OBEYED}]")
_UNPRINTABLE_IN_JSON = re.compile(f"[{_OBEYED}]")  # json.dumps() has taken care of the others

_LIKE_A_BYTE = re.compile(rb"\\(?=x(?:5c|[89a-f][0-9a-f]))")

# ``://USER:PASSWORD@`` and ``://TOKEN@``; a password may hold slashes, the name of a bucket holds neither sign. What
# begins with ``arn:`` is the name of an access point.
_USERINFO = re.compile(r"://(?!arn:)(?:[^\s/@'\"]*:[^\s@'\"]*|[^\s/@'\"]+)@")
_SIGNATURE = re.compile(
    r"([?&](?:x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid|sig|token)=)[^\s&'\"]+",
    re.IGNORECASE,
)


def one_line(text: str) -> str:
    """Text without line breaks: messages of libraries may have some."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip()) if "\n" in text else text


def printable(text: object) -> str:
    r"""Text with control characters as escapes such as ``\x1b``: one line that a terminal shows and does not obey."""
    return _UNPRINTABLE.sub(lambda match: ascii(match.group())[1:-1], str(text))


def json_text(content: object, *, indent: int | None = None) -> str:
    """JSON with non-ASCII letters as they are, and control characters as escapes."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return _UNPRINTABLE_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def name_text(name: bytes) -> str:
    r"""A file's name as text: bytes that are no UTF-8 as ``\xff``. Two names never give one text.

    A backslash that could be taken for the beginning of such a byte becomes ``\x5c``.
    """
    if b"\\" in name:
        name = _LIKE_A_BYTE.sub(rb"\\x5c", name)
    return name.decode("utf-8", "backslashreplace")


def redacted(text: str) -> str:
    """Text without the secrets that its URIs hold: user names, passwords, signatures."""
    if "@" in text:
        text = _USERINFO.sub(f"://{HIDDEN}@", text)
    return _SIGNATURE.sub(rf"\1{HIDDEN}", text) if "=" in text else text


def holds_secret(uri: str) -> bool:
    """Whether a URI contains credentials or a signature."""
    return "://" in uri and redacted(uri) != uri
