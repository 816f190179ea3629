"""Who may import whom, read from the syntax trees; and what starting costs. See architecture.md."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from lth.config import GROUPS

ROOT = Path(__file__).parent.parent

METHODS = (
    "criterion",
    "allocation",
    "granularity",
    "schedule",
    "rewind",
    "baseline",
    "init",
    "lr",
    "model",
)
"""Groups of pure functions: they know nothing of searches or of each other."""

LAYERS = (
    ("lth.types",),
    ("lth.mask",),
    tuple(f"lth.{group}" for group in METHODS),
    ("lth.prune", "lth.find", "lth.iterate", "lth.search"),
    ("lth.prepare", "lth.plan", "lth.conduct"),
    ("lth.run",),
)
"""Lowest first: a module never reaches one of a higher layer, by any path of imports."""

ANALYSIS_MAY_IMPORT = ("lth.store", "lth.types", "lth.config")
MAY_IMPORT_SINKS = {"analysis.sync", "analysis.workspace"}
"""They mirror a stored run by the code that mirrors one under way, and show what it mirrored."""
MAY_TRAIN = {"analysis.connect"}
"""It makes the copies that a run lacks, through the run's own store."""
KNOWS_HYDRA = {"lth.run", "lth.build", "lth.fault", "lth.sweep"}
HEAVY = {"torchvision", "wandb", "plotly", "matplotlib", "sklearn", "pandas", "seaborn"}
BANNED = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "handler"}


@dataclass(frozen=True)
class Import:
    """``late``: inside a function; ``typing``: for the type checker alone."""

    module: str
    late: bool
    typing: bool


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module of both packages, by dotted name."""
    found = {}
    for package in ("lth", "analysis"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


def _imports(node: ast.AST, late: bool = False, typing: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, late, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield Import(full if full in trees() else str(child.module), late, typing)
        inside = late or isinstance(child, ast.FunctionDef | ast.Lambda)
        checked = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        yield from _imports(child, inside, typing or checked)


@cache
def imports(module: str) -> frozenset[Import]:
    return frozenset(_imports(trees()[module]))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def top(module: str) -> str:
    return module.partition(".")[0]


@cache
def reached(module: str) -> frozenset[str]:
    """Every module of ours that ``module`` imports, directly or not, early or late."""
    found: set[str] = set()
    stack = [module]
    while stack:
        for i in imports(stack.pop()):
            if not i.typing and i.module in trees() and i.module not in found:
                found.add(i.module)
                stack.append(i.module)
    return frozenset(found)


def of(*packages: str) -> list[str]:
    """The modules in any of ``packages``."""
    found = [m for m in trees() if any(within(m, p) for p in packages)]
    assert found, packages
    return found


# Directions


def test_the_reader_sees_imports() -> None:
    # The tests below pass where nothing is found, so that finding is tested first.
    conduct = imports("lth.conduct")
    assert Import("lth.search", late=False, typing=False) in conduct
    assert Import("analysis.compare", late=True, typing=False) in conduct
    assert Import("lth.history", late=False, typing=True) in imports("lth.protocol")
    assert "lth.types" in reached("lth.run")
    assert len(trees()) > 70


@pytest.mark.parametrize("level", range(len(LAYERS) - 1))
def test_lower_layers_never_reach_higher_ones(level: int) -> None:
    higher = set(of(*(package for layer in LAYERS[level + 1 :] for package in layer)))
    assert {m: sorted(reached(m) & higher) for m in of(*LAYERS[level]) if reached(m) & higher} == {}


def test_types_and_mask_stand_alone() -> None:
    assert reached("lth.types") == set()
    assert reached("lth.mask") == {"lth.types"}


def test_methods_do_not_know_each_other() -> None:
    for group in METHODS:
        others = {m for other in METHODS if other != group for m in of(f"lth.{other}")}
        for module in of(f"lth.{group}"):
            assert {i.module for i in imports(module)} & others == set(), module


def test_modules_do_not_import_in_circles() -> None:
    early = {
        module: {i.module for i in imports(module) if not i.late and not i.typing} & trees().keys()
        for module in trees()
    }
    assert len(list(TopologicalSorter(early).static_order())) == len(trees())


def test_nobody_imports_the_entry() -> None:
    assert [m for m in trees() if any(i.module == "lth.run" for i in imports(m))] == []


def test_analysis_sees_only_the_store() -> None:
    for module in of("analysis"):
        seen = {i.module for i in imports(module) if top(i.module) == "lth"}
        allowed = [*ANALYSIS_MAY_IMPORT, *(["lth.sink"] if module in MAY_IMPORT_SINKS else [])]
        if module in MAY_TRAIN:
            allowed.append("lth")
        odd = {m for m in seen if not any(within(m, ok) for ok in allowed)}
        assert odd == set(), module


def test_only_the_end_of_a_run_calls_the_analysis() -> None:
    found = {
        (module, i.late)
        for module in of("lth")
        for i in imports(module)
        if top(i.module) == "analysis"
    }
    assert found == {("lth.conduct", True), ("lth.sweep", True)}


# Libraries


def test_components_do_not_know_hydra() -> None:
    knows = {m for m in of("lth") if {"hydra", "omegaconf"} & {top(i.module) for i in imports(m)}}
    assert knows == KNOWS_HYDRA
    assert of("analysis") == [
        m
        for m in of("analysis")
        if not {"hydra", "omegaconf"} & {top(i.module) for i in imports(m)}
    ]


def test_only_sinks_import_wandb() -> None:
    users = {m for m in trees() if any(top(i.module) == "wandb" for i in imports(m))}
    assert {m for m in users if not within(m, "lth.sink")} == set()


def test_the_process_that_speaks_to_wandb_knows_nothing_else() -> None:
    # It starts in half a second because it imports neither torch nor the store.
    assert reached("lth.sink.uplink") == set()
    assert {"torch", "numpy", "pandas"} & {
        top(i.module) for i in imports("lth.sink.uplink")
    } == set()


def test_what_is_slow_is_imported_late() -> None:
    for module in of("lth"):
        early = {top(i.module) for i in imports(module) if not i.late and not i.typing}
        assert early & HEAVY == set(), module


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("lth.run", HEAVY | {"scipy", "pyarrow", "PIL", "rich"}),
        ("lth.build", HEAVY | {"scipy", "rich"}),
        ("lth.conduct", HEAVY | {"scipy", "rich"}),
        ("lth", HEAVY | {"torch", "numpy", "hydra", "omegaconf"}),
    ],
)
def test_importing_loads_nothing_slow(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "lth" in loaded
    assert sorted(loaded & absent) == []


# Form


def test_folders_are_config_groups() -> None:
    folders = {p.parent.name for p in (ROOT / "lth").glob("*/__init__.py")}
    # Optimizers are torch's own.
    assert folders == set(GROUPS) - {"optimizer"}


def test_no_file_is_named_after_nothing() -> None:
    assert [m for m in trees() if m.rpartition(".")[2] in BANNED] == []


def test_no_exception_is_swallowed() -> None:
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            where = f"{module}, line {node.lineno}"
            assert node.type is not None, f"bare except: {where}"
            broad = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            assert not (silent and broad & {"Exception", "BaseException"}), where


def test_init_files_are_empty() -> None:
    found = [p for package in ("lth", "analysis") for p in (ROOT / package).rglob("__init__.py")]
    assert len(found) > len(GROUPS)
    for path in found:
        code = ast.parse(path.read_text()).body
        if path == ROOT / "lth" / "__init__.py":
            # What a user imports from lth is loaded when it is asked for.
            code = [node for node in code if not _is_lazy(node)]
        docstring = code[:1] if ast.get_docstring(ast.Module(body=code, type_ignores=[])) else []
        assert code == docstring, path


def _is_lazy(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module in ("__future__", "typing")
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        return [ast.unparse(t) for t in node.targets] == ["__all__"]
    return isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
