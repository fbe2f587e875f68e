"""Bytes in Arrow's own memory.

Arrow's threads let go of the bytes that they have decoded some time after a table is there. Bytes of Python can only be
let go of with the interpreter's lock, and a thread that asks for it while the interpreter ends takes the process down
(``terminate called without an active exception``, exit code 134): seen with pyarrow 26 and Python 3.11 where a command
ended soon after it had read many small parts.
"""

from __future__ import annotations

import pyarrow as pa


def arrow_reader(data: bytes) -> pa.BufferReader:
    """A file of Arrow with a copy of these bytes."""
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)
