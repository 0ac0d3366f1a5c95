"""What ``import camseg`` promises."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import camseg

DESIGNED = [
    "read_image",
    "load_classifier",
    "compute_cams",
    "propagate",
    "cam_to_mask",
    "mask_to_trimap",
    "refine",
    "refine_with_report",
    "write_mask",
    "label_image",
    "label_folder",
    "train_classifier",
    "evaluate_folder",
    "mean_dice",
    "Classifier",
]
HEAVY = {
    "torch",
    "timm",
    "accelerate",
    "numpy",
    "scipy",
    "cv2",
    "skimage",
    "sklearn",
    "matplotlib",
    "pymatting",
    "numba",
}
NETWORK = {"forward", "forward_features", "forward_head", "get_classifier", "reset_classifier", "no_weight_decay"}
"""What torch and timm ask of a network: the class's docstring says what it is, not each of these again."""
MODULES = [module.name for module in pkgutil.walk_packages(camseg.__path__, "camseg.") if "__main__" not in module.name]


@pytest.mark.parametrize("name", DESIGNED)
def test_a_name_of_the_design_is_there(name):
    assert name in camseg.__all__
    assert callable(getattr(camseg, name))


def test_all_is_sorted_and_what_dir_shows():
    assert camseg.__all__ == sorted(camseg.__all__)
    assert dir(camseg) == camseg.__all__
    assert all(hasattr(camseg, name) for name in camseg.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="segmentation"):
        _ = camseg.segmentation
    assert not hasattr(camseg, "__path_that_is_not__")


def test_type_checkers_and_the_interpreter_find_the_same_names():
    stub = ast.parse(Path(camseg.__file__).with_suffix(".pyi").read_text())
    homes = {
        alias.asname: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name, (home, original) in homes.items():
        assert name == original, "type checkers take a name for public only when it is imported as itself"
        assert getattr(camseg, name) is getattr(importlib.import_module(f"camseg.{home}"), name)
    assert set(camseg.__all__) - {"__version__"} == homes.keys()


@pytest.mark.parametrize("call", ["-c import camseg; camseg.__all__", "-m camseg --help", "-m camseg label --help"])
def test_importing_and_helping_load_nothing_heavy(call):
    flag, _, rest = call.partition(" ")
    arguments = [rest] if flag == "-c" else rest.split()
    done = subprocess.run([sys.executable, "-X", "importtime", flag, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "camseg" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented(name):
    module = importlib.import_module(name)
    if name != "camseg.studies":
        assert module.__doc__, f"{name} says nothing of itself"
    for thing in vars(module).values():
        own = getattr(thing, "__module__", None) == name and not getattr(thing, "__name__", "_").startswith("_")
        if own and (inspect.isfunction(thing) or inspect.isclass(thing)):
            assert thing.__doc__, f"{name}.{thing.__name__} has no docstring"
            for method, value in vars(thing).items() if inspect.isclass(thing) else ():
                function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                written = inspect.isfunction(function) and function.__qualname__ == f"{thing.__name__}.{method}"
                generated = function.__code__.co_filename == "<string>" if written else False  # by dataclass
                if written and not generated and not method.startswith("_") and method not in NETWORK:
                    assert function.__doc__, f"{name}.{thing.__name__}.{method} has no docstring"
