"""Headers as writers leave them: only name, type, size and checksum decide; and the search for the next one."""

from __future__ import annotations

import io
import random
import tarfile

import pytest
from byte_streams import Stream
from fuzz.damage import sealed
from fuzz.seeds import END, member

from pipeline.records import Reason, ShardEvent
from pipeline.stages.tar import BLOCK_BYTES, Member, TarReader

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
UNNEEDED = {"mode": (100, 108), "uid": (108, 116), "gid": (116, 124), "mtime": (136, 148)}
UNNEEDED |= {"uname": (265, 297), "gname": (297, 329), "devmajor": (329, 337), "devminor": (337, 345)}
TEN = [(f"{number:03d}.jpg", random.Random(number).randbytes(700 + 300 * number)) for number in range(10)]


def walk(data: bytes) -> tuple[list[tuple[str, bytes | None]], list[ShardEvent]]:
    """Names with content, and events."""
    tar = TarReader(Stream(data))
    found: list[tuple[str, bytes | None]] = []
    events = []
    for item in tar:
        if isinstance(item, Member):
            found.append((item.name, None if item.special else tar.payload()))
        else:
            events.append(item)
    return found, events


def changed(block: bytes, start: int, stop: int, text: bytes) -> bytes:
    """A header with another field, and its checksum put right."""
    return sealed(block[:start] + text[: stop - start].ljust(stop - start, b"\0") + block[stop:BLOCK_BYTES])


def without_magic(written: bytes) -> bytes:
    """A member as the seventh edition of Unix wrote it."""
    return sealed(written[:257] + bytes(255)) + written[BLOCK_BYTES:]


def pax(records: bytes) -> bytes:
    return member("pax", records, kind=tarfile.XHDTYPE)


def record(text: bytes, digits: int = 2) -> bytes:
    return b"%0*d %s\n" % (digits, len(text) + digits + 2, text)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("text", [b"dos", b"????????????", b"\xff" * 32, b"-1", b" \0 9", b"rw-r--r--"])
@pytest.mark.parametrize("field", UNNEEDED)
def test_what_nobody_needs_may_hold_anything(fmt, text, field):
    name, content = "a.jpg", b"image"
    written = member(name, content, fmt)
    data = changed(written, *UNNEEDED[field], text) + written[BLOCK_BYTES:] + member("b.jpg", b"b", fmt) + END
    assert walk(data) == ([("a.jpg", b"image"), ("b.jpg", b"b")], [])


@pytest.mark.parametrize("text", [b"twelve", b"-1", b"\xff" * 12, b"19"])
def test_a_size_that_is_none_is_damage(text):
    data = changed(member("a.jpg"), 124, 136, text) + member("b.jpg", b"b") + END
    members, events = walk(data)
    assert members == [("b.jpg", b"b")]
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_the_size_of_what_has_no_content_may_hold_anything(kind):
    data = changed(member("a", kind=kind), 124, 136, b"twelve") + member("b.jpg", b"b") + END
    members, events = walk(data)
    assert [(name.rstrip("/"), content) for name, content in members] == [("a", None), ("b.jpg", b"b")]
    assert events == []


@pytest.mark.parametrize("size", [b"5", b"     5 ", b"00000000005\0", b"000000000005", b"\x80" + bytes(10) + b"\5"])
def test_sizes_as_writers_write_them(size):
    written = member("a.jpg", b"image")
    data = changed(written, 124, 136, size) + written[BLOCK_BYTES:] + END
    assert walk(data) == ([("a.jpg", b"image")], [])


def test_checksums_of_signed_bytes_as_some_writers_add_them():
    block = bytearray(member("ü" * 20 + ".jpg"))
    signed = sum(byte - 256 * (byte > 127) for byte in block[:148] + b" " * 8 + block[156:])
    block[148:156] = b"%06o\0 " % signed
    assert walk(bytes(block) + END) == ([("ü" * 20 + ".jpg", b"")], [])
    block[148:156] = b"%06o\0 " % (signed + 1)
    assert [event.reason for event in walk(bytes(block) + END)[1]] == [Reason.SHARD_CORRUPT]


# -- the prefix of the name ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("magic", "name"),
    [(b"ustar\x0000", "15302337700/a.jpg"), (b"ustar  \0", "a.jpg"), (b"ustar 00", "a.jpg"), (bytes(8), "a.jpg")],
)
def test_only_the_magic_of_ustar_means_a_prefix(magic, name):
    block = changed(member("a.jpg"), 345, 357, b"15302337700")
    assert walk(changed(block, 257, 265, magic) + END) == ([(name, b"")], [])


# -- numbers in pax headers ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [b"5", b"05", b"0" * 40 + b"5"])
@pytest.mark.parametrize("digits", [2, 3, 40])
def test_zeros_in_front_of_pax_numbers(size, digits):
    text = b"size=" + size
    data = pax(record(text, digits)) + member("a.jpg") + b"image".ljust(512, b"\0") + member("b.jpg", b"b") + END
    assert walk(data) == ([("a.jpg", b"image"), ("b.jpg", b"b")], [])


def test_an_empty_pax_value_means_the_header():
    data = pax(record(b"size=") + record(b"path=")) + member("a.jpg", b"image") + END
    assert walk(data) == ([("a.jpg", b"image")], [])


def test_a_member_with_a_name_that_no_path_can_have_is_passed_over_and_said():
    inner = member("inner.jpg", b"not a member") + END
    data = member("x" * 5000 + ".jpg", inner) + member("b.jpg", b"b") + END
    members, (event,) = walk(data)
    assert members == [("b.jpg", b"b")]
    assert event.message == "a member whose name or link has more than 4,096 bytes is passed over"
    assert (event.offset, event.offset + event.num_bytes) == (0, len(data) - len(END) - 1024)


# -- the search after damage ---------------------------------------------------------------------------


def old_archive(members) -> bytes:
    return b"".join(without_magic(member(name, data)) for name, data in members) + END


@pytest.mark.parametrize("position", [0, 4, 9])
@pytest.mark.parametrize("damage", ["noise", "flip", "zero"])
def test_a_damaged_header_in_a_tar_without_magic_costs_one_member(position, damage):
    data = bytearray(old_archive(TEN))
    at = sum(BLOCK_BYTES + -(-len(content) // BLOCK_BYTES) * BLOCK_BYTES for _, content in TEN[:position])
    noise = random.Random(1).randbytes(BLOCK_BYTES)
    flipped = bytes([data[at] ^ 1]) + data[at + 1 : at + BLOCK_BYTES]
    data[at : at + BLOCK_BYTES] = {"noise": noise, "flip": flipped, "zero": bytes(BLOCK_BYTES)}[damage]
    members, events = walk(bytes(data))
    assert members == TEN[:position] + TEN[position + 1 :]
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT]


def numbers_as_text(number: int) -> bytes:
    """Text of digits with a right checksum: nearly a header without magic."""
    block = bytearray((f"{number:011o} " * 50).encode()[:BLOCK_BYTES])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


LOOKALIKES = {
    "text": b"".join(map(numbers_as_text, range(40))),
    "text and zeros": b"".join(sealed(numbers_as_text(number)[:257] + bytes(255)) for number in range(40)),
    "zeros": bytes(512) * 8,
    "no name": sealed(bytes(124) + b"00000000000\0" + bytes(376)),
    "noise": random.Random(5).randbytes(60_000),
}


@pytest.mark.parametrize("fmt", ["v7", "ustar"])
@pytest.mark.parametrize("lookalike", LOOKALIKES)
def test_content_is_not_taken_for_headers_after_damage(fmt, lookalike):
    content = LOOKALIKES[lookalike] + bytes(-len(LOOKALIKES[lookalike]) % BLOCK_BYTES)
    written = [member(name, data, tarfile.USTAR_FORMAT) for name, data in (TEN[0], ("x.npy", content), TEN[1])]
    written = [without_magic(one) if fmt == "v7" else one for one in written]
    written[1] = random.Random(1).randbytes(BLOCK_BYTES) + written[1][BLOCK_BYTES:]
    members, events = walk(b"".join(written) + END)
    assert members == TEN[:2]
    assert [event.reason for event in events] == [Reason.SHARD_CORRUPT]


def test_an_old_tar_inside_another_is_no_part_of_it():
    """Headers without magic are looked for only where the archive has such."""
    inner = member("inner.tar", old_archive(TEN), tarfile.USTAR_FORMAT)
    inner = random.Random(1).randbytes(BLOCK_BYTES) + inner[BLOCK_BYTES:]
    data = member("a.jpg", b"a", tarfile.USTAR_FORMAT) + inner + member("b.jpg", b"b", tarfile.USTAR_FORMAT) + END
    members, events = walk(data)
    assert members == [("a.jpg", b"a"), ("b.jpg", b"b")]
    assert [event.offset for event in events] == [1024]


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04", "but a zip file"),
        (b"\x04\x22\x4d\x18", "but lz4"),
        (b"LZIP\x01", "but lzip"),
        (b"<!DOCTYPE html>", "but HTML or XML"),
        (b"{}", "it holds no sound header"),
    ],
)
def test_what_is_no_tar_is_named(start, what):
    members, (event,) = walk(start + random.Random(0).randbytes(5000))
    assert members == []
    assert what in event.message
    assert "\n" not in event.message


def test_a_fresh_archive_of_python_is_read_as_before():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in TEN:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert walk(buffer.getvalue()) == (TEN, [])
