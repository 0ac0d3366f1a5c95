"""In which order people look at masks, and that two never look at one."""

from dataclasses import replace

import pytest

from camseg.review.items import list_items
from camseg.review.queue import APART, EVERY, LEASE, ORDERS, Queue, image_hash, is_drawn, order_items

NAMES = [f"{n:03}" for n in range(60)]


@pytest.fixture
def items(make_out):
    return list_items(make_out(*NAMES, size=(24, 32))).items


def unlike(path):
    return hash(path.name) & ((1 << 64) - 1)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_holds_every_mask_once_and_is_the_same_again(items, order):
    found = order_items(items, order)
    assert sorted(item.id for item in found) == sorted(item.id for item in items)
    assert [item.id for item in found] == [item.id for item in order_items(items[::-1], order)] or order == "diverse"
    sample = [item for item in items if is_drawn(item)]
    assert 0 < len(sample) < len(items) / 4
    assert is_drawn(found[EVERY - 1])
    assert not any(is_drawn(item) for item in found[: EVERY - 1])


def test_what_the_orders_mean(items):
    def qualities(order):
        return [item.record.quality for item in order_items(items, order) if not is_drawn(item)]

    assert qualities("worst") == sorted(qualities("worst"))
    middle = qualities("uncertain")
    assert abs(middle[0] - 0.5) < 0.05 < abs(middle[-1] - 0.5)
    assert order_items(items, "random", 0) != order_items(items, "random", 1)
    diverse = qualities("diverse")
    assert abs(diverse[0] - diverse[1]) > 0.5
    unknown = replace(items[5], record=replace(items[5].record, quality=None))
    assert ORDERS["worst"]([*items[:5], unknown], 0)[0] is unknown


def test_two_reviewers_never_get_one_mask(items):
    now = [0.0]
    queue = Queue(items, "worst", clock=lambda: now[0], hash_of=unlike)
    first, other = queue.next("a"), queue.next("b")
    assert first.id != other.id
    assert queue.next("a").id == first.id
    assert not queue.lease(other.id, "a")
    now[0] = LEASE + 1
    assert queue.lease(other.id, "a")
    queue.decide(other.id)
    assert queue.next("b").id not in (other.id,)
    seen = {other.id}
    while (item := queue.next("c")) is not None:
        assert item.id not in seen
        seen.add(item.id)
        queue.decide(item.id)
    assert len(seen) == len(items) - 1  # b holds one


def test_what_was_decided_or_passed_over_does_not_come(items):
    decided = [replace(item, decision="accepted") if place < 55 else item for place, item in enumerate(items)]
    queue = Queue(decided, "worst", hash_of=unlike)
    first = queue.next("a")
    assert first.decision is None
    assert queue.next("a", frozenset({first.id})).id != first.id
    left = frozenset(item.id for item in decided[55:])
    assert queue.next("a", left) is None


def test_what_is_withdrawn_does_not_hold_up_the_others(items):
    queue = Queue(items, "worst", hash_of=unlike)
    for _ in items[1:]:
        queue.withdraw(queue.next("a").id)
    last = queue.next("a")
    assert queue.next("a").id == last.id
    queue.withdraw(last.id)
    assert queue.next("a") is None
    assert not queue.done


def test_near_duplicates_come_apart(items):
    def alike(path):  # pairs of images look alike
        return int(path.stem) // 2 * 0x9E3779B97F4A7C15 & ((1 << 64) - 1)

    queue = Queue(items, "worst", hash_of=alike)
    shown = []
    for _ in items[:30]:
        item = queue.next("a")
        queue.decide(item.id)
        shown.append(int(item.record.name))
    for place, one in enumerate(shown):
        assert one // 2 not in [other // 2 for other in shown[place + 1 : place + APART]]


def test_hashes_of_images_that_look_alike_are_alike(make_images, tmp_path):
    from camseg.data.images import write_image

    one, other = make_images((64, 64), seed=1)[0], make_images((64, 64), seed=5)[0]
    brighter = (one * 0.8 + 20).astype("uint8")
    for name, image in (("one", one), ("brighter", brighter), ("other", other)):
        write_image(tmp_path / f"{name}.png", image)
    bits = {name: image_hash(tmp_path / f"{name}.png") for name in ("one", "brighter", "other")}
    assert (bits["one"] ^ bits["brighter"]).bit_count() <= 3
    assert (bits["one"] ^ bits["other"]).bit_count() > 12
    assert image_hash(tmp_path / "none.png") is None
