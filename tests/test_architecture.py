"""Who may import whom, read from the source."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import camseg

ROOT = Path(camseg.__file__).parent
LAYERS = [
    "errors compat progress",
    "arrays files tensors workers distances hooks",
    "images datasets samples models ensemble classifier layers activations cams propagation masks postprocessing "
    "trimaps refinement metrics calibration faithfulness matting_errors figures augmentation",
    "results targets",
    "folders batches freezing",
    "pipeline prepare",
    "stages training evaluation",
    "recipes",
    "runs",
    "studies",
    "cli",
    "__main__",
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer.split()}
BETWEEN_STAGES = {
    ("datasets", "images"),
    ("classifier", "images"),  # of which it only wants to know which windows there are
    ("classifier", "models"),
    ("classifier", "ensemble"),  # a run may be either
    ("layers", "classifier"),
    ("activations", "classifier"),
    ("activations", "layers"),
    ("cams", "activations"),
    ("cams", "layers"),  # grad-cam's methods get maps whatever a layer gives
    ("cams", "classifier"),  # the way in, compute_cams, prepares images as the classifier wants them
}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items() if name != "__init__"}


def imported(nodes: list[ast.stmt], everywhere: bool = True) -> Iterator[str]:
    """The absolute names that statements import, those for type checkers left out."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif everywhere:
            inner = [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
            yield from imported(inner)


def within(name: str) -> str | None:
    """The module of camseg that an imported name lies in, without ``camseg.``; None outside."""
    parts = name.split(".")
    candidates = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
    return next((found for found in candidates if found in MODULES), None) if parts[0] == "camseg" else None


GRAPH = {
    name: {found for text in imported(ast.parse(path.read_text()).body) if (found := within(text))} - {name}
    for name, path in MODULES.items()
}


def test_the_walk_sees_imports_of_every_kind():
    assert {"images", "errors"} <= GRAPH["datasets"]
    assert "cli.console" in GRAPH["cli.label"]  # from a package
    assert "pipeline" in GRAPH["cli.label"]  # in a function


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_left(name):
    own = name.split(".")[0]
    assert own in RANK, f"{own} has no layer yet: place it in LAYERS"
    for other in sorted({found.split(".")[0] for found in GRAPH[name]} - {own}):
        assert RANK[other] < RANK[own] or (own, other) in BETWEEN_STAGES, f"{name} imports {other}"


def test_no_circle_of_imports():
    left = dict(GRAPH)
    while left:
        free = {name for name, others in left.items() if not others & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in free}


@pytest.mark.parametrize("name", ["", *(name for name in MODULES if name.startswith(("cli", "__main__")))])
def test_the_command_line_imports_nothing_heavy_at_its_top(name):
    path = MODULES.get(name, ROOT / "__init__.py")
    for text in imported(ast.parse(path.read_text()).body, everywhere=False):
        top = text.split(".")[0]
        light = within(text) is None or within(text).split(".")[0] in ("cli", "errors")
        assert top in sys.stdlib_module_names or top == "typer" or (top == "camseg" and light), f"{name} imports {text}"


def test_hooks_are_set_and_taken_off_in_one_place():
    assert [name for name, path in MODULES.items() if re.search(r"register_\w*hook", path.read_text())] == ["hooks"]
