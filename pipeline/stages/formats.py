"""Image formats: recognise one by its first bytes, and classify why an image cannot be decoded."""

from __future__ import annotations

import re

from PIL import features

from pipeline.errors import ImageError
from pipeline.records import Reason
from pipeline.stages.heif import is_avif, is_heif
from pipeline.stages.jpeg import name_unsupported_jpeg
from pipeline.stages.psd import name_unsupported_psd
from pipeline.stages.tiff import name_unsupported_tiff

NEEDS_LIBHEIF = "HEIC needs libheif: install libheif1 and libheif-plugin-libde265 (Debian) or libheif (conda, Homebrew)"
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
)
# Images, whatever follows, of formats that are not decoded. The number is where the bytes are.
_UNSUPPORTED_MAGIC = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF-", "PDF"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"PF\n", "PFM in colour"),
    (0, b"P7\n", "PAM"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"\x80\x2a\x5f\xd7", "Cineon"),
    (0, b"gimp xcf ", "XCF"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"AT&TFORM", "DjVu"),
    (8, b"ILBM", "ILBM"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"\x97JB2\r\n\x1a\n", "JBIG2"),
    (0, b"\xabKTX ", "KTX"),
    (0, b"BLP1", "BLP"),
    (0, b"BLP2", "BLP"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"\xb1\x68\xde\x3a", "DCX"),
    (4, b"ftypcrx ", "camera raw (CR3)"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (0, b"IIRO", "camera raw (ORF)"),
    (0, b"IIRS", "camera raw (ORF)"),
    (0, b"MMOR", "camera raw (ORF)"),
    (0, b"IIU\0", "camera raw (RW2)"),
    (0, b"\0MRM", "camera raw (MRW)"),
    (0, b"FOVb", "camera raw (X3F)"),
    (6, b"HEAPCCDR", "camera raw (CRW)"),
)
_BY_HEADER = {"JPEG": name_unsupported_jpeg, "TIFF": name_unsupported_tiff, "PSD": name_unsupported_psd}
_PILLOW_FEATURES = {"WebP": "webp", "AVIF": "avif", "JPEG 2000": "jpg_2000"}  # of which Pillow may be built without
# Further beginnings of image files, told by fewer bytes: enough for a name that has no extension
_SHORT_MAGIC = re.compile(
    rb"BM.{4}\x00{4}|P[1-7][\s#]|RIFF....WEBP|\x00\x00[\x01\x02]\x00[^\x00]|\x0a[\x02-\x05]\x01[\x01-\x08]|"
    rb"\x01\xda[\x00\x01][\x01\x02]|qoif|icns|P[Ff]\s|/\* XPM|#define \w+_width|....ftyp(?:avi|he|mi|ms)",
    re.DOTALL,
)
SNIFFED_BYTES = 132
_TRUNCATED_WORDS = ("truncated", "not enough data", "unexpected end", "premature end")
_UNSUPPORTED_WORDS = ("unsupported", "not supported", "unimplemented", "not available", "unknown raw mode")
_MEMORY_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
_SOURCE_LINE = re.compile(r"^.*\.cpp:\d+, ")
_HEVC_HINT = re.compile(r'\.? If this is an "Unsupported codec" error.*')  # torchcodec adds it to whatever fails


def begins_like_image(data: bytes) -> bool:
    """Whether a file begins like an image, supported or not.

    Args:
        data: Its first :data:`SNIFFED_BYTES` bytes.
    """
    if any(data.startswith(magic) for magic, name in _MAGIC if name != "BMP"):
        return True
    if any(data.startswith(magic, at) for at, magic, _ in _UNSUPPORTED_MAGIC):
        return True
    return _SHORT_MAGIC.match(data) is not None


def classify_unidentified(data: bytes) -> ImageError:
    """Tell why Pillow cannot identify an image, from its header."""
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    unsupported = next((name for at, magic, name in _UNSUPPORTED_MAGIC if data.startswith(magic, at)), None)
    if unsupported is None and head.startswith(b"<") and b"<svg" in head:
        unsupported = "SVG"
    name = _name_format(data)
    if unsupported is None and name in _BY_HEADER:
        unsupported = _BY_HEADER[name](data)
    if unsupported is not None:
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"{unsupported} is not supported")
    if name is None:
        return ImageError(Reason.NOT_AN_IMAGE, "no image format that is known")
    if name in _PILLOW_FEATURES and not features.check(_PILLOW_FEATURES[name]):
        return ImageError(
            Reason.UNSUPPORTED_FORMAT, f"{name} needs a Pillow that is built with it: install pillow's wheel"
        )
    return ImageError(Reason.CORRUPT_IMAGE, f"starts as {name}, but cannot be read as one")


def _name_format(data: bytes) -> str | None:
    """Name the format that an image starts as."""
    if is_avif(data):
        return "AVIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def classify_error(error: Exception, data: bytes) -> ImageError:
    """Tell from a decoder's error, of whatever type, why an image cannot be decoded.

    Args:
        error: What the decoder raised.
        data: The encoded image.
    """
    message = one_line(error)
    found = message.lower()
    if isinstance(error, MemoryError) or any(words in found for words in _MEMORY_WORDS):
        return ImageError(Reason.TOO_LARGE, "not enough memory to decode it")
    if "unsupported codec" in found and is_heif(data):
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"{NEEDS_LIBHEIF}; {message}"[:300])
    if isinstance(error, ImportError):
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"what decodes it cannot be loaded: {message}"[:300])
    if any(words in found for words in _TRUNCATED_WORDS) or _is_cut_webp(data):
        return ImageError(Reason.TRUNCATED_IMAGE, message)
    if isinstance(error, NotImplementedError) or any(words in found for words in _UNSUPPORTED_WORDS):
        return ImageError(Reason.UNSUPPORTED_FORMAT, message)
    name = _name_format(data)
    if name in _BY_HEADER and (kind := _BY_HEADER[name](data)) is not None:
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"{kind} is not supported")
    return ImageError(Reason.CORRUPT_IMAGE, message)


def _is_cut_webp(data: bytes) -> bool:
    """Whether a WebP file is shorter than it declares; its decoder reports that like any other damage."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")


def one_line(error: Exception) -> str:
    """Format an error as one line of at most 300 characters, without what torchcodec adds to it."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an error that cannot even be printed is one all the same
        text = ""
    text = _HEVC_HINT.sub("", _SOURCE_LINE.sub("", " ".join(text.split())))
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
