"""A server's description of a file, and requests that are repeated after passing failures."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import requests

from bench.core import progress
from bench.core.errors import UserError

T = TypeVar("T")

TRIES = 5  # failures in a row without a new byte, after which a file is given up
FIRST_PAUSE = 1.0  # seconds; each further pause is twice as long
_TIMEOUT = (10, 60)  # seconds to connect, and to wait for the next bytes
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that may soon be others
# Files are asked for uncompressed: compressed, they would have another size and checksum.
_HEADERS = {"Accept-Encoding": "identity"}


class PassingError(Exception):
    """A failure that another try may not meet."""


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        size: the size in bytes, None if the server does not say.
        version: changes whenever the file does (ETag or time of change), None if it does not say.
        digests: the digests of its bytes, by ``md5`` and ``crc32c``, where the server says them.
    """

    name: str
    url: str
    size: int | None
    version: str | None
    digests: dict[str, bytes] = field(default_factory=dict)


def look(name: str, base: str) -> Remote:
    """Ask for a file's size, version and checksums.

    Raises:
        UserError: no such file, or a server that does not answer.
    """
    url = f"{base.rstrip('/')}/{name}"

    def ask() -> Remote:
        with request("HEAD", url) as answer:
            headers = answer.headers
        length = headers.get("Content-Length", "")
        return Remote(
            name,
            url,
            int(length) if length.isdecimal() else None,
            version(headers),
            _digests(headers),
        )

    return until_done(url, ask)


def version(headers: Mapping[str, str]) -> str | None:
    """The header that tells one version of a file from the next; None if there is none."""
    return headers.get("ETag") or headers.get("Last-Modified")


def request(method: str, url: str, **headers: str) -> requests.Response:
    """The answer to one request, its body unread.

    Raises:
        PassingError: a failure that is worth another try.
        UserError: one that is not.
    """
    try:
        answer = requests.request(
            method,
            url,
            headers={**_HEADERS, **headers},
            stream=True,
            allow_redirects=True,
            timeout=_TIMEOUT,
        )
    except (requests.ConnectionError, requests.Timeout) as error:
        raise PassingError(f"no connection ({_reason(error)})") from error
    except (requests.RequestException, ValueError) as error:  # such as a malformed address
        raise UserError(
            f"cannot ask for it ({_reason(error)})", where=url, fix="check --base"
        ) from error
    if answer.ok or answer.status_code == requests.codes.requested_range_not_satisfiable:
        return answer
    answer.close()
    status = f"the server answers {answer.status_code}"
    if answer.status_code in _PASSING:
        raise PassingError(status)
    raise UserError(status, where=url, fix="is the file there? --base names another server")


def until_done(url: str, attempt: Callable[[], T], progressed: Callable[[], int] = lambda: 0) -> T:
    """The first result of ``attempt`` that is no passing failure, with growing pauses before it.

    Args:
        attempt: the function to call; it raises PassingError to be called again.
        progressed: the amount done so far; whenever it has grown, the count of tries starts anew.

    Raises:
        UserError: the tries are used up.
    """
    failures, most = 0, progressed()
    while True:
        try:
            return attempt()
        except PassingError as failure:
            done = progressed()
            failures = 1 if done > most else failures + 1
            most = max(most, done)
            if failures == TRIES:
                raise UserError(
                    f"{failure}, after {TRIES} tries without progress",
                    where=url,
                    fix="run the command again later: what has arrived is kept",
                ) from failure
            pause = FIRST_PAUSE * 2 ** (failures - 1)
            progress.say(f"{url}: {failure}; trying again in {pause:g} s")
            time.sleep(pause)


def _digests(headers: Mapping[str, str]) -> dict[str, bytes]:
    """The digests that a header ``x-goog-hash: crc32c=BASE64,md5=BASE64`` states.

    They are of the stored bytes, so there are none where the server sends others.
    """
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return {}
    digests = {}
    for part in headers.get("x-goog-hash", "").split(","):
        kind, _, text = part.strip().partition("=")
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:  # binascii.Error is one, and letters beyond ASCII raise another
            continue
        if len(value) == {"md5": 16, "crc32c": 4}.get(kind):
            digests[kind] = value
    return digests


def _reason(error: Exception) -> str:
    """The message of the innermost cause, which requests wraps three times."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return str(getattr(cause, "strerror", None) or cause)[:200]
