"""Files of weights: what is taken off, what is kept, and what is refused."""

import pytest
import safetensors.torch
import torch

from camseg.base.errors import CheckpointError
from camseg.base.tensors import read_tensors


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}, lambda s: {"model": s}])
def test_tensors_of_a_pytorch_file_lose_what_is_around_them(tmp_path, wrap):
    torch.save(wrap({"module.a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}), tmp_path / "x.pth")
    tensors, metadata = read_tensors(tmp_path / "x.pth")
    assert metadata == {}
    assert {name: (value.dtype, value.tolist()) for name, value in tensors.items()} == {
        "a": (torch.float32, [1.0, 1.0]),
        "n": (torch.int64, 3),
    }


def test_a_safetensors_file_gives_its_metadata_too(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"arch": "net"})
    tensors, metadata = read_tensors(tmp_path / "x.safetensors")
    assert (list(tensors), metadata) == (["a"], {"arch": "net"})


def test_names_that_are_numbers_become_text(tmp_path):
    torch.save({0: torch.zeros(1)}, tmp_path / "x.pth")
    assert list(read_tensors(tmp_path / "x.pth")[0]) == ["0"]


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": {"b": torch.zeros(1)}}, {"a": 1}])
def test_what_is_no_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: expected named tensors"):
        read_tensors(tmp_path / "x.pth")
