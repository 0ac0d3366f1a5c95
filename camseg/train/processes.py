"""The processes that train one run together: those that torchrun started, or this one alone."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from camseg.base.device import find_device
from camseg.base.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Which process this is, and of how many. Alone, everything between processes leaves things as they are."""

    rank: int = 0
    """Of this process among all; 0 is the first, which writes and speaks."""
    count: int = 1
    """How many there are."""
    place: int = 0
    """Of this process among those of its machine: the number of its GPU."""

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def join(self, device: str) -> torch.device:
        """Meet the others, and return the device of this one, as ``find_device``; of GPUs each process takes its own.

        Raises InputError for a device that does not exist, or that several processes cannot share out.
        """
        if self.count == 1:
            return find_device(device)
        if device not in ("auto", "cpu", "cuda"):
            raise InputError(f"expected device auto, cpu or cuda for {self.count} processes; got {device}")
        gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        own = find_device(f"cuda:{self.place}" if gpu else "cpu")
        if not dist.is_initialized():
            if gpu:
                torch.cuda.set_device(own)
            dist.init_process_group("nccl" if gpu else "gloo", device_id=own if gpu else None)
        return own

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            dist.barrier()

    def from_first(self, tensor: Tensor) -> Tensor:
        """The first one's values of a tensor of equal shape in all, in place, on the device of ``join``."""
        if self.count > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all of a tensor of equal shape, in place, on the device of ``join``."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def part(self) -> None:
        """End the meeting for good, once all have come here: processes that meet anew may miss each other.

        Not for a process that fails: it would wait for the others, and torchrun for it before it stops them.
        """
        if self.count > 1 and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()


def started_together() -> Processes:
    """The processes that torchrun started with this one."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return Processes()
    rank, count, place = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Processes(rank=rank, count=count, place=place)
