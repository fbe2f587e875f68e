"""Measurements that are kept in the user's cache directory, as JSON. Losing them costs time only."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


class MeasurementCache:
    """A JSON object in a file. What cannot be read or written is measured again.

    Args:
        file: The file; None to remember nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def get(self, key: str) -> Any:  # noqa: ANN401 - any JSON: who asks checks it, for anybody may edit the file
        """Look up what was stored under a key; None if there is nothing."""
        return self._read().get(key)

    def put(self, key: str, value: object) -> None:
        """Store a value, beside what other processes have stored."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**self._read(), key: value}, indent=1, sort_keys=True)
            with tempfile.NamedTemporaryFile("w", dir=self._file.parent, delete=False, encoding="utf-8") as temporary:
                temporary.write(text)
            os.replace(temporary.name, self._file)

    def _read(self) -> dict[str, Any]:
        if self._file is None:
            return {}
        try:
            loaded = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}
