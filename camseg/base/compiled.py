"""Functions compiled by numba, and what they ask of files and threads. Importing this module loads numba."""

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

_ONE_AT_A_TIME: Final = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """A context for calls of pymatting, whose loops are parallel: one caller at a time, and on its thread alone.

    Numba's fallback threading layer aborts the process when two threads enter it at once. And the loops are so short
    that their threads wait for each other most of the time wherever another process takes a core.
    """
    with _ONE_AT_A_TIME:
        threads = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            yield
        finally:
            numba.set_num_threads(threads)


def njit(function: Function) -> Function:
    """The function compiled at its first call, or loaded from the cache that an earlier process filled.

    Where no cache can be read or written it is compiled in every process, and nothing fails. Python's lock is let go
    while the function runs. Sums may be taken in another order and a division by zero gives infinity, so that loops
    become vector instructions; NaN and infinity keep their meaning.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}
    try:
        compiled: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package nor the user's cache folder can be written to
        compiled = numba.njit(**options)(function)
    else:
        # A folder may turn out to be full or gone only when there is something to write.
        cache = compiled._cache
        cache.load_overload, cache.save_overload = map(_forgiving, (cache.load_overload, cache.save_overload))
    return compiled


def import_pymatting() -> Any:
    """pymatting, which compiles its functions when it is imported and insists on a folder to cache them in.

    Where numba finds none that can be written to, a temporary one serves this process and those that it starts.
    """
    try:
        import pymatting
    except RuntimeError:
        folder = tempfile.mkdtemp(prefix="camseg-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = folder
        import pymatting
    return pymatting


def _forgiving(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which gives None where a file or folder fails."""

    def call(*arguments: Any) -> Any:
        with suppress(OSError):
            return method(*arguments)
        return None

    return call
