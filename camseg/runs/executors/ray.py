"""Stages on the machines of a Ray cluster: a pool of actors takes whole batches, this process keeps the manifest.

Paths travel, no pixels. Each actor holds the stages, writes its files into the shared folder in one step each, and
gives back manifest lines. A task may run more than once, and then writes the same files again.
"""

import importlib
import json
import logging
import math
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from camseg.base.errors import CamsegError, InputError, OutputError, WorkerError, first_line
from camseg.base.extras import require
from camseg.base.files import sha256
from camseg.base.progress import Say
from camseg.runs.executors.local import Note, Pipeline, threads
from camseg.runs.record import Record, from_line, to_line
from camseg.runs.run import versions
from camseg.runs.stage import Item, Stage, failed_item

_PER_TASK: Final = 8
"""Batches of a task at most: the more, the better reading and finishing overlap with the network, and the more is done
again where a machine is lost."""
_SET_UPS: Final = 5
"""Processes that may end while they are set up."""
_WAIT: Final = 5.0
"""Seconds that a connection may take, and twice that a new file until another machine sees it."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster to which this process is connected, and how the work is shared out on it."""

    device: str
    """What each actor computes on."""
    actors: int
    """How many there may be."""
    cores: int
    """Of each."""


@contextmanager
def connected(address: str | None, kind: str | None) -> Iterator[Cluster]:
    """A connection to the cluster at an address, or the one that Ray finds or starts; one that is there already stays.

    ``kind``: cpu or cuda; None for the GPUs, if there are any. Raises InputError where Ray is not installed, does not
    answer, has another version there, or lacks GPUs that are asked for.
    """
    ray = _library()
    own = not ray.is_initialized()
    if own:
        _connect(ray, address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with redirect_stdout(sys.stderr):  # where Ray tells of processes that died, amid a command's results
            yield _share_out(nodes, kind, threads())
    finally:
        if own:
            ray.shutdown()


def check_answers(address: str) -> None:
    """Raise InputError where nothing listens at a host and port; what is a word of Ray's own, such as auto, passes."""
    place = urlsplit(address if "//" in address else f"//{address}")
    try:
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), timeout=_WAIT).close()
    except (OSError, ValueError) as error:  # ValueError: a port that is no number
        raise InputError(f"no Ray answers at {address} ({error}); ray start --head starts one") from None


def _library() -> Any:
    return require("ray", "ray", "--engine ray")


def _connect(ray: Any, address: str | None) -> None:
    known = address or os.environ.get("RAY_ADDRESS")
    if known:
        check_answers(known)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    alone = {} if known else {"include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **alone)
    except Exception as error:  # other versions of Ray or Python there, among much else
        words = " ".join(str(error).split())[:300]
        raise InputError(f"Ray at {known or 'this machine'} cannot be used: {words}") from None
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray's own aborts the process
            signal.signal(signal.SIGTERM, before)


def _share_out(nodes: Sequence[Mapping[str, float]], kind: str | None, cores: int) -> Cluster:
    """An actor for each GPU with its share of the machine's cores, or for as many cores as this process takes."""
    gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if kind == "cuda" and not gpus:
        raise InputError("the cluster has no GPU; --devices cpu works on its cores")
    if gpus and kind != "cpu":
        share = min(int(node.get("CPU", 0) / node["GPU"]) for node in gpus)
        return Cluster(device="cuda", actors=sum(int(node["GPU"]) for node in gpus), cores=max(1, share))
    cores = max(1, min(cores, max((int(node.get("CPU", 0)) for node in nodes), default=1)))
    actors = sum(int(node.get("CPU", 0)) // cores for node in nodes)
    return Cluster(device="cpu", actors=max(1, actors), cores=cores)


def run_ray(
    stages: Sequence[Stage],
    batches: Sequence[Sequence[Item]],
    finished: Set[str],
    workers: int,
    note: Note,
    say: Say,
    cluster: Cluster,
    files: Sequence[Path],
) -> Generator[list[Record], None, None]:
    """The manifest lines of every input that is not finished, in the order in which they are done.

    ``files``: such as all machines must see, in the output folder and among the inputs. Batches that are lost with an
    actor are done again, each by itself, and their images have failed where that ends two more of them. Raises
    OutputError where a machine does not see the files, InputError for other versions there, and the stages' own errors.
    """
    if not batches:
        return
    seen = _Surroundings(
        folder=os.getcwd(), files={path: sha256(path) for path in files}, versions=_comparable(versions())
    )
    left = dict(enumerate(batches))
    for per_task, tries in ((_PER_TASK, 1), (1, 2)):
        jobs = {
            number: (batch, frozenset(finished & {item.sample.name for item in batch}))
            for number, batch in left.items()
        }
        for number, answer in _results(stages, jobs, workers, cluster, seen, per_task, tries) if jobs else ():
            if left.pop(number, None) is None:
                continue  # a second answer, of a task that was done again
            for line in answer["said"]:
                say(line)
            for part, spent in answer["seconds"].items():
                note(part, spent)
            for lines in answer["lines"]:
                yield [from_line(line) for line in lines]
        if left and per_task > 1:
            say(f"{len(left)} batches were lost with a process or a machine, and are done again")
    error = WorkerError("the processes that worked on its batch ended early, three times, perhaps for lack of memory")
    for batch in left.values():
        for item in batch:
            if item.sample.name not in finished:
                yield [failed_item(item, error).record]


@dataclass(frozen=True, kw_only=True)
class _Surroundings:
    """What an actor has to find around it."""

    folder: str
    """The current folder here, to which relative paths belong."""
    files: Mapping[Path, str]
    """Files that are there, with their SHA-256."""
    versions: Mapping[str, str]
    """Of what results may depend on, as ``_comparable`` gives them."""

    def check(self) -> None:
        """Raise InputError where the versions differ here, OutputError where a file is not there, or another one."""
        with suppress(OSError):  # absolute paths need no folder to start from
            os.chdir(self.folder)
        here, mine = socket.gethostname(), _comparable(versions())
        if other := [name for name in self.versions if self.versions[name] != mine[name]]:
            said = ", ".join(f"{name} {mine[name]}, not {self.versions[name]}" for name in other)
            raise InputError(f"the machine {here} has other versions than this one ({said}); install the same on both")
        until = time.monotonic() + 2 * _WAIT  # a shared file system may tell of a new file late
        while unseen := [path for path, known in self.files.items() if not _holds(path, known)]:
            if time.monotonic() > until:
                raise OutputError(
                    f"the machine {here} does not see {unseen[0]}; inputs and output have to lie on a file system that "
                    "all machines share, under one path"
                )
            time.sleep(0.5)


def _holds(path: Path, known: str) -> bool:
    try:
        return sha256(path) == known
    except InputError:
        return False


def _comparable(found: Mapping[str, str]) -> dict[str, str]:
    """Versions without what tells of their build, such as torch's for the CPU."""
    return {name: version.partition("+")[0] for name, version in found.items()}


def _results(
    stages: Sequence[Stage],
    jobs: Mapping[int, tuple[Sequence[Item], Set[str]]],
    workers: int,
    cluster: Cluster,
    seen: _Surroundings,
    per_task: int,
    tries: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The answers to batches, by their numbers; those are missing whose tasks were begun ``tries`` times in vain."""
    ray, data = _library(), importlib.import_module("ray.data")
    _quieten(data)
    actors = min(cluster.actors, len(jobs))
    # Enough tasks that every actor has some, however few batches there are.
    tasks = max(math.ceil(len(jobs) / per_task), min(len(jobs), 4 * actors))
    rows = [{"number": number, "job": pickle.dumps(job)} for number, job in jobs.items()]
    begun = ray.remote(_Begun).options(num_cpus=0, max_restarts=-1).remote()
    shared = ray.put(pickle.dumps(list(stages)))  # held here while the actors may ask for it
    told = _Told(
        stages=shared,
        cluster=cluster,
        workers=min(workers, max(2, cluster.cores)),
        threads=threads(),
        seen=seen,
        begun=begun,
        tries=tries,
    )
    answers = data.from_items(rows, override_num_blocks=tasks).map_batches(
        _Actor,
        fn_constructor_args=(told,),
        batch_size=math.ceil(len(jobs) / tasks),
        batch_format="numpy",
        compute=data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=cluster.cores,
        num_gpus=1 if cluster.device == "cuda" else 0,
    )
    for row in answers.iter_rows():
        answer = json.loads(row["answer"])
        if "error" in answer:
            kinds = {kind.__name__: kind for kind in (InputError, OutputError)}
            raise kinds.get(answer["kind"], CamsegError)(answer["error"])
        if answer:
            yield int(row["number"]), answer


def _quieten(data: Any) -> None:
    """One progress bar is enough, and this is not Ray's."""
    context = data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class _Begun:
    """Counts how often something was begun: Ray begins without end again what ends its process."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, what: str, change: int = 1) -> int:
        """How often, this time included; a negative ``change`` says that it came to its end."""
        self.counts[what] += change
        return self.counts[what]


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What an actor is told."""

    stages: Any
    """A reference to them, pickled."""
    cluster: Cluster
    workers: int
    threads: int
    seen: _Surroundings
    begun: Any
    """The actor that counts."""
    tries: int
    """How often a task may be begun."""


class _Actor:
    """Holds the stages in a process of the cluster; what goes wrong it answers, for Ray would begin it again."""

    def __init__(self, told: _Told) -> None:
        self.told = told
        self.error: Exception | None = None
        try:
            told.seen.check()
            if self._begun("set up") > told.cluster.actors + _SET_UPS:
                raise WorkerError("the processes end while they are set up, perhaps for lack of memory")
            stages = pickle.loads(_library().get(told.stages))
            self.pipeline = Pipeline(stages, told.cluster.device, told.workers, told.threads)
            self._begun("set up", -1)
        except Exception as error:
            self.error = error

    def _begun(self, what: str, change: int = 1) -> int:
        count: int = _library().get(self.told.begun.add.remote(what, change))
        return count

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """The answers to the batches of a task, as JSON; empty ones where it was begun too often."""
        numbers = [int(number) for number in rows["number"]]
        answers: list[dict[str, Any]] = [{} for _ in numbers]
        try:
            if self.error is not None:
                raise self.error
            if self._begun(f"batch {numbers[0]}") <= self.told.tries:
                for job in rows["job"]:
                    self.pipeline.add(*pickle.loads(job))
                answers = [_in_words(*self.pipeline.next_done()) for _ in numbers]
        except Exception as error:
            self.error = error
            text = str(error) if isinstance(error, CamsegError) else f"{type(error).__name__}: {first_line(error)}"
            answers = [{"error": text, "kind": type(error).__name__} for _ in numbers]
        return {"number": np.array(numbers), "answer": np.array([json.dumps(one) for one in answers], object)}


def _in_words(records: Sequence[Sequence[Record]], seconds: Mapping[str, float], said: Sequence[str]) -> dict[str, Any]:
    return {"lines": [[to_line(record) for record in one] for one in records], "seconds": seconds, "said": said}
