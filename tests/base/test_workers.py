import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from camseg.base.errors import EmptyForegroundError, WorkerError
from camseg.base.workers import call_here, worker_processes
from camseg.refinement.refine import refine

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def call():
    with worker_processes() as call:
        yield call


def test_functions_run_elsewhere_and_their_results_come_back(call):
    assert call_here(os.getpid) == os.getpid() != call(os.getpid)
    assert np.array_equal(call(np.arange, 1_000_000), np.arange(1_000_000))


def test_an_idle_process_is_used_again(call):
    assert call(os.getpid) == call(os.getpid)


def test_threads_that_call_at_once_have_a_process_each():
    with worker_processes() as call, ThreadPoolExecutor(2) as pool:
        slow = pool.submit(call, time.sleep, 2)
        assert pool.submit(call, os.getpid).result() != os.getpid()
        assert not slow.done()


def test_what_a_function_raises_is_raised_here(call):
    nothing = np.zeros((4, 4), np.uint8)
    with pytest.raises(EmptyForegroundError, match="no foreground"):
        call(refine, np.zeros((4, 4, 3), np.uint8), nothing)
    assert call(os.getpid) != os.getpid()


def test_what_a_library_prints_is_no_answer(call):
    assert call(print, "a line on stdout") is None


def test_a_process_that_dies_takes_its_call_with_it_and_no_other():
    with worker_processes() as call:
        first = call(os.getpid)
        with pytest.raises(WorkerError, match=r"exit code 3\)$"):
            call(os._exit, 3)
        with pytest.raises(WorkerError, match=r"exit code -\d+\), perhaps for lack of memory"):
            call(os.abort)
        assert call(os.getpid) != first


def test_calculations_there_take_one_thread(call):
    import cv2

    assert call(os.getenv, "OMP_NUM_THREADS") == "1"
    assert call(cv2.getNumThreads) == 1


def test_nothing_is_imported_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise RuntimeError('not meant to be imported')")
    monkeypatch.chdir(tmp_path)
    with worker_processes() as call:
        assert call(os.getpid) != os.getpid()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_processes_end_with_the_context():
    with worker_processes() as call:
        pid = call(os.getpid)
    assert gone(pid)


@pytest.mark.skipif(os.name != "posix", reason="kills with a signal")
def test_processes_end_when_their_parent_is_killed():
    script = (
        "import os, time\nfrom camseg.base.workers import worker_processes\n"
        "with worker_processes() as call:\n    print(call(os.getpid), flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(pid)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupt_is_left_to_the_parent(call):
    pid = call(os.getpid)
    os.kill(pid, signal.SIGINT)
    assert call(os.getpid) == pid
