"""A member of a tar, as its reader yields it."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_BYTES = 512
NOT_FOLLOWED = "which is not followed"


@dataclass(slots=True)
class Member:
    """One member of an archive.

    Attributes:
        name: Its path as stored. It is used as a name only, never as a path on disk.
        offset: Byte offset of its first header, extension headers included.
        num_bytes: Size of its content: of a sparse file with its holes, of a hard link that of its target.
        special: Kind of a member whose content cannot be read ("a symbolic link to x", ...); empty for the others.
        data_offset: Byte offset of what is stored for it.
        stored_bytes: Size of what is stored for it.
        link: Target of a hard link without content of its own; empty for the others.
        refusal: Why the content of a special member is not read: the end of the sentence "it is SPECIAL, ...".
    """

    name: str
    offset: int
    num_bytes: int
    special: str = ""
    data_offset: int = 0
    stored_bytes: int = 0
    link: str = ""
    refusal: str = NOT_FOLLOWED

    @property
    def stop(self) -> int:
        """Byte offset after its last block."""
        return self.data_offset + -(-self.stored_bytes // BLOCK_BYTES) * BLOCK_BYTES
