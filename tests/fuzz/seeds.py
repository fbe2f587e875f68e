"""Where fuzzing starts from: small sound examples of everything that is parsed."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz.damage import sealed
from PIL import Image
from tiffs import Kind, encode

from pipeline.output.parts import METADATA_KEY
from pipeline.records import Cursor

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REPOSITORY = Path(__file__).parents[2]
SAMPLE_DATA = REPOSITORY / "examples" / "data"
NASTY = REPOSITORY.parent / "shared" / "data" / "nasty"
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
END = bytes(1024)
PACKERS = (functools.partial(gzip.compress, mtime=0), bz2.compress, lzma.compress, zstd.compress)
_MAX_SEED_BYTES = 40_000  # small files are mutated more often
_MAX_SHARD_BYTES = 12_000


def member(
    name: str,
    data: bytes = b"",
    fmt: int = tarfile.GNU_FORMAT,
    kind: bytes = tarfile.REGTYPE,
    link: str = "elsewhere.jpg",
) -> bytes:
    """One member as it stands in a tar: headers, content, padding."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    info.linkname = link if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE} else ""
    return info.tobuf(fmt) + data + bytes(-len(data) % 512)


def old_sparse(name: str, data: bytes, num_more_headers: int = 0) -> bytes:
    """A member that is sparse in GNU's old way: the map is in the header and in blocks after it."""
    block = bytearray(member(name, fmt=tarfile.GNU_FORMAT))
    block[124:136] = b"%011o\0" % len(data)
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[386:410] = b"%011o\0%011o\0" % (0, len(data))
    block[482:495] = bytes([num_more_headers > 0]) + b"%011o\0" % len(old_sparse_content(data))
    more = [bytes(504) + bytes([number + 1 < num_more_headers]) + bytes(7) for number in range(num_more_headers)]
    return sealed(bytes(block)) + b"".join(more) + data + bytes(-len(data) % 512)


def old_sparse_content(data: bytes) -> bytes:
    """What the file of :func:`old_sparse` holds."""
    return data + bytes(3 * len(data) + 512)


def pax_sparse(name: str, data: bytes) -> bytes:
    """A member that is sparse in GNU's newer way: told in a pax header, with the map before the data."""
    content = (b"2\n512\n%d\n%d\n0\n" % (len(data), 1024 + len(data))).ljust(512, b"\0") + data
    info = tarfile.TarInfo("GNUSparseFile.0/x")
    info.size = len(content)
    realsize = str(len(pax_sparse_content(data)))
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name}
    info.pax_headers["GNU.sparse.realsize"] = realsize
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def pax_sparse_content(data: bytes) -> bytes:
    """What the file of :func:`pax_sparse` holds."""
    return bytes(512) + data + bytes(512)


def global_header(**records: str) -> bytes:
    """A pax header that belongs to no member."""
    return tarfile.TarInfo.create_pax_global_header(records)


def tars() -> list[bytes]:
    """Archives of every format, with every kind of member, sound and not."""
    long_name = "d/" * 90 + "ü.jpg"
    found = [b"", END, (SAMPLE_DATA / "shard-000.tar").read_bytes()[:_MAX_SHARD_BYTES]]
    for fmt in FORMATS:
        plain = [("a.jpg", b"image"), ("a.cls", b"7"), ("a.json", b"{}"), ("b.jpg", b"x" * 700), ("b.b.png", b"")]
        plain += [] if fmt == tarfile.USTAR_FORMAT else [(long_name, b"y")]
        found.append(b"".join(member(name, data, fmt) for name, data in plain) + END)
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.AREGTYPE, b"V", b"D")
    odd = b"".join(member(f"k{number}.jpg", kind=kind) for number, kind in enumerate(kinds))
    odd += global_header(comment="x") + old_sparse("s.jpg", b"z" * 600, 2) + pax_sparse("p.jpg", b"z")
    odd += member("l.jpg", kind=tarfile.LNKTYPE, link="s.jpg") + member("m.jpg", kind=tarfile.LNKTYPE, link="./l.jpg")
    odd += member("nodot", b"1") + member("d/.hidden", b"2") + member("k.jpg", b"3") * 2 + member("__meta__/x.jpg")
    found += [odd + END, odd + END + found[4] + END, odd + bytes(512) + odd, odd]
    gnu = found[4]
    for pack in PACKERS:
        found += [pack(gnu), pack(gnu[:1000]) + bytes(9) + pack(gnu[1000:]), pack(odd + END)]
    return found


def photo(width: int = 40, height: int = 24) -> Image.Image:
    """A picture with something in it."""
    coarse = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def images() -> dict[str, bytes]:
    """Pictures in every format that can be written here, and what else is at hand, by name."""
    rgb, exif = photo(), Image.Exif()
    exif[0x0112] = 6
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    wanted: list[tuple[str, Image.Image, str, dict[str, object]]] = [
        *((fmt.lower(), rgb, fmt, {}) for fmt in _WRITABLE),
        *((f"frames-{fmt.lower()}", rgb, fmt, frames) for fmt in ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO")),
        *((f"alpha-{fmt.lower()}", alpha, fmt, {}) for fmt in ("PNG", "WEBP", "AVIF", "TIFF", "ICO", "TGA", "SGI")),
        *((f"palette-{fmt.lower()}", rgb.quantize(9), fmt, {}) for fmt in ("PNG", "GIF", "BMP", "PCX", "TIFF")),
        *((f"bits-{fmt.lower()}", rgb.convert("1"), fmt, {}) for fmt in ("PNG", "XBM", "BMP", "TIFF", "PPM")),
        *((f"deep-{fmt.lower()}", deep, fmt, {}) for fmt in ("PNG", "TIFF", "JPEG2000", "PPM")),
        *((f"exif-{fmt.lower()}", rgb, fmt, {"exif": exif.tobytes()}) for fmt in ("JPEG", "PNG", "WEBP", "TIFF")),
        *((f"tiff-{how}", rgb, "TIFF", {"compression": how}) for how in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")),
        ("cmyk-jpeg", rgb.convert("CMYK"), "JPEG", {}),
        ("progressive-jpeg", rgb, "JPEG", {"progressive": True}),
        ("restarts-jpeg", rgb, "JPEG", {"restart_marker_rows": 1}),
        ("rle-tga", rgb, "TGA", {"compression": "tga_rle"}),
    ]
    found: dict[str, bytes] = {}
    for name, image, fmt, options in wanted:
        buffer = io.BytesIO()
        image.save(buffer, fmt, **options)
        found[name] = buffer.getvalue()
    found["xpm"] = b'/* XPM */\nstatic char *a[] = {\n"2 1 2 1",\n"a c #ff0000",\n"b c #00ff00",\n"ab"\n};\n'
    found["psd"] = b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\2\0\0\0\2\0\x08\0\3" + bytes(12) + bytes(2) + bytes(range(12))
    for name, kind in _TIFFS.items():
        found[name] = encode(kind)
    for path in sorted(NASTY.glob("*.*")) if NASTY.is_dir() else ():
        if path.suffix != ".csv" and path.stat().st_size <= _MAX_SEED_BYTES and not path.name.startswith("bomb_"):
            found[path.name] = path.read_bytes()
    return found


_TIFFS = {
    "tiff-planes-16": Kind(b"II", 2, 1, 1, (16, 16, 16), (), planar=2),
    "tiff-white-16": Kind(b"II", 0, 1, 1, (16,), ()),
    "tiff-floats": Kind(b"MM", 1, 3, 1, (32,), (), compression=8),
    "tiff-ycbcr": Kind(b"MM", 6, 1, 1, (8, 8, 8), (), planar=2),
}
_WRITABLE = "JPEG PNG GIF WEBP AVIF BMP DIB TIFF JPEG2000 PPM ICO ICNS TGA DDS PCX SGI QOI".split()


def parts() -> list[bytes]:
    """Parts as far as the ledger looks."""
    found = []
    for rows, last in ((0, False), (3, True)):
        following = Cursor(2, 9, 1024).to_dict()
        about = {"unit": "a" * 16, "fingerprint": "0" * 64, "part": 1, "last": last, "first_index": 6}
        table = pa.table({"key": pa.array([str(row) for row in range(rows)], pa.string())})
        found.append(_parquet(table.replace_schema_metadata({METADATA_KEY: json.dumps(about | {"next": following})})))
    return found


def key_lists() -> list[bytes]:
    """Key lists of slices."""
    keys = {"key": [b"a.jpg", b"d/\xff.png"], "size_bytes": [1, 2], "etag": ["x", "y"]}
    return [_parquet(pa.table(keys)), _parquet(pa.table({name: values[:0] for name, values in keys.items()}))]


def listings() -> list[bytes]:
    """Answers to LIST, as S3 gives them."""
    start = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    )
    item = b"<Contents><Key>p/%s.jpg</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    item += b'<ETag>"e"</ETag><Size>7</Size></Contents>'
    end = b"<EncodingType>url</EncodingType></ListBucketResult>"
    whole = start + item % b"a" + item % b"%C3%A9" + b"<IsTruncated>false</IsTruncated>" + end
    more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    empty = start + b"<IsTruncated>false</IsTruncated>" + end
    return [whole, empty, start + item % b"a" + more + end]


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()
