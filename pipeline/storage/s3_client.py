"""Connect to S3, as AWS's own variables and files say, or to a compatible store."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config

from pipeline.config.settings import StorageConfig
from pipeline.errors import StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_AWS_HOST = re.compile(r"\.(amazonaws\.com(\.cn)?|api\.aws)$")


def connect(config: StorageConfig, options: Mapping[str, Any]) -> S3Client:
    """Make a client.

    Args:
        config: Which endpoint, and whether requests are signed.
        options: Options of botocore's ``Config``: retries, connections, time limits.

    Raises:
        StorageError: The endpoint holds credentials.
    """
    options = dict(options)
    if config.no_sign_request:
        options["signature_version"] = UNSIGNED
    session = boto3.session.Session()
    _refuse_credentials(config.s3_endpoint or "")
    client_for = functools.partial(
        session.client, "s3", endpoint_url=config.s3_endpoint, region_name=session.region_name or "us-east-1"
    )
    client: S3Client = client_for(config=Config(**options))
    endpoint = client.meta.endpoint_url  # from the option, AWS's variables, a profile, or AWS's own
    _refuse_credentials(endpoint)
    if not _AWS_HOST.search(urlsplit(endpoint).hostname or ""):
        # Stores other than AWS often refuse trailing checksums (411) and virtual-host addresses.
        options["s3"] = {"addressing_style": "path"}
        if "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
            options["request_checksum_calculation"] = "when_required"
            options["response_checksum_validation"] = "when_required"
        client = client_for(config=Config(**options))
    return client


def _refuse_credentials(endpoint: str) -> None:
    """Refuse an endpoint with credentials: requests, and messages about requests, would show them."""
    if "@" in endpoint:
        host = endpoint.rpartition("@")[2]
        raise StorageError(f"the S3 endpoint at {host} is given with credentials; they belong in AWS's own variables")
