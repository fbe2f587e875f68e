"""Where a page is written: into the output, or where the user says."""

from __future__ import annotations

import os

from pipeline.errors import OutputError, RequestError, StorageError
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage, absolute_uri


def save_page(ledger: Ledger, storage: Storage, page: bytes, save: str | os.PathLike[str] | None, name: str) -> str:
    """Write a page, in place of an older one; its path or URI.

    Args:
        ledger: The output that it is about.
        storage: How to reach both.
        page: The page.
        save: File to write, local or S3; None for one in the output.
        name: Its name there.

    Raises:
        OutputError: The page cannot be written to the output.
        RequestError: The page cannot be written to ``save``.
    """
    if save is None:
        try:
            storage.replace(uri := ledger.uri(name), page)
        except StorageError as error:
            raise OutputError(f"OUT cannot be written: {error}; --save FILE puts the page elsewhere") from error
        return uri
    try:
        storage.replace(uri := absolute_uri(os.fspath(save)), page)
    except StorageError as error:
        raise RequestError(f"--save {error}") from error
    return uri
