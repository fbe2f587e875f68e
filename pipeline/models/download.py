"""Downloads of published weights: whole or not at all, with progress."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.text import fmt

# Called with the file's name, the bytes received, and the total bytes (None: unknown).
ProgressCallback = Callable[[str, int, int | None], None]

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT_S = 20.0
_CHUNK_BYTES = 1 << 20
_NUM_TRIES = 3


class DownloadError(Exception):
    """A file could not be downloaded; the text says why. It never leaves this package."""


def ignore_progress(_name: str, _done: int, _total: int | None) -> None:
    """Ignore the progress."""


def download_url(url: str, name: str, watch: ProgressCallback) -> bytes:
    """Download a whole file over HTTP; one that breaks off is requested again from the start.

    Raises:
        DownloadError: It cannot be downloaded.
    """
    for number in range(1, _NUM_TRIES + 1):
        try:
            return _download_once(url, name, watch)
        except (http.client.IncompleteRead, ConnectionResetError, TimeoutError) as error:
            if number == _NUM_TRIES:
                raise DownloadError(
                    f"the answer broke off {fmt.plural(number, 'time')}, last with {error!r}"
                ) from error
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(str(getattr(error, "reason", error))) from error
    raise AssertionError("unreachable")


def _download_once(url: str, name: str, watch: ProgressCallback) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310 - an https URL of the catalogue
        length = response.headers.get("Content-Length")
        total = int(length) if length is not None and length.isdecimal() else None
        data = bytearray()
        while chunk := response.read(_CHUNK_BYTES):
            data += chunk
            watch(name, len(data), total)
    if total is not None and len(data) < total:  # http.client does not report a truncated answer
        raise http.client.IncompleteRead(b"", total - len(data))
    return bytes(data)


def download_from_hub(repository: str, name: str, watch: ProgressCallback) -> Path:
    """Download the weights of a Hugging Face hub repository into the hub's own cache.

    Args:
        repository: Name of the repository.
        name: Name for the progress.
        watch: Called with the progress.

    Raises:
        DownloadError: They cannot be downloaded.
    """
    from huggingface_hub import constants, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    try:
        if not constants.HF_HUB_OFFLINE:
            check_reachable(hf_hub_url(repository, HUB_FILES[0]))  # its client tries for half a minute
        for file in HUB_FILES:
            try:
                return Path(hf_hub_download(repository, file, tqdm_class=_make_progress_bar(name, watch)))
            except EntryNotFoundError:
                if file == HUB_FILES[-1]:
                    raise
    except DownloadError:
        raise
    except Exception as error:  # the hub client's errors are of a dozen families
        raise DownloadError(str(getattr(error, "reason", type(error).__name__))) from error
    raise AssertionError("unreachable")


def check_reachable(url: str) -> None:
    """Make sure that somebody answers at an address, whatever the answer.

    Raises:
        DownloadError: Nobody does.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_S):  # noqa: S310 - https
            pass
    except urllib.error.HTTPError:
        pass  # it answered; the error comes when the file is requested
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(str(getattr(error, "reason", error))) from error


def _make_progress_bar(name: str, watch: ProgressCallback) -> type[Any]:
    """Make a progress bar for the hub's client that draws nothing and calls ``watch``."""
    from tqdm import tqdm

    class Meter(tqdm):  # type: ignore[misc]  # tqdm has no types
        """Passes the count to ``watch``."""

        def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - tqdm's own
            super().__init__(*args, **{**options, "disable": True})
            self.n = options.get("initial", 0)

        def update(self, n: float | None = 1) -> bool | None:
            """Add to the count."""
            self.n += n or 0
            watch(name, int(self.n), None if self.total is None else int(self.total))
            return None

    return Meter
