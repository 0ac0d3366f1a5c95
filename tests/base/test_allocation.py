import os
import platform
import subprocess
import sys

import pytest

# Eight times a block of 32 MB: mapped anew and given back, its pages are filled with zeros each time.
CODE = """
import resource, sys
import numpy as np
from camseg.base.allocation import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else False)
np.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    np.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word, **environment):
    """Whether it was arranged, and how many pages the system then had to fill."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CODE, word]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    arranged, count = done.stdout.split()
    return arranged == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again_unless_the_environment_says_otherwise():
    arranged, count = faults("keep")
    assert arranged
    assert 20 * count < faults("leave")[1]
    assert faults("keep", MALLOC_ARENA_MAX="1")[0] is False
    assert faults("keep", GLIBC_TUNABLES="glibc.malloc.trim_threshold=1000")[0] is False
