import json
import os
import sys
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from camseg.base.workers import call_here, worker_processes
from camseg.studies import doctor


@pytest.fixture
def a_library(tmp_path, monkeypatch):
    """Installs a library of one module with this code, for the time of a test."""

    def install(name, code):
        facts = tmp_path / f"{name}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (facts / "top_level.txt").write_text(f"{name}\n")
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        doctor._modules.cache_clear()

    yield install
    doctor._modules.cache_clear()


def test_the_command_tells_of_every_part_and_fails_where_one_is_broken(call, monkeypatch, a_library):
    a_library("shattered", "raise OSError('libshattered.so: cannot open')")
    extras = {"numbers": [Requirement("numpy>=1")], "later": [Requirement("numpy>=1"), Requirement("no-such-thing")]}
    monkeypatch.setattr(doctor, "_extras", lambda: extras)
    monkeypatch.setattr("camseg.models.hub._answers", lambda host, port: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, out, err = call("doctor", "--json")
    found = {one["what"]: one for one in json.loads(out)}
    assert {"Python", "libraries", "torch", "device cpu", "torchvision", "weights", "numba", "disk", "memory"} <= {
        *found
    }
    assert "Ray" not in found
    assert (code, err) == (0, "")
    assert found["libraries"]["status"] == found["device cpu"]["status"] == found["extra numbers"]["status"] == "ok"
    later = found["extra later"]
    assert (later["status"], later["detail"]) == ("absent", "no-such-thing is not installed")
    assert later["remedy"] == "pip install 'camseg[later]'"
    extras |= {"old": [Requirement("numpy>=99")], "torn": [Requirement("shattered")]}
    code, out, _ = call("doctor")
    assert code == 1
    lines = {line[8:25].strip(): line for line in out.splitlines()}
    assert lines["extra old"].startswith("broken")
    assert "where >=99 is needed; pip install" in lines["extra old"]
    assert "cannot be imported (OSError: libshattered.so: cannot open)" in lines["extra torn"]


def test_the_extras_are_those_of_the_package_without_the_developers():
    found = doctor._extras()
    assert {"dicom", "grad-cam", "heic", "nifti"} <= {*found}
    assert not {"dev", "test", "test-exchange", "lint", "build", "docs"} & {*found}
    assert [one.name for one in found["nifti"]] == ["nibabel"]


def test_scores_that_differ_from_the_cpus_are_no_working_device(monkeypatch):
    import torch

    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self.apply(_spoil))
    (found,) = doctor._pass_through("cpu")
    assert (found.status, "differ" in found.detail) == ("broken", True)


def _spoil(module):
    for parameter in module.parameters(recurse=False):
        parameter.data += 1


def test_a_cluster_that_does_not_answer_is_broken_and_one_that_cannot_be_asked_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    (found,) = doctor._try(call_here, "Ray", doctor._ray, "127.0.0.1:9")
    assert (found.status, found.remedy) == ("absent", "pip install 'camseg[ray]'")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    (found,) = doctor._try(call_here, "Ray", doctor._ray, "127.0.0.1:9")
    assert (found.status, "no Ray answers at 127.0.0.1:9" in found.detail) == ("broken", True)


@pytest.mark.processes
def test_a_check_that_ends_its_process_is_a_finding():
    with worker_processes() as call:
        (found,) = doctor._try(call, "torch", os._exit, 3)
    assert (found.what, found.status, "exit code 3" in found.detail) == ("torch", "broken", True)
