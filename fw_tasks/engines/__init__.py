"""DFT engines behind one protocol (:mod:`fw_tasks.engines.base`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fw_tasks.engines.base import Engine
from selector.errors import UsageError

ENTRY_POINTS = "theory_level_selector.engines"


def _gpaw() -> Callable[..., Engine]:
    from fw_tasks.engines.gpaw import GPAWEngine

    return GPAWEngine


def _replay() -> Callable[..., Engine]:
    from fw_tasks.engines.replay import ReplayEngine

    return ReplayEngine


def _qe_yambo() -> Callable[..., Engine]:
    from fw_tasks.engines.qe_yambo import QEYamboEngine

    return QEYamboEngine


_OWN: dict[str, Callable[[], Callable[..., Engine]]] = {
    "gpaw": _gpaw,
    "qe_yambo": _qe_yambo,
    "replay": _replay,
}


def engine_names() -> list[str]:
    """Engines that can be asked for: this package's, then those of installed plug-ins."""
    return [*_OWN, *sorted({e.name for e in entry_points(group=ENTRY_POINTS)} - _OWN.keys())]


def get_engine(name: str, preset: str | None = None, **options: Any) -> Engine:
    """An engine by name.

    Parameters
    ----------
    name : "gpaw", "qe_yambo", "replay", or the name of an entry point in the group "theory_level_selector.engines",
        which points at a callable ``(preset, **options) -> Engine``
    preset : the engine's preset; its default if None
    options : the engine's own options, as its class documents them

    Raises
    ------
    UsageError
        Unknown engine, preset or option, or a value of the wrong type; the message names the choices.
    """
    if name in _OWN:
        make = _OWN[name]()
    else:
        # Only now: every task asks, and to look through all that is installed takes as long as a query.
        plugins = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
        if name not in plugins:
            raise UsageError(f"unknown engine {name!r}: choose one of {', '.join(engine_names())}")
        make = plugins[name].load()
    parameters = inspect.signature(make).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [] if takes_any else sorted(set(options) - parameters.keys())
    if unknown:
        known = ", ".join(p for p in parameters if p != "preset")
        raise UsageError(f"engine {name} has no option {unknown[0]!r}: its options are {known}")
    if name in _OWN:
        _check_types(name, make, options)
    return make(preset, **options)


def _check_types(name: str, make: Callable[..., Engine], options: dict[str, Any]) -> None:
    """Refuse a value of the wrong type: in YAML ``pw: true`` is no command, ``python: 3.11`` no interpreter."""
    parameters = inspect.signature(make, eval_str=True).parameters
    for key, value in options.items():
        try:
            TypeAdapter(parameters[key].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise UsageError(f"engine {name}: option {key}: {said}, not {value!r}; see docs/engines.md") from error
