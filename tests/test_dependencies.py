"""Dependencies point one way (docs/architecture.md): read off the source, and off a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("selector", "models", "fw_tasks")
GPAW_MODULE = "fw_tasks.engines.gpaw_worker"


@dataclass(frozen=True)
class Import:
    """``lazy``: inside a function, or for typing only. ``from a import b`` counts as ``a.b``, for b may be a module."""

    name: str
    line: int
    lazy: bool

    def under(self, *packages: str) -> bool:
        return any(self.name == p or self.name.startswith(p + ".") for p in packages)


def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Every import in a module's source, relative ones resolved, those only for type checking included."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        match node:
            case ast.Import():
                yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
            case ast.ImportFrom():
                base = node.module or ""
                if node.level:
                    parts = module.split(".")
                    package = parts[: len(parts) - node.level + is_package]
                    base = ".".join([*package, base] if base else package)
                yield from (Import(f"{base}.{alias.name}", node.lineno, lazy) for alias in node.names)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Import(name, node.lineno, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside = inside or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return list(visit(ast.parse(source), False))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
IMPORTS = {
    name: imports_of(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
    for name, path in SOURCES.items()
}


def is_cli(module: str) -> bool:
    return module == "selector.cli" or module.startswith("selector.cli.") or module == "selector.__main__"


def offences(modules: list[str], forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{module}:{i.line} imports {i.name}"
        for module in modules
        for i in IMPORTS[module]
        if i.under(*forbidden) and not i.under(*allowed)
    ]


def modules_of(package: str) -> list[str]:
    return [m for m in SOURCES if m == package or m.startswith(package + ".")]


SELECTOR_CORE = [m for m in modules_of("selector") if not is_cli(m)]


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("import torch.nn as nn", "a.b", False, [("torch.nn", False)]),
        ("from models import labels, graphs", "a.b", False, [("models.labels", False), ("models.graphs", False)]),
        ("def f():\n    from fireworks import LaunchPad", "a.b", False, [("fireworks.LaunchPad", True)]),
        ("class C:\n    import gpaw", "a.b", False, [("gpaw", False)]),
        ("try:\n    import gpaw\nexcept ImportError:\n    pass", "a.b", False, [("gpaw", False)]),
        ("from . import c", "a.b", False, [("a.c", False)]),
        ("from .c import d", "a.b", False, [("a.c.d", False)]),
        ("from ..x import y", "a.b.c", False, [("a.x.y", False)]),
        ("from . import c", "a.b", True, [("a.b.c", False)]),
        ("import importlib\nimportlib.import_module('models')", "a", False, [("importlib", False), ("models", False)]),
        ("def f():\n    __import__('torch')", "a", False, [("torch", True)]),
        ("# import torch\nx = 'import torch'", "a", False, []),
    ],
)
def test_every_way_to_import_is_seen(
    source: str, module: str, is_package: bool, expected: list[tuple[str, bool]]
) -> None:
    assert [(i.name, i.lazy) for i in imports_of(source, module, is_package)] == expected


def test_all_three_packages_are_read() -> None:
    assert {"selector.spectra", "selector.candidates", "fw_tasks.engines.base", "models"} <= SOURCES.keys()


def test_selector_knows_neither_fireworks_nor_models_nor_torch() -> None:
    assert not offences(SELECTOR_CORE, ("fireworks", "fw_tasks", "models", "torch", "torch_geometric", "gpaw"))


def test_nothing_imports_the_command_line() -> None:
    others = [m for m in SOURCES if not is_cli(m)]
    assert not offences(others, ("selector.cli",))


def test_the_command_line_imports_the_heavy_parts_lazily() -> None:
    eager = [
        f"{module}:{i.line} imports {i.name} when it is loaded"
        for module in filter(is_cli, SOURCES)
        for i in IMPORTS[module]
        if i.under("fireworks", "fw_tasks", "models", "torch", "torch_geometric") and not i.lazy
    ]
    assert not eager


def test_models_imports_only_spectra_and_errors_of_selector() -> None:
    assert not offences(modules_of("models"), ("selector",), allowed=("selector.spectra", "selector.errors"))


def test_models_knows_no_database_and_no_fireworks() -> None:
    assert not offences(modules_of("models"), ("fw_tasks", "fireworks", "pymongo", "mongomock", "gpaw"))


def test_gpaw_is_imported_by_its_worker_alone() -> None:
    """GPAW is GPL-3: it runs in a process of its own, and nothing else links to it."""
    assert not offences([m for m in SOURCES if m != GPAW_MODULE], ("gpaw",))


def test_importing_the_worker_module_does_not_import_gpaw() -> None:
    """The worker's helpers (its k-mesh, say) may be used from outside, for it imports GPAW only where it computes."""
    assert not [i for i in IMPORTS.get(GPAW_MODULE, []) if i.under("gpaw") and not i.lazy]


def loaded_after_importing(modules: list[str]) -> set[str]:
    """Names in sys.modules of a fresh interpreter that imported these."""
    code = f"import importlib, sys\nfor m in {modules!r}:\n    importlib.import_module(m)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_selector_loads_nothing_heavy() -> None:
    """Directly or through another: no torch, no FireWorks, no package of ours."""
    modules = [m for m in SELECTOR_CORE if not m.endswith("__main__")]
    loaded = loaded_after_importing(modules)
    assert {"selector", "numpy", "pymatgen"} <= loaded
    assert not loaded & {"torch", "torch_geometric", "fireworks", "models", "fw_tasks", "gpaw"}


def test_commands_and_workers_begin_without_what_takes_a_second_to_load() -> None:
    loaded = loaded_after_importing(["selector.cli", "fw_tasks.workers", "fw_tasks.tasks"])
    assert {"pymatgen.core", "fireworks"} <= loaded
    assert not loaded & {"scipy.stats", "scipy.interpolate", "torch", "matplotlib", "pandas"}


def test_a_heavy_import_would_be_noticed() -> None:
    assert "fw_tasks" in loaded_after_importing(["fw_tasks.engines.base"])
