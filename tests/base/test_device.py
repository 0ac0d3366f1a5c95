import pytest
import torch

from camseg.base.device import find_device
from camseg.base.errors import InputError


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "", "cpu:x"])
def test_devices_that_are_not_there(device):
    with pytest.raises(InputError, match=r"device .*cannot be used here \(.*try --device auto"):
        find_device(device)


def test_devices_that_are_there():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(torch.device("cpu")) == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda", "mps")
