"""Addresses of stores that fsspec opens: which are accepted, and their faults in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from bench.core.errors import UserError, first_line

_SCHEME = "://"


def is_address(text: str) -> bool:
    """Whether ``text`` names a place in a store, not a path of this machine."""
    return _SCHEME in text


def check_address(address: str, setting: str) -> None:
    """Refuse an address that names no place, or must not stand in results and messages.

    Raises:
        UserError: credentials or a query in it, stores chained one in another, or a scheme alone,
            which some stores take for a folder of this machine.
    """
    place = address.split(_SCHEME, 1)[1]
    if not place.strip("/"):
        raise UserError("names no bucket or folder", where=f"{setting}={address}")
    if "@" in place.split("/", 1)[0] or "?" in address:
        raise UserError(
            "an address must carry neither credentials nor a query",
            where=setting,
            fix="leave them to the environment, as the store's own tools do",
        )
    if "::" in address:
        raise UserError(
            "chained addresses are not read", where=setting, fix="give the files of one store"
        )


def filesystem(url: str) -> tuple[Any, str]:
    """The store that an address is in, opened, and the path in it.

    Raises:
        UserError: a package that opens it is missing, or it cannot be reached.
    """
    import fsspec  # imported on first need: it takes a while, and most corpora are files

    with reachable(url):
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(url))


def is_of_this_machine(system: Any) -> bool:
    """Whether an opened store is a folder of this machine, perhaps one that others see as well."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn any error in the block into one of reaching the address: stores raise all kinds.

    Raises:
        UserError: in the place of any other exception.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"a package is missing ({first_line(error)})",
            where=url,
            fix="install it, e.g. pip install s3fs or gcsfs",
        ) from error
    except Exception as error:
        raise UserError(
            f"cannot be reached ({first_line(error)})",
            where=url,
            fix="check the address and your credentials for it",
        ) from error
