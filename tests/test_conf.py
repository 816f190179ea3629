"""Every YAML of conf/ composes, builds and means a component, and every option is honoured.

Nothing is listed here by hand but what a component cannot be built without.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object
from omegaconf import DictConfig

from lth.build import RUNTIME, build
from lth.config import GROUPS, MANY, SEMANTIC_KEYS, ConfigError, RunConfig
from lth.paths import conf_dir
from lth.run import register

CONF = conf_dir()
PACKAGE = CONF.parent / "lth"

NEEDED = {"schedule/targets": ["levels=1", "schedule.densities=[0.5]"]}
"""Options that a component has no default for."""

NOT_CONFIGURED = ["lth.store.memory"]
"""For tests and notebooks: a run of the command is always on disk."""


def _walk() -> list[str]:
    found = []
    for folder, _, files in os.walk(CONF, followlinks=True):
        here = Path(folder).relative_to(CONF)
        found += [str(here / f) for f in files if f.endswith(".yaml")]
    return sorted(found)


YAMLS = _walk()
"""Every YAML as its path below conf/, ``experiments/`` included."""

COMPONENTS = [
    name.removesuffix(".yaml")
    for name in YAMLS
    if name.partition("/")[0] not in ("experiments", name)
]
"""``group/name`` of every component's YAML."""


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("run", overrides=["device=cpu", *overrides])


def chosen(component: str) -> list[str]:
    """The overrides that select a component and give it what it needs."""
    group, _, name = component.partition("/")
    selection = f"{group}=[{name}]" if group in MANY else f"{group}={name}"
    return [selection, *NEEDED.get(component, [])]


def body(component: str) -> Any:
    """The YAML's component: for groups of which many may be selected, what is below its name."""
    group, _, name = component.partition("/")
    content = yaml.safe_load((CONF / f"{component}.yaml").read_text())
    if group not in MANY:
        return content
    assert list(content) == [name], "one top-level key, its own name"
    return content[name]


def targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` in a YAML, nested ones too."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from targets(child)


@cache
def parsed() -> Mapping[str, ast.Module]:
    """The syntax tree of every module of lth, by dotted name."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        trees[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return trees


# Discovery


def test_no_yaml_is_left_out() -> None:
    on_disk = {p.relative_to(CONF).as_posix() for p in CONF.rglob("*.yaml")}
    on_disk |= {f"experiments/{p.name}" for p in (CONF.parent / "experiments").glob("*.yaml")}
    covered = {f"{c}.yaml" for c in COMPONENTS} | {"run.yaml"}
    covered |= {y for y in YAMLS if y.startswith("experiments/")}
    assert covered == on_disk
    assert len(YAMLS) == len(covered)
    assert {c.partition("/")[0] for c in COMPONENTS} == set(GROUPS)
    assert {p.name for p in CONF.iterdir() if p.is_dir()} == {*GROUPS, "experiments"}


def test_experiments_is_a_link() -> None:
    # A copy would go stale; through hydra.searchpath --help does not list them.
    assert (CONF / "experiments").resolve() == CONF.parent / "experiments"


@pytest.mark.parametrize("name", YAMLS)
def test_the_first_comment_says_what_it_is(name: str) -> None:
    lines = (CONF / name).read_text().splitlines()
    if name.startswith("experiments/"):
        # Hydra reads the package from the top of a file only.
        assert lines.pop(0) == "# @package _global_"
    assert lines[0].startswith("# ")
    assert len(lines[0]) > len("# ") + 10


@pytest.mark.parametrize("component", COMPONENTS)
def test_composes_and_builds(component: str) -> None:
    group, _, name = component.partition("/")
    run = build(composed(*chosen(component)))
    target = get_object(body(component)["_target_"])
    built = run.components[group]
    if group in MANY:
        assert list(built) == [name]
        built = built[name]
    built = getattr(built, "func", built)
    assert built is target or type(built) is target


@pytest.mark.parametrize("component", NEEDED)
def test_what_is_needed_is_asked_for(component: str) -> None:
    with pytest.raises(ConfigError, match=r"schedule.densities: got nothing, allowed: a value"):
        build(composed(chosen(component)[0], "levels=1"))


# Modules


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_target_resolves_and_lies_in_its_group(component: str) -> None:
    group, _, _ = component.partition("/")
    found = list(targets(body(component)))
    assert found
    assert all(callable(get_object(path)) for path in found)
    assert group == "optimizer" or found[0].startswith(f"lth.{group}.")


def imported(tree: ast.Module) -> set[str]:
    """Dotted names that a module imports, at any depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def test_every_module_of_a_group_is_configurable_or_used() -> None:
    modules = {n for n in parsed() if n.count(".") == 2 and n.split(".")[1] in GROUPS}
    targeted = {path.rpartition(".")[0] for c in COMPONENTS for path in targets(body(c))}
    used = {n for own, tree in parsed().items() for n in imported(tree) if n != own}
    assert len(modules) > 40
    assert sorted(modules - targeted - used) == NOT_CONFIGURED


# Order and precedence


def test_an_experiment_comes_after_run_yaml() -> None:
    defaults = yaml.safe_load((CONF / "run.yaml").read_text())["defaults"]
    assert defaults.index("_self_") < defaults.index({"experiments": None})


def test_the_last_word_is_the_command_line_s() -> None:
    plain = composed()
    preset = composed("experiments=resnet_20_lth")
    both = composed("experiments=resnet_20_lth", "levels=2", "model=vgg_11", "optimizer.lr=0.5")
    assert [c.levels for c in (plain, preset, both)] == [7, 12, 2]
    assert [c.schedule.rate for c in (plain, preset, both)] == [0.45, 0.2, 0.2]
    assert [c.optimizer.lr for c in (plain, preset, both)] == [0.003, 0.1, 0.5]
    assert [c.model._target_.rpartition(".")[2] for c in (plain, preset, both)] == [
        "LeNet300100",
        "ResNet20",
        "VGG11",
    ]


# Options


def test_the_root_has_the_keys_that_were_promised() -> None:
    promised = set(GROUPS)
    promised |= {"seeds", "levels", "train_steps", "batch_size", "rewind_step", "eval_every"}
    promised |= {"test_curve", "keep", "baseline_levels", "precision", "grad_clip", "report"}
    promised |= {"label_smoothing", "checkpoint_every", "num_threads", "deterministic", "device"}
    promised |= {"data_dir", "workers"}
    config = composed()
    assert promised <= set(config)
    assert len(promised) == len(GROUPS) + 19
    assert set(config) == {f.name for f in dataclasses.fields(RunConfig)}
    assert config.store.root == "results"
    assert composed("optimizer.lr=0.02").optimizer.lr == 0.02
    assert composed("dataset.subsample=0.5").dataset.subsample == 0.5


@pytest.mark.parametrize("override", ["learning_rate=0.1", "lvels=3", "hidden=[300,100]"])
def test_an_unknown_root_key_is_an_error(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match=override.partition("=")[0]):
        composed(override)


def reads(tree: ast.AST) -> set[str]:
    """Names read as attributes or by getattr, but for ``__post_init__``, which only checks."""
    found: set[str] = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "getattr":
            found |= {a.value for a in node.args[1:] if isinstance(a, ast.Constant)}
        stack += ast.iter_child_nodes(node)
    return found


def options() -> list[tuple[str, str]]:
    """Each option of each component of ours, as (dotted path of the component, option)."""
    paths = {path for c in COMPONENTS for path in targets(body(c)) if path.startswith("lth.")}
    found = []
    for path in sorted(paths):
        group = path.split(".")[1]
        for name in inspect.signature(get_object(path)).parameters:
            if name not in RUNTIME.get(group, ()):
                found.append((path, name))
    return found


def honoured(path: str, name: str) -> bool:
    """Whether code that is run reads the option.

    A dataclass's field is read by its own or an inherited module, or by the core (not by other
    components, whose options may have the same name); an argument by its function.
    """
    target = get_object(path)
    if dataclasses.is_dataclass(target):
        assert inspect.isclass(target)
        own = {c.__module__ for c in target.__mro__}
        core = {module for module in parsed() if module.count(".") == 1}
        return any(name in reads(parsed()[m]) for m in (own | core) & parsed().keys())
    functions = [target]
    if inspect.isclass(target):
        ours = [vars(c) for c in target.__mro__ if c.__module__.startswith("lth.")]
        functions = [c["__init__"] for c in ours if "__init__" in c]
    for function in functions:
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
        names = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == name]
        if any(isinstance(n.ctx, ast.Load) for n in names):
            return True
    return False


def test_no_option_of_a_component_is_without_effect() -> None:
    every = options()
    assert len(every) > 100
    assert [f"{path}: {name}" for path, name in every if not honoured(path, name)] == []


def test_no_root_key_is_without_effect() -> None:
    trees = [tree for name, tree in parsed().items() if name != "lth.config"]
    read = set().union(*(reads(tree) for tree in trees))
    read |= {
        node.slice.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
    }
    # Settings of the verdict are read by the analysis, from the stored configuration.
    compare = (CONF.parent / "analysis" / "compare.py").read_text()
    read |= {key for key in SEMANTIC_KEYS if f'"{key}"' in compare}
    keys = [f.name for f in dataclasses.fields(RunConfig)]
    assert [key for key in keys if key not in read] == []
