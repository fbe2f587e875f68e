"""Names of files and samples that are made of keys and class names: safe anywhere, and no two alike.

A name that is safe stays as it is. In others the signs that are not become ``%XX``, as in URIs, and a name that holds
something of that look already is escaped as well; so whatever is made of two different names differs.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

_MOST_BYTES = 180  # of a name; file systems have room for 255, and an extension follows
_KEPT_CHARS = 40  # of one that is longer
_HASH_DIGITS = 32
_ESCAPE = re.compile("%[0-9A-F]{2}")
# what a file system, a shell's glob, a URI or Windows takes for an order, and marks that nobody sees
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\\\\:*?"<>|\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, each once: those that several classes share get their index in brackets."""
    found = list(names)
    while doubled := {name for name, times in Counter(found).items() if times > 1}:
        found = [f"{name} ({index})" if name in doubled else name for index, name in enumerate(found)]
    return tuple(found)


def without_extension(key: str) -> str:
    """A path without its last extension; a name that begins with its only dot stays as it is."""
    folder, slash, base = key.rpartition("/")
    return folder + slash + (base.rpartition(".")[0] or base)


def file_stem(text: str, *, dots: bool = True) -> str:
    """A key or a class name as one name of a file or directory, without extension.

    Args:
        text: Anything.
        dots: Whether dots may stay that are not the first or last sign.
    """
    return _shortened(_escaped(text, "/" if dots else "/."), text)


def sample_key(text: str) -> str:
    """A key as WebDataset can have it: a relative path whose last name has no dot; directories stay.

    A reader takes what follows the first dot of the last name for the extension, and names that begin with two
    underscores for remarks about the archive.
    """
    *folders, base = text.split("/")
    parts = [_escaped(folder, "") for folder in folders] + [_escaped(base, ".")]
    key = "/".join(parts)
    first = parts[0]
    if first.startswith("__"):
        key = "%5F" + key[1:]
    return key if len(key.encode()) <= _MOST_BYTES else _shortened(key.replace("/", "%2F"), text)


def _escaped(text: str, more: str) -> str:
    """One name of a path, with what is unsafe in it escaped."""
    if not text:
        return "%FF"  # of no sign: an empty name cannot be one
    marks = [match.start() for match in _UNSAFE.finditer(text)]
    marks += [at for at, sign in enumerate(text) if sign in more]
    marks += [at for at in (0, len(text) - 1) if text[at] in ". "]
    if _RESERVED.fullmatch(text):
        marks.append(0)
    if marks or _ESCAPE.search(text):
        marks += [at for at, sign in enumerate(text) if sign == "%"]
    wanted = set(marks)
    return "".join(_code(sign) if at in wanted else sign for at, sign in enumerate(text))


def _code(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode("utf-8", "surrogatepass"))


def _shortened(name: str, text: str) -> str:
    if len(name.encode()) <= _MOST_BYTES:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{name[:_KEPT_CHARS]}%7E{digest}"
