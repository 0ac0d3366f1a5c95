"""What the C library does with memory that is freed: kept for the next tensor, where it can be told to."""

import ctypes
import os
from typing import Any, Final

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of malloc.h."""
_LARGEST: Final = (1 << 30, 1 << 25)
"""Bytes up to which a block comes from the heap; glibc before 2.35 takes no more than the second."""


def keep_freed_memory() -> bool:
    """Let the process keep what is freed, up to its peak, until it ends; whether that could be arranged.

    By itself glibc maps every large tensor anew and gives it back, and the system fills each page with zeros again: a
    fifth of the time of a training on the CPU. Other C libraries are left alone, and so is glibc where the environment
    says how it is to allocate.
    """
    told = "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ)
    if told or os.name != "posix":
        return False
    library: Any = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    mapped = any(library.mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST)
    return bool(mapped and library.mallopt(_TRIM_THRESHOLD, -1) and library.mallopt(_TOP_PAD, 1 << 28))
