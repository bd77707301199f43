"""Functions run here or in processes, and results that an interrupted run leaves for the next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selector.files import write_text_atomically

Submit = Callable[..., Callable[[], Any]]


@contextmanager
def workers(jobs: int) -> Iterator[Submit]:
    """How to run a function: here, or in one of `jobs` processes; what comes back is called for the result."""
    if jobs == 1:
        yield lambda function, *args: lambda: function(*args)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield lambda function, *args: pool.submit(function, *args).result


def kept(path: Path, function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, through JSON, from a file if an earlier run has left it there."""
    if not path.exists():
        write_text_atomically(path, json.dumps(function(*args)))
    return json.loads(path.read_text())


def name_of(kind: str, about: Any) -> str:
    """A file's name for what a result is about: another question, another file."""
    return f"{kind}-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.json"
