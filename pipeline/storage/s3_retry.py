"""Calls of the S3 client: its errors translated, and tried again while the store does not answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from pipeline.errors import (
    ObjectArchived,
    ObjectChanged,
    ObjectForbidden,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
)

_MAX_TRIES = 6
_BACKOFF_S = 0.2
_GIVE_UP_S = 120.0

_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}  # answered with status 400
_CREDENTIALS = {  # codes that speak of who asks, not of what they may
    *_EXPIRED,
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidSecurity", "NotSignedUp"),
    *("AuthorizationHeaderMalformed", "UnrecognizedClientException", "InvalidClientTokenId"),
}
_UNSUPPORTED = {"501", "NotImplemented"}
_TRANSIENT_ERRORS = (
    NoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    CredentialRetrievalError,
    ResponseParserError,
    HTTPError,
    OSError,
)

T = TypeVar("T")


def error_code(error: BaseException | None) -> str:
    """The store's error code (``NoSuchKey``, ``501``, ...); empty if the error did not come from the store."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def translate_errors(uri: str, call: Callable[[], T]) -> T:
    """Run a client call, and translate its errors.

    Raises:
        StorageError: The call failed; the subclass says how.
    """
    try:
        return call()
    except ClientError as error:
        raise _storage_error(uri, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise ObjectForbidden(f"{uri}: no AWS credentials were found (or pass --no-sign-request)") from error
    except _TRANSIENT_ERRORS as error:
        if "Invalid header" in str(error):  # the original error shows them, so it must not be chained
            raise ObjectForbidden(
                f"{uri}: the credentials hold a line break, or what no HTTP header can hold"
            ) from None
        answer = "its address does not answer: " if isinstance(error, NoConnectionError) else ""
        raise StoreUnavailable(f"{uri}: {answer}{' '.join(str(error).split())}") from error
    except (BotoCoreError, ValueError) as error:  # boto3's own checks, for example of a bucket's name
        message = " ".join(str(error).split()).removeprefix("Parameter validation failed: ")
        raise StorageError(f"{uri}: {message.partition(': Bucket name must')[0]}") from error
    except (LookupError, TypeError, AttributeError) as error:  # botocore fails on an incomplete answer
        raise StorageError(f"{uri}: the store's answer makes no sense: {error!r}") from error


def is_unsupported(error: StorageError) -> bool:
    """Whether the store answered that it does not know the request."""
    return error_code(error.__cause__) in _UNSUPPORTED


def _storage_error(uri: str, error: ClientError) -> StorageError:
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status == 404:
        return ObjectMissing(f"{uri}: no such {'bucket' if code == 'NoSuchBucket' else 'object'}")
    if code == "InvalidObjectState":
        where = error.response.get("Error", {})
        kind = where.get("AccessTier") or where.get("StorageClass")  # which of the two depends on the class
        shown = f" ({kind})" if isinstance(kind, str) else ""
        return ObjectArchived(f"{uri}: in an archive class{shown}: it must be restored before it can be read")
    details = [code, " ".join((error.response.get("Error", {}).get("Message") or "").split())]
    if code == "403":  # the answer to a HEAD has no body with details
        details = ["forbidden: the credentials are wrong or do not open it"]
    elif code in _CREDENTIALS:
        details.insert(0, "the credentials are wrong or expired")
    elif status in {401, 403}:
        details.insert(0, "no permission with these credentials")
    message = ": ".join([uri, *filter(None, details)])
    if status in {401, 403} or code in _EXPIRED:
        return ObjectForbidden(message)
    if status in {412, 416}:  # 416: the object is shorter than planned
        return ObjectChanged(f"{uri}: changed since it was planned")
    return StoreUnavailable(message)


def call_with_retries(uri: str, call: Callable[[], T]) -> T:
    """Run a client call, and try again with backoff and jitter while the store does not answer.

    The client's own retries do not cover a body that breaks off, and they share one quota, which is used up
    when many threads are throttled at once.

    Raises:
        StoreUnavailable: The retries were used up.
        StorageError: The store answered with another error.
    """
    started = time.monotonic()
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            return translate_errors(uri, call)
        except StoreUnavailable as error:
            out_of_time = time.monotonic() - started > _GIVE_UP_S
            if attempt == _MAX_TRIES or out_of_time or is_unsupported(error):
                raise
        time.sleep(_BACKOFF_S * 2**attempt * random.uniform(0.25, 0.75))  # noqa: S311 - jitter, not a secret
    raise StoreUnavailable(uri)
