"""Run FireWorks' own tests against the local database: ``python fireworks_suite.py FOLDER [pytest options]``.

FOLDER is FireWorks' unpacked source distribution. Its tests expect MongoDB on localhost:27017; a client class put in
the way by a `sitecustomize` module sends them, and the processes they start, to a local database in a
temporary folder instead.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import selector
from selector.localdb import ensure_running, stop

_REDIRECT = """
import pymongo

class LocalClient(pymongo.MongoClient):
    def __init__(self, host=None, port=None, **options):
        local = host in (None, "localhost", "127.0.0.1")
        super().__init__({uri!r} if local else host, None if local else port, **options)

pymongo.MongoClient = LocalClient
"""
# The files whose names pytest would not collect by itself.
_EXTRA = ("fireworks/tests/mongo_tests.py", "fireworks/tests/multiprocessing_tests.py")


def _ignored() -> list[str]:
    """The one file that needs igraph, which draws workflows and is no dependency of FireWorks."""
    missing = importlib.util.find_spec("igraph") is None
    return ["--ignore=fireworks/utilities/tests/test_dagflow.py"] if missing else []


def main(source: Path, options: list[str]) -> int:
    """pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        database_file = Path(folder) / "fireworks.db"
        uri = ensure_running(database_file)
        (Path(folder) / "sitecustomize.py").write_text(_REDIRECT.format(uri=uri))
        home = Path(selector.__file__).resolve().parents[1]
        path = os.pathsep.join([folder, str(source), str(home), os.environ.get("PYTHONPATH", "")])
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "fireworks",
            *_EXTRA,
            *_ignored(),
            *options,
        ]
        try:
            return subprocess.run(command, cwd=source, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
        finally:
            stop(database_file)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
