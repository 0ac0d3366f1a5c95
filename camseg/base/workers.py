"""Worker processes: functions of camseg called outside this process, beside the network and each other."""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from camseg.base.errors import WorkerError

Call = Callable[..., Any]
"""(function of a module, arguments that can be pickled) -> what the function returns; raises what it raises."""


def call_here(function: Callable[..., Any], *arguments: Any) -> Any:
    """The call in this process."""
    return function(*arguments)


@contextmanager
def worker_processes(*, single: bool = True) -> Iterator[Call]:
    """A ``Call`` for several threads: each that calls has a process to itself, which stays until the context ends.

    A process starts when none is idle, so that a single thread that calls has the same one every time. It imports
    nothing of the caller's script, calculates on one thread unless ``single`` is off, and ends with this process,
    however that ends, when the call that it works on is done; at once where an exception ends the context. If one
    dies, say of too little memory, its call raises WorkerError and the next one finds a new process.
    """
    idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
    started: list[_Worker] = []
    lock, ended = threading.Lock(), threading.Event()

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            worker = idle.get_nowait()
        except queue.Empty:
            with lock:  # none may start behind the back of what ends them all
                if ended.is_set():
                    raise WorkerError("the work was ended before it began") from None
                worker = _Worker(single)
                started.append(worker)
        answer = worker.call(function, arguments)  # a worker that raises is not handed on
        idle.put(worker)
        done, value = answer
        if not done:
            raise value
        return value

    try:
        yield call
    except BaseException:
        with lock:
            ended.set()
            for worker in started:
                worker.kill()
        raise
    finally:
        with suppress(queue.Empty):  # a thread may take one meanwhile
            while True:
                idle.get_nowait().end()


# Of ``-c`` Python looks for modules in the current folder first, where anything may lie.
_START = "import sys; sys.path[:] = filter(None, sys.path); from camseg.base.workers import serve; serve()"


class _Worker:
    def __init__(self, single: bool) -> None:
        # One thread each, also for libraries that read its number when they are loaded: the processes are the
        # parallelism, and sums are then taken in one order, whatever machine it is.
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if single else ()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(threads, "1"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        """Whether the function returned, and what it returned or raised."""
        calls, answers = self.pipes
        try:
            pickle.dump((function, arguments), calls, pickle.HIGHEST_PROTOCOL)
            calls.flush()
            answer: tuple[bool, Any] = pickle.load(answers)
            return answer
        except (EOFError, OSError, pickle.UnpicklingError):
            self.end()
            code = self.process.returncode
            hint = ", perhaps for lack of memory; fewer --workers need less" if code < 0 else ""  # a signal
            raise WorkerError(f"the process that worked on it ended early (exit code {code}){hint}") from None

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> None:
        for pipe in self.pipes:
            with suppress(OSError):  # what was not sent has nobody to read it
                pipe.close()
        self.process.wait()

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Where calls are written and answers read."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout


def serve() -> None:
    """What a worker process does: answer calls from stdin on stdout until stdin ends."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the work
    cv2.setNumThreads(1)
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    while True:
        try:
            function, arguments = pickle.load(calls)
        except (EOFError, pickle.UnpicklingError):  # the last one cut off, where the other side was killed
            return
        answer: tuple[bool, Any]
        try:
            answer = True, function(*arguments)
        except Exception as error:
            answer = False, error
        try:
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:
            return
