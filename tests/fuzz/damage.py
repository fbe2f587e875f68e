"""Damage as disks, networks and people do it, and where it is: one stretch of the bytes is no longer what it was."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

KINDS = ("flip", "cut", "insert", "remove", "zero", "noise", "repeat")


@dataclass(frozen=True)
class Damage:
    """One thing that happened to some bytes.

    Attributes:
        kind: ``flip``: one bit is another. ``cut``: nothing comes after. ``insert``: noise is between.
            ``remove``: bytes are lost. ``zero``, ``noise``: bytes are overwritten. ``repeat``: bytes come twice.
        at: Offset of the first byte.
        num_bytes: How many; where it is of no matter, 1.
        seed: Of the noise.
    """

    kind: str
    at: int
    num_bytes: int = 1
    seed: int = 0

    @classmethod
    def drawn(cls, rng: random.Random, size: int, longest: int = 3000, *, blocks: bool = False) -> Damage:
        """Some damage to so many bytes; in whole blocks of 512 if asked for."""
        kind, at, num_bytes = rng.choice(KINDS), rng.randrange(max(1, size)), rng.randint(1, longest)
        if blocks:
            at, num_bytes = at // 512 * 512, -(-num_bytes // 512) * 512
        return cls(kind, at, 1 if kind in {"flip", "cut"} else num_bytes, rng.randrange(1 << 30))

    def done_to(self, data: bytes) -> bytes:
        """The damaged bytes."""
        before, there, after = data[: self.at], data[self.at :][: self.num_bytes], data[self.at + self.num_bytes :]
        rng = random.Random(self.seed)
        match self.kind:
            case "flip":
                return before + bytes(byte ^ (1 << rng.randrange(8)) for byte in there) + after
            case "cut":
                return before
            case "insert":
                return before + rng.randbytes(self.num_bytes) + there + after
            case "remove":
                return before + after
            case "zero":
                return before + bytes(len(there)) + after
            case "noise":
                return before + rng.randbytes(len(there)) + after
            case "repeat":
                return before + there + there + after
        raise AssertionError(self.kind)


def damaged(data: bytes, rng: random.Random, times: int = 4, *, within: int | None = None) -> bytes:
    """The bytes after one to so many kinds of damage, all within the first bytes if asked for."""
    for _ in range(rng.randint(1, times)):
        size = len(data) if within is None else min(len(data), within)
        data = Damage.drawn(rng, size, longest=64).done_to(data)
    return data


# Checksums keep damage out of what lies behind them; an attacker puts them right.

_BLOCK_BYTES = 512
_CHUNK_HEAD_BYTES = 8
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def sealed(block: bytes) -> bytes:
    """A tar header with its checksum put right."""
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def with_tar_checksums(data: bytes) -> bytes:
    """All whole blocks that have a tar header's magic, with their checksums put right."""
    blocks = [data[at : at + _BLOCK_BYTES] for at in range(0, len(data), _BLOCK_BYTES)]
    is_header = [block[257:262] == b"ustar" and len(block) == _BLOCK_BYTES for block in blocks]
    return b"".join(sealed(block) if header else block for block, header in zip(blocks, is_header, strict=True))


def with_png_checksums(data: bytes) -> bytes:
    """All chunks of a PNG, as far as their lengths lead, with their checksums put right; other bytes as they are."""
    if not data.startswith(_PNG_MAGIC):
        return data
    mended, at = bytearray(data), len(_PNG_MAGIC)
    while at + _CHUNK_HEAD_BYTES < len(data):
        end = at + _CHUNK_HEAD_BYTES + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        mended[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(mended)
