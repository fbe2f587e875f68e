"""File names and sample keys made from keys and class names: safe on every file system, and unique.

A safe name stays as it is. Unsafe characters become ``%XX``, as in URIs. A name that already contains ``%XX`` is
escaped as well, so different names stay different.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_MAX_BYTES = 180  # of a name; file systems have room for 255, and an extension follows
_KEPT_CHARS = 40  # of one that is longer
_HASH_DIGITS = 32
_ESCAPE = re.compile("%[0-9A-F]{2}")
# characters with a meaning for a file system, a shell's glob, a URI or Windows, and invisible ones
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\\\\:*?"<>|\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d\xb9\xb2\xb3]) *(\..*)?")  # of Windows


def without_extension(key: str) -> str:
    """A path without its last extension; a name whose only dot is the first character stays as it is."""
    folder, slash, base = key.rpartition("/")
    return folder + slash + (base.rpartition(".")[0] or base)


def file_stem(text: str, *, dots: bool = True) -> str:
    """A key or a class name as the name of a file or directory, without extension.

    Args:
        text: Any text.
        dots: Whether dots other than the first and the last character may stay.
    """
    return _shorten(_escape(text, "/" if dots else "/."), text)


def same_on_disk(text: str) -> str:
    """What names have in common that some file system takes for one: it ignores case, and the form of Unicode."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def class_folders(class_names: Sequence[str]) -> tuple[str, ...]:
    """Names of folders for classes, distinct on every file system.

    Names that differ by case or by the form of their Unicode alone all get the index: ImageNet has
    ``Cardigan (264)``, a dog, and ``cardigan (474)``.

    Args:
        class_names: Of the K classes, each once.
    """
    plain = [file_stem(name) for name in class_names]
    times = Counter(map(same_on_disk, plain))
    taken = {name for name, count in times.items() if count == 1}
    folders = []
    for index, name in enumerate(plain):
        choice = name
        if times[same_on_disk(name)] > 1:
            while choice == name or same_on_disk(choice) in taken:
                choice = f"{choice} ({index})"
            taken.add(same_on_disk(choice))
        folders.append(choice)
    return tuple(folders)


def sample_key(text: str) -> str:
    """A key for WebDataset: a relative path whose last name has no dot; directories stay.

    Readers take all that follows the first dot of the last name as the extension, and skip names that begin with two
    underscores.
    """
    *folders, base = text.split("/")
    parts = [_escape(folder, "") for folder in folders] + [_escape(base, ".")]
    key = "/".join(parts)
    first = parts[0]
    if first.startswith("__"):
        key = "%5F" + key[1:]
    return key if len(key.encode()) <= _MAX_BYTES else _shorten(key.replace("/", "%2F"), text)


def _escape(text: str, more: str) -> str:
    """One name of a path, with what is unsafe in it escaped."""
    if not text:
        return "%FF"  # no character is encoded so, and an empty name is not allowed
    unsafe = [match.start() for match in _UNSAFE.finditer(text)]
    unsafe += [at for at, char in enumerate(text) if char in more]
    unsafe += [at for at in (0, len(text) - 1) if text[at] in ". "]
    if _RESERVED.fullmatch(text):
        unsafe.append(0)
    if unsafe or _ESCAPE.search(text):
        unsafe += [at for at, char in enumerate(text) if char == "%"]
    escaped = set(unsafe)
    return "".join(_percent_encode(char) if at in escaped else char for at, char in enumerate(text))


def _percent_encode(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _shorten(name: str, text: str) -> str:
    if len(name.encode()) <= _MAX_BYTES:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{name[:_KEPT_CHARS]}%7E{digest}"
