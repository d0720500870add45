"""Every module can be the first that is imported: none waits for one that waits for it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import hsi_fuse

ROOT = Path(hsi_fuse.__file__).parent


def name_of(path: Path) -> str:
    """hsi_fuse/write/__init__.py -> hsi_fuse.write"""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in ROOT.rglob("*.py")}


def packages(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))}


def imported(name: str) -> set[str]:
    """The package's modules that have to be loaded before this one is.

    With a module its packages are loaded, but those that this module stands in: they are on the way already.
    Imports within functions and under TYPE_CHECKING wait.
    """
    asked = set()
    for node in ast.parse(FILES[name].read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            asked |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            asked |= {m if m in FILES else str(node.module) for m in inner}
    asked |= {package for m in asked for package in packages(m) - packages(name) - {name}}
    return asked & FILES.keys()


def test_no_module_waits_for_one_that_waits_for_it():
    waiting = {name: imported(name) for name in FILES}
    assert "hsi_fuse.stages.map" in waiting["hsi_fuse.refinement.refining"]  # what the graph is made of
    try:
        TopologicalSorter(waiting).prepare()
    except CycleError as e:
        raise AssertionError(" -> ".join(e.args[1])) from None
