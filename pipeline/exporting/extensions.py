"""The extensions of exported images: one for each kind of image, by its content, whatever its name was."""

from __future__ import annotations

import re

from pipeline.stages.heif import is_heif
from pipeline.stages.member_names import is_image_name

UNKNOWN = "img"
_PLAIN_FIELD = re.compile(r"[a-z0-9][a-z0-9_.]{0,31}")
_DIGIT = re.compile(r"\d")
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "j2k"),
    (b"8BPS", "psd"),
    (b"DDS ", "dds"),
)
_NETPBM = {b"P1": "pbm", b"P2": "pgm", b"P3": "ppm", b"P4": "pbm", b"P5": "pgm", b"P6": "ppm"}
_SAME = {  # of images whose first bytes do not tell
    **dict.fromkeys(("jpeg", "jpe", "jfif", "jif", "jfi", "mpo"), "jpg"),
    **{"apng": "png", "tiff": "tif", "dib": "bmp", "avifs": "avif", "heif": "heic", "hif": "heic", "jpf": "jp2"},
}
_RAW = frozenset({"dng", "cr2", "nef", "arw"})  # raw photographs: TIFF, by their first bytes


def image_extension(name: str, data: bytes, *, keeps_field: bool) -> str:
    """The extension of an image in lower case: ``jpg`` for ``photo.JPEG``, ``left.png`` for a member ``0001.left.png``.

    Readers take each extension for a kind of its own. A field with a digit, as in ``0001.329.png``, is left out: it may
    be a time or a hash, another one in each sample.

    Args:
        name: Of the member or file.
        data: Its content.
        keeps_field: Whether the name of the field stays: all that follows the first dot, as in WebDataset. Otherwise
            the extension is what follows the last dot.
    """
    base = name.rpartition("/")[2]
    last = base.rpartition(".")[2].lower() if "." in base else ""
    kind = _kind(last if is_image_name(last) and _PLAIN_FIELD.fullmatch(last) else UNKNOWN, data)
    field = base.partition(".")[2].lower()
    if keeps_field and is_image_name(field) and _PLAIN_FIELD.fullmatch(field):
        before, dot, _ = field.rpartition(".")
        if not _DIGIT.search(before):
            return before + dot + kind
    return kind


def _kind(named: str, data: bytes) -> str:
    """The extension for what an image is; where its first bytes do not tell, for what it is named."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return named if kind == "tif" and named in _RAW else kind
    if data[:2] in _NETPBM and data[2:3].isspace():
        return _NETPBM[data[:2]]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return "heic" if is_heif(data) else "avif"
    return _SAME.get(named, named)
