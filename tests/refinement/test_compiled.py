"""What numba compiles, and where it keeps it: each test looks at processes of their own, since that is what lasts."""

import os
import subprocess
import sys

import pytest

from camseg.base.errors import InputError
from camseg.refinement.refine import warm_up

DOUBLE = """
from camseg.base.compiled import njit

@njit
def double(x):
    return 2 * x
"""
CALL = """
from doubling import double
assert double(3) == 6
print(len(double.stats.cache_hits), len(double.stats.cache_misses))
"""
NOWHERE = """
from numba.core.caching import CacheImpl, UserProvidedCacheLocator
CacheImpl._locator_classes = [UserProvidedCacheLocator]
"""
"""As where neither the package nor the user's folders can be written to; a test may run as someone who can do all."""
CLOSED_FORM = """
import numpy as np
from camseg.refinement.closed_form import closed_form
from camseg.refinement.solvers import laplacian
trimap = np.zeros((40, 30), np.uint8)
trimap[5:30, 5:25], trimap[10:20, 10:20] = 128, 255
closed_form(np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8), trimap)
stats = [each.stats for each in vars(laplacian).values() if hasattr(each, "stats")]
print(sum(bool(each.cache_hits) for each in stats) > 5, any(each.cache_misses for each in stats))
"""


def run(code, cache, *folders):
    """What a script prints, in a process with this folder for numba's cache and with warnings as errors."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(map(str, [*folders, *sys.path]))}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def module(tmp_path):
    (tmp_path / "doubling.py").write_text(DOUBLE)
    return tmp_path


def test_a_later_process_loads_what_an_earlier_one_compiled(module):
    assert run(CALL, module / "cache", module) == "0 1"
    assert run(CALL, module / "cache", module) == "1 0"


def test_no_folder_for_a_cache(module):
    (module / "file").touch()
    assert run(NOWHERE + CALL, module / "file" / "cache", module) == "0 1"


@pytest.mark.parametrize("filled", [False, True])
def test_a_folder_that_is_gone_when_it_is_needed(filled, module):
    cache = module / "cache"
    if filled:
        run(CALL, cache, module)
    spoil = f"import shutil, doubling; shutil.rmtree({str(cache)!r}); open({str(cache)!r}, 'x').close()"
    run(spoil + CALL, cache, module)


def test_pymatting_gets_a_folder_where_there_is_none(tmp_path):
    """A stand-in for pymatting, which takes most of a minute to compile."""
    package = tmp_path / "pymatting"
    package.mkdir()
    (package / "__init__.py").write_text("import numba\nnumba.njit('i8(i8)', cache=True)(lambda x: x)\n")
    (tmp_path / "file").touch()
    code = """
import os, pathlib
from camseg.base.compiled import import_pymatting
assert import_pymatting().__name__ == "pymatting"
assert list(pathlib.Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbi"))
print(os.environ["NUMBA_CACHE_DIR"])
"""
    folder = run(NOWHERE + code, tmp_path / "file" / "cache", tmp_path)
    assert not os.path.exists(folder)


def test_one_caller_at_a_time_on_one_thread():
    from concurrent.futures import ThreadPoolExecutor

    import numba

    from camseg.base.compiled import one_thread

    inside, seen = [], []

    def enter(_):
        with one_thread():
            inside.append(1)
            seen.append((len(inside), numba.get_num_threads()))
            inside.pop()

    before = numba.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(20)))
    enter(0)
    assert set(seen) == {(1, 1)}
    assert numba.get_num_threads() == before


@pytest.mark.slow
def test_warming_up_fills_the_cache(tmp_path):
    run("from camseg.refinement.refine import warm_up; warm_up('auto')", tmp_path)
    assert run(CLOSED_FORM, tmp_path) == "True False"


@pytest.mark.slow
def test_nothing_fails_where_no_cache_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    code = "from camseg.refinement.refine import warm_up; warm_up('closed-form')"
    run(NOWHERE + code, tmp_path / "file" / "cache")


@pytest.mark.parametrize("method", ["auto", "closed-form", "grabcut", "knn", "lkm", "fba", "sam"])
@pytest.mark.parametrize("colors", [False, True])
def test_every_refiner_can_be_warmed_up(method, colors):
    warm_up(method, colors=colors)


def test_an_unknown_refiner_cannot():
    with pytest.raises(InputError, match="unknown refiner"):
        warm_up("magic")
