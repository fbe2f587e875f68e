"""Connect to S3, as AWS's own variables and files say, or to a compatible store."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore import UNSIGNED
from botocore.config import Config
from botocore.loaders import Loader, create_loader
from botocore.session import Session

from pipeline.config.settings import StorageConfig
from pipeline.errors import StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_AWS_HOST = re.compile(r"\.(amazonaws\.com(\.cn)?|api\.aws)$")


def connect(config: StorageConfig, options: Mapping[str, Any]) -> S3Client:
    """Make a client.

    Args:
        config: Which endpoint, whether requests are signed, and who pays for them.
        options: Options of botocore's ``Config``: retries, connections, time limits.

    Raises:
        StorageError: The endpoint holds credentials.
    """
    options = dict(options)
    if config.no_sign_request:
        options["signature_version"] = UNSIGNED
    session = Session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    _refuse_credentials(config.s3_endpoint or "")
    region = session.get_config_variable("region") or "us-east-1"
    client_for: Callable[..., S3Client] = functools.partial(  # type: ignore[assignment]  # a client of any service
        session.create_client, "s3", endpoint_url=config.s3_endpoint, region_name=region
    )
    client: S3Client = client_for(config=Config(**options))
    endpoint = client.meta.endpoint_url  # from the option, AWS's variables, a profile, or AWS's own
    _refuse_credentials(endpoint)
    if not _AWS_HOST.search(urlsplit(endpoint).hostname or "") and (defaults := _defaults_elsewhere(session)):
        client = client_for(config=Config(**options, **defaults))
    if config.request_payer:
        client.meta.events.register("before-call.s3", _accept_charges)
    return client


@functools.cache
def _loader(data_path: str | None) -> Loader:
    """What reads the descriptions of S3: one for all clients, which then parse a megabyte of JSON once."""
    loader: Loader = create_loader(data_path)
    return loader


def _defaults_elsewhere(session: Session) -> dict[str, Any]:
    """Options for a store that is not AWS: what the user's own settings leave open.

    Such stores often refuse trailing checksums (411) and virtual-host addresses.
    """
    profile = session.get_scoped_config()
    defaults: dict[str, Any] = {}
    for name in ("request_checksum_calculation", "response_checksum_validation"):
        if f"AWS_{name.upper()}" not in os.environ and name not in profile:
            defaults[name] = "when_required"
    own = profile.get("s3")
    if not isinstance(own, dict) or "addressing_style" not in own:
        defaults["s3"] = {"addressing_style": "path"}  # the rest of the section counts as it is
    return defaults


def _accept_charges(params: dict[str, Any], **_: object) -> None:
    """Say with a request that whoever sends it pays for it; it is signed after that."""
    params["headers"]["x-amz-request-payer"] = "requester"


def _refuse_credentials(endpoint: str) -> None:
    """Refuse an endpoint with credentials: requests, and messages about requests, would show them."""
    if "@" in endpoint:
        host = endpoint.rpartition("@")[2]
        raise StorageError(f"the S3 endpoint at {host} is given with credentials; they belong in AWS's own variables")
