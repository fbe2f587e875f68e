"""PSD: which kinds of it Pillow shows as they are meant, from its header.

Source: Adobe Photoshop File Formats Specification, "File Header Section" and "Layer and Mask Information Section".
"""

from __future__ import annotations

import struct

_MODES = {0: "bitmap", 1: "grey", 2: "indexed", 3: "RGB", 4: "CMYK", 7: "multichannel", 8: "duotone", 9: "Lab"}
_NOT_SHOWN = {0, 7}  # Pillow shows a negative of the one, and one ink of the other
_HEADER = struct.Struct(">4sH6xHIIHH")


def name_unsupported_psd(data: bytes) -> str | None:
    """Name the kind of a PSD that is not decoded; None if its header gives no reason."""
    if len(data) < _HEADER.size:
        return None
    _, version, _, _, _, depth, mode = _HEADER.unpack_from(data)
    if version == 2:
        return "PSB"
    if version != 1 or mode not in _MODES or depth not in {1, 8, 16, 32}:
        return None  # damaged
    if depth > 8:
        return f"PSD of {depth} bits"
    return f"PSD in {_MODES[mode]} mode" if mode in _NOT_SHOWN else None


def has_transparency(data: bytes) -> bool:
    """Whether the channel behind the colours is transparency; otherwise it is a selection that somebody has saved.

    A negative number of layers says so.
    """
    at = _HEADER.size
    try:
        for _ in range(2):  # colour table, resources
            at += 4 + struct.unpack_from(">I", data, at)[0]
        section_bytes, layers_bytes, num_layers = struct.unpack_from(">IIh", data, at)
    except struct.error:
        return False
    return bool(section_bytes and layers_bytes and num_layers < 0)
