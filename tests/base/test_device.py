import pytest
import torch

from camseg.base.device import find_device, find_devices
from camseg.base.errors import InputError


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "", "cpu:x"])
def test_devices_that_are_not_there(device):
    with pytest.raises(InputError, match=r"device .*cannot be used here \(.*try --device auto"):
        find_device(device)


def test_devices_that_are_there():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(torch.device("cpu")) == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda", "mps")


def test_devices_side_by_side():
    assert find_devices("cpu") == ["cpu"]
    assert find_devices("cpu:3") == ["cpu"] * 3
    assert find_devices("cpu:1, cpu") == ["cpu", "cpu"]
    for text in ("cpu:2,tpu", "cuda:99", "cpu,"):
        with pytest.raises(InputError, match="cannot be used here"):
            find_devices(text)
