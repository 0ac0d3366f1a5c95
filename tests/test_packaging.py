"""What the package says of itself: one version, and the libraries that it imports."""

import ast
import re
import sys
from importlib.metadata import metadata, packages_distributions, requires, version
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


def test_what_is_imported_is_a_dependency_and_nothing_else_is():
    """What a dependency brings along today it may leave out tomorrow."""
    by_module, imported = packages_distributions(), set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                names += [one.value for one in node.args if isinstance(one, ast.Constant)]
            for top in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "camseg"}:
                top = TOGETHER.get(top, top)
                imported |= {spelled(one) for one in by_module.get(top, [top])}
    asked = {spelled(re.match(r"[\w.-]+", one).group()): "extra ==" in one for one in requires("camseg")}
    needed = {name for name, extra in asked.items() if not extra}
    assert imported - asked.keys() == set()
    assert needed - imported == set()


def test_an_extra_that_a_message_names_exists():
    named = {one for path in PACKAGE.rglob("*.py") for one in re.findall(r"camseg\[([\w-]+)\]", path.read_text())}
    assert named >= {"grad-cam", "nifti", "dicom"}
    assert named <= set(metadata("camseg").get_all("Provides-Extra"))


def spelled(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
