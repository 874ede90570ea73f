"""Texts without credentials: messages of other libraries may quote a URL or a setting as it was given to them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[hidden]"

SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEY($|_)", re.IGNORECASE)
"""Names of environment variables whose values are credentials, or files that hold them."""

SHORTEST = 8
"""Characters of the shortest value that is taken for a credential: shorter ones are words such as "true"."""

_USER = re.compile(r"(\w[\w+.-]*://)([^\s@'\"/]*|[^\s@'\"/:]*:[^\s@'\"]*)@")  # AWS's secrets may hold slashes
_QUERY = re.compile(r"(\w[\w+.-]*://[^\s?'\"]*)\?[^\s'\"]*")


def redacted(value: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """A value as JSON knows them, without the credentials of this process and without those in URLs.

    Parameters
    ----------
    value
        Numbers, texts, and tables of them; numpy's numbers become Python's, everything else its text.
    environment
        Variables whose values must not show where their names say that they are secret.
    """
    secrets = {v for k, v in environment.items() if SECRET_NAMES.search(k) and len(v) >= SHORTEST}
    return _plain(value, sorted(secrets, key=len, reverse=True))


def _plain(value: Any, secrets: list[str]) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_text(str(k), secrets): _plain(v, secrets) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, secrets) for v in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _plain(value.tolist(), secrets)
    return _text(str(value), secrets)


def _text(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _QUERY.sub(rf"\1?{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))
