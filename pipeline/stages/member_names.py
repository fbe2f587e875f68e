"""What the name of a member says: its sample's key and its field, whether it is an image, and what is no sample's.

Names follow WebDataset: the key of a member is its path up to the first dot of its base name, the rest is the field.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pipeline.records import IMAGE_EXTENSIONS
from pipeline.storage import is_hidden

TRUTH_FIELD = "cls"
# WebDataset's metadata, by its own pattern.
_ARCHIVE_METADATA = re.compile(r"__[^/]*__($|/)")
_MAC_FOLDER, _MAC_COMPANION = "__MACOSX", "._"
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
_SYSTEM_FIELDS = frozenset(name.rpartition(".")[2] for name in _SYSTEM_FILES)
# A number, a date, a version, also behind a word (cam0, frame_12); or a side.
_OF_ITS_OWN = re.compile(
    r"(?:[a-z]{0,8}[-_]?\d[\d._:+tz-]*|left|right|l|r|front|back|rear|top|bottom|before|after)(?:\.(?=.)|$)", re.I
)
_MAX_SHOWN_CHARS = 80  # length of a name in a message


def is_image_name(name: str) -> bool:
    """Whether a name's last extension is an image's."""
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def key_and_field(name: str) -> tuple[str | None, str]:
    """Split a name into WebDataset's key and the field in lower case; without a dot, or with a leading one, no key.

    WebDataset itself groups all hidden files of a directory ``d`` in one sample, ``d/``
    (``findings/webdataset-hidden-files.sh``).
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, field = base.partition(".")
    return (folder + slash + stem, field.lower()) if dot and stem else (None, "")


def without_extension(name: str) -> str:
    """A name without its last extension."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + (base.rpartition(".")[0] or base)


def is_archive_metadata(name: str) -> bool:
    """Whether a member is metadata of a WebDataset archive."""
    return name.startswith("__") and _ARCHIVE_METADATA.match(name) is not None


def is_system_file(name: str, field: str) -> bool:
    """Whether Windows left the member there, and no data set has it."""
    return field in _SYSTEM_FIELDS and name.rpartition("/")[2].lower() in _SYSTEM_FILES


def may_be_passed_over(name: str, key: str | None, field: str) -> bool:
    """Whether a member has to be looked at more closely; quickly answered for nearly all."""
    if key is None or field in _SYSTEM_FIELDS or "/." in name or _MAC_FOLDER in name:
        return True
    return name < "/" and name.startswith(".") and not name.startswith("./")


def lies_hidden(name: str) -> bool:
    """Whether a member lies in a hidden folder, which is passed over on disk and below S3 prefixes, too.

    What lies in the folder that macOS adds to zips is looked at more closely: pictures were unpacked into some.
    """
    return any(is_hidden(step) and step != _MAC_FOLDER for step in name.split("/")[:-1])


def must_hold_image(name: str, key: str | None) -> bool:
    """Whether a member belongs to a sample only if it holds an image: one without a key, or in a Mac's folder.

    Hidden files with the name of an image are samples, whatever they hold; a Mac's companion files are not.
    """
    if key is not None:
        return _MAC_FOLDER in name and _MAC_FOLDER in name.split("/")[:-1]
    base = name.rpartition("/")[2]
    return not base.startswith(".") or base.startswith(_MAC_COMPANION) or not is_image_name(base)


def stem_of(field: str) -> str:
    """A field without its last part: ``left`` for ``left.png``, empty for ``png``."""
    return field.rpartition(".")[0]


def last_part(field: str) -> str:
    """The last part of a field: ``png`` for ``left.png``."""
    return field.rpartition(".")[2]


def beside(image_field: str | None, field: str) -> str:
    """The field that belongs to one image of a sample: ``left.cls`` for ``left.png``, ``cls`` for ``png``."""
    stem = stem_of(image_field or "")
    return f"{stem}.{field}" if stem else field


def truth_field(image_field: str | None, fields: Collection[str]) -> str | None:
    """The field of a sample that holds the truth about an image; None where there is none, or it is not clear which.

    ``left.cls`` for ``left.png``, else ``cls``, else the only one that ends in it (``target.cls``).
    """
    if TRUTH_FIELD in fields and not (image_field and "." in image_field):
        return TRUTH_FIELD
    found = [field for field in fields if last_part(field) == TRUTH_FIELD]
    for wanted in (beside(image_field, TRUTH_FIELD), TRUTH_FIELD):
        if wanted in found:
            return wanted
    return found[0] if len(found) == 1 else None


def image_rank(field: str, name: str) -> tuple[bool, str]:
    """The place of an image among those of its sample: a plain extension before a dotted field, then name order."""
    return "." in field, name


def are_separate(fields: Collection[str]) -> bool:
    """Whether the image fields of one key look as if each were a sample of its own: numbers, dates, sides, versions."""
    return all("." in field and _is_of_its_own(stem_of(field)) for field in fields)


def kind_of_image(field: str) -> str:
    """What kind of image a field holds: ``depth.png``; one kind for all plain ones, and for those that are separate."""
    if "." not in field:
        return "plain"
    return "separate" if are_separate([field]) else field


def _is_of_its_own(text: str) -> bool:
    at = 0
    while at < len(text):
        match = _OF_ITS_OWN.match(text, at)
        if match is None:
            return False
        at = match.end()
    return at > 0


def shorten(name: str) -> str:
    """A name as a message shows it."""
    return name if len(name) <= _MAX_SHOWN_CHARS else name[: _MAX_SHOWN_CHARS - 3] + "..."
