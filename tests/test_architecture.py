"""Who may import whom, read from the source: every import counts, also in functions and for type checkers."""

import ast
import dataclasses
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import camseg

ROOT = Path(camseg.__file__).parent
ROOMS = [
    "base",
    "data",
    "models",
    "classify",
    "segment",
    "cams",
    "layers",  # the name by which scripts import what ``cams.layers`` holds
    "propagation",
    "masks",
    "refinement",
    "runs",
    "measure",
    "prepare",
    "label",
    "train",
    "exchange",
    "review",
    "studies",
    "cli",
    "__main__",
]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items() if name != "__init__"}


def public_homes() -> dict[str, str]:
    """The module of each public name, as the stub says."""
    homes = {}
    for node in ast.parse((ROOT / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            homes |= {alias.name: node.module for alias in node.names}
    return homes


HOMES = public_homes()
PUBLIC = {f"camseg.{name}" for name in HOMES}


def imported(tree: ast.AST, everywhere: bool = True) -> Iterator[str]:
    """The absolute names that statements import; ``camseg.X`` counts as the module that X comes from."""
    for node in ast.walk(tree) if everywhere else ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif everywhere and isinstance(node, ast.Attribute) and ast.unparse(node) in PUBLIC:
            yield f"camseg.{HOMES[node.attr]}"


def named(tree: ast.AST) -> Iterator[str]:
    """The modules that registries name as ``module:function``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, colon, function = node.value.partition(":")
            if colon and module in MODULES and function.isidentifier():
                yield module


def within(name: str) -> str | None:
    """The module of camseg that an imported name lies in, without ``camseg.``; None outside."""
    parts = name.split(".")
    candidates = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
    return next((found for found in candidates if found in MODULES), None) if parts[0] == "camseg" else None


TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
GRAPH = {name: {found for text in imported(tree) if (found := within(text))} - {name} for name, tree in TREES.items()}
NAMED = {name: set(named(tree)) for name, tree in TREES.items()}


def room(name: str) -> str:
    return name.split(".")[0]


def test_the_walk_sees_imports_of_every_kind():
    assert {"data.images", "base.errors"} <= GRAPH["data.datasets"]
    assert "cli.console" in GRAPH["cli.label"]  # from a package
    assert "label.folder" in GRAPH["cli.label"]  # through camseg.X
    assert "cams.plan" in GRAPH["label.chain"]  # in a function, and for type checkers
    assert "cams.methods.gradient" in NAMED["cams.methods.registry"]


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_from_its_left(name):
    assert room(name) in ROOMS, f"{room(name)} is no room yet: place it in ROOMS"
    for other in sorted(GRAPH[name] | NAMED[name]):
        assert ROOMS.index(room(other)) <= ROOMS.index(room(name)), f"{name} imports {other}"


def test_no_circle_of_imports():
    left = dict(GRAPH)
    while left:
        free = {name for name, others in left.items() if not others & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in free}


LIGHT = ("settings", "registry", "parameters", "recipes")
"""How modules end that load nothing heavy."""


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ("cli", "__main__")])
def test_the_command_line_imports_nothing_heavy_at_its_top(name):
    """What it imports there are settings, registries and errors, which load nothing heavy; a test below holds that."""
    for text in imported(TREES[name], everywhere=False):
        top, inner = text.split(".")[0], within(text)
        light = inner is None or room(inner) == "cli" or inner.startswith("base.") or inner.endswith(LIGHT)
        standard = top in sys.stdlib_module_names or top in ("typer", "pydantic", "pydantic_core", "rich")
        assert standard or (top == "camseg" and light), f"{name} imports {text}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.endswith(LIGHT)])
def test_settings_and_registries_load_nothing_heavy(name):
    heavy = ["torch", "numpy", "cv2", "matplotlib", "skimage", "sklearn", "scipy", "pymatting", "timm", "numba"]
    code = f"import sys, camseg.{name}; print(*(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_hooks_are_set_and_taken_off_in_one_place():
    found = [name for name, path in MODULES.items() if re.search(r"register_\w*hook", path.read_text())]
    assert found == ["cams.hooks"]


def test_a_class_name_stands_for_one_thing():
    homes = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
                homes[ast.unparse(node.target)].append(name)
    assert {word: names for word, names in homes.items() if len(names) > 1} == {}


def test_a_default_is_stated_in_one_place():
    """A command repeats no option of the settings that it takes, so none of their defaults either."""
    for name, tree in TREES.items():
        if room(name) != "cli":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                own = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
                for argument in node.args.args:
                    kind = ast.unparse(argument.annotation) if argument.annotation else ""
                    settings = getattr(camseg, kind, None) if kind.isidentifier() else None
                    if dataclasses.is_dataclass(settings):
                        assert not own & {field.name for field in dataclasses.fields(settings)}, f"{name}.{node.name}"
