"""What this installation can do: each part is tried, in a process of its own, and gets one finding."""

import importlib
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, version
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from camseg.base.errors import CamsegError, first_line
from camseg.base.workers import Call, worker_processes

Status: TypeAlias = Literal["ok", "absent", "broken"]
"""absent: not installed, or nothing there; broken: installed, and does not work."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is known of one part of an installation."""

    what: str
    """The part: Python, libraries, torch, device cuda:0, extra dicom, ..."""
    status: Status
    """Whether it works."""
    detail: str
    """One line: versions, sizes, or what is wrong."""
    remedy: str | None = None
    """What to do about it."""


def check_installation(*, ray_address: str | None = None) -> Iterator[Finding]:
    """Try Python, libraries, every device, extras, weights at hand, numba's cache, disk and memory, one by one.

    ``ray_address``: also whether a Ray cluster answers there. Each part is tried in a worker process, so that a library
    which crashes on import, or a device that does, is a finding too. Nothing is raised, and nothing downloaded.
    """
    yield Finding(what="Python", status="ok", detail=f"{platform.python_version()}, {platform.platform(terse=True)}")
    with worker_processes() as call:
        yield from _try(call, "libraries", _libraries)
        yield from _try(call, "torch", _torch)
        for device in _devices(call):
            yield from _try(call, f"device {device}", _pass_through, device)
        yield from _try(call, "torchvision", _torchvision)
        for extra, requirements in _extras().items():
            yield from _try(call, f"extra {extra}", _extra, extra, requirements)
        yield from _try(call, "weights", _weights)
        yield from _try(call, "numba", _numba)
        if ray_address is not None:
            yield from _try(call, "Ray", _ray, ray_address)
    yield from (_disk(), _memory())


def _try(call: Call, what: str, check: Callable[..., list[Finding]], *arguments: Any) -> list[Finding]:
    """What a check finds; where it raises or its process dies, that is the finding."""
    try:
        found: list[Finding] = call(_quietly, check, *arguments)
    except Exception as error:
        detail = str(error) if isinstance(error, CamsegError) else f"{type(error).__name__}: {first_line(error)}"
        return [Finding(what=what, status="broken", detail=detail)]
    return found


def _quietly(check: Callable[..., list[Finding]], *arguments: Any) -> list[Finding]:
    """The check without what libraries say on stderr while they are loaded."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        return check(*arguments)


def _requirements(extra: str = "") -> list[Requirement]:
    """What camseg needs here, or what one of its extras adds, as the package's own metadata say."""
    found = [Requirement(text) for text in metadata("camseg").get_all("Requires-Dist") or ()]
    meant = [one for one in found if ("extra ==" in str(one.marker)) == bool(extra)]
    return [one for one in meant if one.marker is None or one.marker.evaluate({"extra": extra})]


def _extras() -> Mapping[str, Sequence[Requirement]]:
    """The extras for users: all but those that ``dev`` brings along, and their kind."""
    try:
        names = metadata("camseg").get_all("Provides-Extra") or []
    except PackageNotFoundError:  # the libraries' line says so
        return {}
    developers = {"dev", *(inner for one in _requirements("dev") for inner in one.extras)}
    return {name: _requirements(name) for name in names if name.partition("-")[0] not in developers}


def _lacks(requirement: Requirement) -> tuple[Status, str]:
    """Whether a library is there in a version that will do and can be imported, and in words what is so."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return "absent", f"{requirement.name} is not installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return "broken", f"{requirement.name} {found}, where {requirement.specifier} is needed"
    name = canonicalize_name(requirement.name)
    modules = sorted(_modules()[name], key=lambda module: canonicalize_name(module) != name)
    try:
        for module in modules[:1]:  # the one that is called as the library, if one is
            importlib.import_module(module)
    except Exception as error:  # whatever a library raises that does not fit the others
        return "broken", f"{requirement.name} {found} cannot be imported ({type(error).__name__}: {first_line(error)})"
    return "ok", f"{requirement.name} {found}"


@cache
def _modules() -> Mapping[str, Sequence[str]]:
    """What the installed libraries are imported as."""
    owned: defaultdict[str, list[str]] = defaultdict(list)
    for module, owners in packages_distributions().items():
        for owner in owners if not module.startswith("_") else ():
            owned[canonicalize_name(owner)].append(module)
    return owned


def _libraries() -> list[Finding]:
    with suppress(Exception):  # has a line of its own; timm needs it
        from camseg.base.compat import import_torchvision

        import_torchvision()
    try:
        found = [_lacks(one) for one in _requirements()]
    except PackageNotFoundError:
        return [Finding(what="libraries", status="broken", detail="camseg is not installed", remedy="pip install .")]
    if wrong := [words for status, words in found if status != "ok"]:
        remedy = "pip install --upgrade camseg"
        return [Finding(what="libraries", status="broken", detail="; ".join(wrong), remedy=remedy)]
    return [Finding(what="libraries", status="ok", detail=f"camseg {version('camseg')}, and all {len(found)} it needs")]


def _torch() -> list[Finding]:
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    lines = [Finding(what="torch", status="ok", detail=f"{torch.__version__}, {built}")]
    if not torch.cuda.is_available() and (torch.version.cuda or shutil.which("nvidia-smi")):
        why, remedy = "torch finds no GPU it can use", "nvidia-smi says whether the driver sees one"
        if not torch.version.cuda:
            why, remedy = "there is an NVIDIA driver, but this torch is built for the CPU", "install a CUDA build"
        lines.append(Finding(what="device cuda", status="absent", detail=why, remedy=remedy))
    return lines


def _devices(call: Call) -> list[str]:
    try:
        found: list[str] = call(_list_devices)
    except Exception:  # torch's line says so
        return []
    return found


def _list_devices() -> list[str]:
    import torch

    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count())), *mps]


def _pass_through(device: str) -> list[Finding]:
    """A tiny network there and back, against the same on the CPU."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    image = torch.rand(1, 3, 32, 32)
    expected = network(image).detach()
    clock = time.perf_counter()
    network.to(device)
    scores = network(image.to(device))
    scores.sum().backward()
    off = float((scores.detach().cpu() - expected).abs().max())
    took = 1000 * (time.perf_counter() - clock)
    what = f"device {device}"
    if not off < 0.01:  # NaN included
        return [Finding(what=what, status="broken", detail=f"its scores differ from the CPU's by {off:.3g}")]
    detail = f"forward and backward pass in {took:.0f} ms"
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        detail += f"; {torch.cuda.get_device_name(device)}, {_gib(free)} of {_gib(total)} free"
    return [Finding(what=what, status="ok", detail=detail)]


def _torchvision() -> list[Finding]:
    from camseg.base.compat import declares_operators, import_torchvision

    import_torchvision()
    detail = version("torchvision")
    if declares_operators():
        detail += ", whose compiled operators do not fit this torch; camseg needs none of them"
    return [Finding(what="torchvision", status="ok", detail=detail)]


def _extra(name: str, requirements: Sequence[Requirement]) -> list[Finding]:
    found = [_lacks(one) for one in requirements]
    statuses = [status for status, _ in found]
    status: Status = "broken" if "broken" in statuses else "absent" if "absent" in statuses else "ok"
    detail = "; ".join(words for one, words in found if one == status)
    remedy = None if status == "ok" else f"pip install 'camseg[{name}]'"
    return [Finding(what=f"extra {name}", status=status, detail=detail, remedy=remedy)]


def _weights() -> list[Finding]:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    from camseg.models.hub import hub

    with hub() as reachable:
        reach = "the hub answers" if reachable else "the hub is out of reach"
    try:
        kept = sorted((repo.repo_id, repo.size_on_disk) for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        kept = []
    size = sum(size for _, size in kept)
    names = ", ".join(name for name, _ in kept[:6]) + (", ..." if len(kept) > 6 else "")
    there = f"{len(kept)} networks in the hub's cache, {_gib(size)} ({names})" if kept else "none in the hub's cache"
    usable = bool(kept) or reachable
    remedy = None if usable else "--weights FILE; the guide says how to make one elsewhere"
    return [Finding(what="weights", status="ok" if usable else "absent", detail=f"{there}; {reach}", remedy=remedy)]


def _numba() -> list[Finding]:
    from camseg.base.compiled import njit

    @njit
    def squares(count: int) -> int:
        total = 0
        for number in range(count):
            total += number * number
        return total

    if squares(4) != 14:
        return [Finding(what="numba", status="broken", detail="what it compiles gives wrong results")]
    compiled: Any = squares
    cache, folder = compiled.stats, getattr(compiled._cache, "cache_path", None)
    kept = folder is not None and (cache.cache_hits or any(Path(folder).glob("doctor.*.nbi")))
    if not kept:
        detail, remedy = (
            "compiles, but can keep nothing: every process compiles again",
            "name a folder: NUMBA_CACHE_DIR",
        )
        return [Finding(what="numba", status="absent", detail=detail, remedy=remedy)]
    return [Finding(what="numba", status="ok", detail=f"{version('numba')} compiles, and keeps it in {folder}")]


def _ray(address: str) -> list[Finding]:
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError:
        return [Finding(what="Ray", status="absent", detail="not installed", remedy="pip install 'camseg[ray]'")]
    from camseg.runs.executors.ray import connected

    with connected(address, None):
        held = ray.cluster_resources()
    nodes = sum(name.startswith("node:") and "__" not in name for name in held)
    detail = f"{ray.__version__}, {nodes} machines, {held.get('CPU', 0):g} cores, {held.get('GPU', 0):g} GPUs"
    return [Finding(what="Ray", status="ok", detail=f"{detail} at {address}")]


def _disk() -> Finding:
    places = dict.fromkeys(os.path.abspath(place) for place in (".", tempfile.gettempdir()))
    free = [f"{_gib(shutil.disk_usage(place).free)} free in {place}" for place in places]
    return Finding(what="disk", status="ok", detail="; ".join(free))


def _memory() -> Finding:
    detail = f"{os.cpu_count()} cores"
    with suppress(OSError, ValueError, AttributeError):  # no such figure on this system
        detail = f"{_gib(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))}, {detail}"
    with suppress(OSError, ValueError, StopIteration):  # only on Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
        detail = f"{_gib(available)} free of {detail}"
    with suppress(OSError, ValueError):  # a container's limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        detail += f"; this container may take {_gib(limit)}, and has {_gib(used)}"
    return Finding(what="memory", status="ok", detail=detail)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
