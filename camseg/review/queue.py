"""Masks -> the order in which people look at them, and who looks at which meanwhile."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from camseg.base.errors import CamsegError
from camseg.data.images import read_image
from camseg.review.items import MaskItem
from camseg.review.settings import Order

EVERY: Final = 20
"""One mask of so many is drawn at random, whatever the order."""
LEASE: Final = 300.0
"""Seconds for which a mask is one reviewer's, from when the page last spoke of it."""
APART: Final = 8
"""Near-duplicates have at least so many others between them, as far as there are others."""
NEAR: Final = 8
"""Images whose hashes of 64 bits differ in at most so many are near-duplicates."""
FARTHEST: Final = 500
"""So many masks are put into the order ``diverse`` by their distances, which takes a pass over all for each."""
_LOOK_AHEAD: Final = 12


def is_drawn(item: MaskItem) -> bool:
    """Whether a mask is of the random sample from which the error of the others is estimated.

    The choice follows from the mask's id alone: it is the same in every order and for every reviewer, and does not
    depend on what has been reviewed already.
    """
    return int(item.id, 16) % EVERY == 0


def order_items(items: Sequence[MaskItem], order: Order, seed: int = 0) -> list[MaskItem]:
    """All masks in an order, with one of the random sample at every ``EVERY``-th place."""
    drawn = _shuffled([item for item in items if is_drawn(item)], seed)
    others = ORDERS[order]([item for item in items if not is_drawn(item)], seed)
    result: list[MaskItem] = []
    rest, sample = deque(others), deque(drawn)
    while rest or sample:
        if sample and (len(result) % EVERY == EVERY - 1 or not rest):
            result.append(sample.popleft())
        elif rest:
            result.append(rest.popleft())
    return result


def _worst(items: Sequence[MaskItem], _seed: int) -> list[MaskItem]:
    return sorted(items, key=lambda item: (-1.0 if item.record.quality is None else item.record.quality, item.id))


def _uncertain(items: Sequence[MaskItem], _seed: int) -> list[MaskItem]:
    known = [item.record.quality for item in items if item.record.quality is not None and item.record.area]
    middle = float(np.median(known)) if known else 0.5

    def away(item: MaskItem) -> float:
        return 0.0 if item.record.quality is None else abs(item.record.quality - middle)

    return sorted(items, key=lambda item: (away(item), item.id))


def _shuffled(items: Sequence[MaskItem], seed: int) -> list[MaskItem]:
    # By their ids: where a mask stands does not depend on which others are there.
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed} {item.id}".encode()).digest())


def _diverse(items: Sequence[MaskItem], _seed: int) -> list[MaskItem]:
    """Each as far as can be from all before it, by what the manifest says; after ``FARTHEST`` the worst first.

    Gonzalez, "Clustering to Minimize the Maximum Intercluster Distance" (1985).
    """
    if not items:
        return []
    facts = _facts(items)
    chosen = [int(np.argmin([1.0 if item.record.quality is None else item.record.quality for item in items]))]
    away = ((facts - facts[chosen[0]]) ** 2).sum(axis=1)
    away[chosen[0]] = -1.0  # less than any distance, so it stays
    while len(chosen) < min(FARTHEST, len(items)):
        place = int(away.argmax())
        chosen.append(place)
        away[place] = -1.0
        away = np.minimum(away, ((facts - facts[place]) ** 2).sum(axis=1))
    taken = set(chosen)
    others = [item for place, item in enumerate(items) if place not in taken]
    return [*(items[place] for place in chosen), *_worst(others, 0)]


def _facts(items: Sequence[MaskItem]) -> NDArray[np.float32]:
    """Agreements, score, logarithm of the area, and class of each mask, standardised (N, facts)."""
    names = sorted({name for item in items for name in item.record.agreements})
    classes = sorted({item.record.class_name or "" for item in items})
    rows = [
        [item.record.agreements.get(name, np.nan) for name in names]
        + [np.nan if item.record.score is None else item.record.score, np.log1p(item.record.area or 0)]
        + [float((item.record.class_name or "") == name) for name in classes]
        for item in items
    ]
    table = np.array(rows, np.float32)
    known = np.isfinite(table)
    centre = np.where(known, table, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    table = np.where(known, table, centre) - centre
    result: NDArray[np.float32] = table / np.maximum(table.std(axis=0), 1e-6)
    return result


ORDERS: Final[Mapping[Order, Callable[[Sequence[MaskItem], int], list[MaskItem]]]] = {
    "worst": _worst,
    "uncertain": _uncertain,
    "random": _shuffled,
    "diverse": _diverse,
}
"""Each order: (masks, seed) -> the same masks."""


@lru_cache(maxsize=1 << 16)
def image_hash(path: Path) -> int | None:
    """64 bits that images which look alike share for the most part: whether each of 8 x 8 cells is brighter than its
    left neighbour; None where the image cannot be read."""
    try:
        image = read_image(path, "percentile")
    except CamsegError:
        return None
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int("".join("01"[bit] for bit in (np.diff(grey, axis=1) > 0).ravel().tolist()), 2)


@dataclass
class _Lease:
    reviewer: str
    until: float


class Queue:
    """Who looks at which mask. Not for several threads at once: its owner sees to that."""

    def __init__(
        self,
        items: Iterable[MaskItem],
        order: Order,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        hash_of: Callable[[Path], int | None] = image_hash,
    ) -> None:
        """Masks of which a person has said something already come when they are asked for only."""
        self.items = order_items(tuple(items), order, seed)
        self.place = {item.id: place for place, item in enumerate(self.items)}
        self.done = {item.id for item in self.items if item.decision is not None}
        self._withdrawn: set[str] = set()
        self._leases: dict[str, _Lease] = {}
        self._shown: deque[int] = deque(maxlen=APART)
        self._clock, self._hash_of = clock, hash_of
        self._start = 0

    def next(self, reviewer: str, skipped: frozenset[str] = frozenset()) -> MaskItem | None:
        """The first mask that nobody has decided on or looks at, near-duplicates of those just shown put off a little;
        None where there is none. ``skipped``: those that the reviewer has passed over. What a reviewer looks at already
        comes again, as when a page is loaded anew."""
        held = next((one for one, lease in self._leases.items() if lease.reviewer == reviewer), None)
        if held is not None and held not in skipped and not self._is_out(held) and self.lease(held, reviewer):
            return self.items[self.place[held]]
        while self._start < len(self.items) and self._is_out(self.items[self._start].id):
            self._start += 1
        free: list[MaskItem] = []
        for item in self.items[self._start :]:
            if not self._is_out(item.id) and item.id not in skipped and self._is_free(item.id, reviewer):
                free.append(item)
                if len(free) == _LOOK_AHEAD:
                    break
        if not free:
            return None
        chosen = next((item for item in free if not self._is_near(item)), free[0])
        if chosen.image is not None and (bits := self._hash_of(chosen.image)) is not None:
            self._shown.append(bits)
        self.lease(chosen.id, reviewer)
        return chosen

    def lease(self, item_id: str, reviewer: str) -> bool:
        """Take or renew a lease; False where another reviewer has it. What else the reviewer held is free again."""
        if not self._is_free(item_id, reviewer):
            return False
        for other in [one for one, lease in self._leases.items() if lease.reviewer == reviewer]:
            del self._leases[other]
        self._leases[item_id] = _Lease(reviewer, self._clock() + LEASE)
        return True

    def decide(self, item_id: str) -> None:
        """Take note that somebody has said something of a mask."""
        self.done.add(item_id)
        self._leases.pop(item_id, None)

    def withdraw(self, item_id: str) -> None:
        """Take out a mask that nobody can look at."""
        self._withdrawn.add(item_id)
        self._leases.pop(item_id, None)

    def _is_out(self, item_id: str) -> bool:
        return item_id in self.done or item_id in self._withdrawn

    def _is_free(self, item_id: str, reviewer: str) -> bool:
        lease = self._leases.get(item_id)
        return lease is None or lease.reviewer == reviewer or lease.until < self._clock()

    def _is_near(self, item: MaskItem) -> bool:
        if item.image is None or not self._shown or (bits := self._hash_of(item.image)) is None:
            return False
        return any((bits ^ other).bit_count() <= NEAR for other in self._shown)
