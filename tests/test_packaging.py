"""What the package says of itself: one version, and the libraries that it imports."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import camseg

PACKAGE = Path(camseg.__file__).parent
ROOT = PACKAGE.parent
TOGETHER = {"pydantic_core": "pydantic", "torchvision": "timm"}
"""Modules that come with a dependency by its very nature."""


def test_the_version_is_stated_once():
    assert version("camseg") == camseg.__version__
    assert not re.search(r'^version = "', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"\nversion: {camseg.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_what_is_imported_is_a_dependency():
    """Of camseg or of an extra. What a dependency brings along today it may leave out tomorrow."""
    declared = {spelled(re.match(r"[\w.-]+", one).group()) for one in requires("camseg")}
    by_module = packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "camseg"}:
                found = {spelled(one) for one in by_module.get(TOGETHER.get(top, top), [top])}
                assert found & declared, f"{path.relative_to(ROOT)} imports {top}, which is no dependency"


def spelled(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
