"""A database's errors in one line: what is wrong, where, and what to do; nothing secret is in it."""

from __future__ import annotations

import re

from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    DuplicateKeyError,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

from selector.mongo_address import PARTS, public_address, without_credentials

AUTHENTICATION_FAILED, UNAUTHORIZED = 18, 13
_NOT_AUTHORIZED = re.compile(r"not authorized on (\S+) to execute command \{ ?(\w+)")
_HOST = re.compile(r"ServerDescription \('([^']+)', (\d+)\)")


def explain(error: PyMongoError, address: str = "") -> str:
    """A database's error in one line.

    ``address``: the public address, where the error itself does not name the host.
    """
    at = f" {address}" if address else ""
    if isinstance(error, NotPrimaryError):
        said = error.details.get("codeName") if isinstance(error.details, dict) else None
        return f"the database{at} takes no writes ({said or 'NotWritablePrimary'}); name its primary in database.uri"
    if isinstance(error, AutoReconnect):
        return f"the database does not answer ({_where(error)}); check database.uri, or see `selector doctor`"
    if isinstance(error, OperationFailure) and not isinstance(error, DuplicateKeyError):
        return f"the database{at} {_refusal(error)}"
    return f"the database{at} failed: {_first_line(error)}"


def what_is_wrong_with(uri: str, error: Exception) -> str:
    """Why the driver takes this for no address, without a word of what is secret in it.

    The driver quotes what it stumbles over, which is part of the password where that holds a ``/`` or an ``@``.
    """
    address = public_address(uri)
    if PARTS.match(uri) is None:
        return "database.uri: not a MongoDB URI: it begins with neither mongodb:// nor mongodb+srv://"
    if uri.startswith("mongodb+srv://") and isinstance(error, ConfigurationError) and "DNS" in str(error):
        return f"the database does not answer ({address}: its name is not known to the DNS); check database.uri"
    if "@" not in uri:
        return f"database.uri: not a MongoDB URI ({_first_line(error)}); see configs/campaign.yaml"
    return (
        "database.uri: the driver cannot read it; percent-encode user and password, or take them from the environment "
        "with ${NAME}, which needs no encoding (docs/mongodb.md)"
    )


def _refusal(error: OperationFailure) -> str:
    if error.code == AUTHENTICATION_FAILED:
        return "refuses user or password (AuthenticationFailed); check them, and authSource, in database.uri"
    if error.code == UNAUTHORIZED:
        found = _NOT_AUTHORIZED.search(str(error))
        act = f"{found[2]} on '{found[1]}'" if found else _first_line(error)
        return f"does not allow its user this ({act}); grant it the role of docs/mongodb.md"
    return f"refused: {_first_line(error)}; check the user's rights in database.uri"


def _where(error: AutoReconnect) -> str:
    """What the driver says, with the hosts that it does not name."""
    said = _first_line(error)
    hosts = dict.fromkeys(f"{host}:{port}" for host, port in _HOST.findall(str(error)))
    unnamed = ", ".join(host for host in hosts if host not in said)
    return f"{unnamed}: {said}" if unnamed else said


def _first_line(error: Exception) -> str:
    text = str(error).split(", Timeout:")[0].split(", full error:")[0].split("\n")[0].split(" (configured timeouts")[0]
    return without_credentials(text)
