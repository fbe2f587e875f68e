"""An existing output, opened by its place."""

from __future__ import annotations

import os

from pipeline.config.settings import StorageConfig
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage


def open_ledger(
    out: str | os.PathLike[str], s3_endpoint: str | None, *, no_sign_request: bool, request_payer: bool = False
) -> tuple[Ledger, Storage]:
    """Open an existing output: its ledger, and the storage that reads it.

    Raises:
        OutputError: ``out`` is not the output of a job, or cannot be read.
    """
    storage = Storage(
        StorageConfig(s3_endpoint=s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    )
    ledger = Ledger(os.fspath(out), storage)
    ledger.job()
    return ledger, storage
