"""JPEG: which kinds of it nobody here decodes, from the header of the frame."""

from __future__ import annotations

_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_HIERARCHICAL = {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}
_ARITHMETIC = {0xC9, 0xCA, 0xCB}
_FRAMES = {0xC0, 0xC1, 0xC2, *_LOSSLESS, *_HIERARCHICAL, *_ARITHMETIC}
_JPEG_LS = 0xF7
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA


def name_unsupported_jpeg(data: bytes) -> str | None:
    """Name the kind of a JPEG that cannot be decoded; None if its header gives no reason.

    Source: ITU-T T.81, table B.1 and B.2.2; T.87, C.2.2.
    """
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _FRAMES or marker == _JPEG_LS:
            return _name_frame(marker, data[at + 2 : at + 10])
        elif marker in {_END_OF_IMAGE, _START_OF_SCAN}:
            return None
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def _name_frame(marker: int, head: bytes) -> str | None:
    if len(head) < 8:
        return None
    length, bits, height, width = (int.from_bytes(head[a:b], "big") for a, b in ((0, 2), (2, 3), (3, 5), (5, 7)))
    components = head[7]
    if length != 8 + 3 * components or not height or not width:
        return None  # damaged
    if marker == _JPEG_LS:
        return "JPEG-LS" if 2 <= bits <= 16 else None
    if marker in _HIERARCHICAL:
        return "hierarchical JPEG"
    if marker in _LOSSLESS:
        return f"lossless JPEG of {bits} bits" if (2 <= bits <= 16 and bits != 8) or marker in _ARITHMETIC else None
    if bits == 12:
        return "JPEG of 12 bits"
    if components not in {1, 3, 4}:
        return f"JPEG of {components} components"
    return "JPEG in arithmetic coding" if marker in _ARITHMETIC else None
