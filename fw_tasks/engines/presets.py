"""An engine's settings by the name of a preset, some of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from selector.errors import UsageError

S = TypeVar("S", bound=BaseModel)


def resolve(engine: str, presets: Mapping[str, S], preset: str, changes: Mapping[str, Any] | None = None) -> S:
    """A preset's settings; with ``changes`` they bear another name, and so another hash.

    Raises
    ------
    UsageError
        Unknown preset, unknown key, or a value out of range.
    """
    if preset not in presets:
        raise UsageError(f"{engine} has no preset {preset!r}: choose one of {', '.join(presets)}")
    settings = presets[preset]
    if not changes:
        return settings
    try:
        return type(settings)(**settings.model_dump() | {"name": f"{preset}-changed"} | dict(changes))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "together"
        known = ", ".join(type(settings).model_fields)
        raise UsageError(f"{engine} settings: {key}: {first['msg']} (settings are {known})") from error
