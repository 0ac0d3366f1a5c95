import builtins
import subprocess
import sys

import pytest

from camseg.base import compat


def test_timm_is_importable_whatever_torchvision_was_built_for():
    code = "from camseg.base.compat import import_torchvision; import_torchvision(); import timm; print(timm.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "timm\n", done.stderr


@pytest.fixture
def fake(monkeypatch):
    """``fake(*errors)``: importing torchvision raises these, one after the other; the schemas that get declared."""
    real = builtins.__import__
    declared = []

    class Library:
        def __init__(self, namespace, kind):
            assert (namespace, kind) == ("torchvision", "DEF")

        def define(self, schema):
            declared.append(schema.partition("(")[0])

    def make(*errors):
        waiting = list(errors)

        def load(name, *rest):
            if name == "torchvision" and waiting:
                raise waiting.pop(0)
            return real("math" if name == "torchvision" else name, *rest)

        monkeypatch.setattr(builtins, "__import__", load)
        return declared

    monkeypatch.setattr(compat, "_declared", [])
    monkeypatch.setattr(compat.torch.library, "Library", Library)
    monkeypatch.setattr(compat.torch.ops, "torchvision", object(), raising=False)
    return make


def missing():
    return RuntimeError("operator torchvision::nms does not exist")


def test_operators_are_declared_only_where_they_are_missing(fake):
    declared = fake()
    compat.import_torchvision()
    assert declared == []
    declared = fake(missing())
    compat.import_torchvision()
    assert declared == ["nms", "qnms"]
    compat.import_torchvision()
    assert declared == ["nms", "qnms"]


def test_operators_that_are_there_are_not_declared_again(fake, monkeypatch):
    class Operators:
        nms = None

    monkeypatch.setattr(compat.torch.ops, "torchvision", Operators)
    declared = fake(missing())
    compat.import_torchvision()
    assert declared == ["qnms"]


@pytest.mark.parametrize("error", [RuntimeError("CUDA is on fire"), ImportError("No module named 'torchvision'")])
def test_other_errors_are_not_hidden(fake, error):
    declared = fake(error)
    with pytest.raises(type(error), match=str(error)):
        compat.import_torchvision()
    assert declared == []


def test_what_declaring_does_not_cure_is_raised(fake):
    fake(missing(), missing())
    with pytest.raises(RuntimeError, match="does not exist"):
        compat.import_torchvision()
    fake(missing())
    with pytest.raises(RuntimeError, match="does not exist"):
        compat.import_torchvision()
