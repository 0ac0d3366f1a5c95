"""Minimum cuts over some of an image's pixels, in loops compiled by numba (import this lazily).

The nodes are the chosen pixels in raster order, each joined to its eight neighbours, as far as they are nodes:
side k of a pixel is opposite to side 7 - k of its neighbour there. Everything per pixel lies in one row of an
array, so that memory grows with the chosen pixels and not with the image.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SIDES = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))

FREE, SOURCE, SINK = 0, 1, 2
"""The search tree of a node."""
TERMINAL, ORPHAN = 8, 9
"""What a node's parent is where it is no neighbour, which is a side from 0 to 7."""
NOWHERE = np.iinfo(np.int32).max
"""The depth of a node that has lost its terminal."""


@njit(nogil=True, cache=True)
def squared_contrast(image):
    """The sum of squared colour differences over all pairs of 8-neighbours of an image, uint8 (H, W, 3); an int."""
    height, width = image.shape[:2]
    total = 0
    for y in range(height):
        for x in range(width):
            for side in range(4, 8):  # each pair once
                row, column = y + SIDES[side][0], x + SIDES[side][1]
                if row < height and 0 <= column < width:
                    total += _squared_difference(image[y, x], image[row, column])
    return total


@njit(nogil=True, cache=True)
def _squared_difference(first, second):
    total = 0
    for channel in range(3):
        difference = int(first[channel]) - int(second[channel])  # the bytes would wrap around
        total += difference * difference
    return total


@njit(nogil=True, cache=True)
def contrast_graph(image, nodes, inside, gamma, beta):
    """Edges of gamma exp(-beta |difference|^2) / distance between the chosen pixels of an image and their neighbours.

    ``image``: uint8 (H, W, 3); ``nodes``, ``inside``: bool (H, W). Returns terminal (N,), neighbours int32 (N, 8), -1
    where there is no node, and capacities (N, 8). An edge to a pixel that is no node becomes part of the
    terminal edge, to the source where that pixel is ``inside``.
    """
    height, width = nodes.shape
    index = np.full((height, width), -1, np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            if nodes[y, x]:
                index[y, x] = count
                count += 1
    terminal = np.zeros(count)
    neighbours = np.full((count, 8), -1, np.int32)
    capacities = np.zeros((count, 8))
    for y in range(height):
        for x in range(width):
            node = index[y, x]
            if node < 0:
                continue
            for side in range(8):
                down, right = SIDES[side]
                row, column = y + down, x + right
                if not (0 <= row < height and 0 <= column < width):
                    continue
                difference = _squared_difference(image[y, x], image[row, column])
                weight = gamma * math.exp(-beta * difference) / math.sqrt(down * down + right * right)
                if index[row, column] >= 0:
                    neighbours[node, side] = index[row, column]
                    capacities[node, side] = weight
                elif inside[row, column]:
                    terminal[node] += weight
                else:
                    terminal[node] -= weight
    return terminal, neighbours, capacities


class _Forest(NamedTuple):
    """The two search trees, and the queue of the nodes from which they still can grow."""

    tree: NDArray[np.int8]
    parent: NDArray[np.int8]
    depth: NDArray[np.int32]
    """The distance to the terminal, as it was at ``stamp``."""
    stamp: NDArray[np.int32]
    """The augmentation after which the node was last known to be connected to its terminal."""
    queue: NDArray[np.int32]
    """A ring: a node is in it once at most."""
    queued: NDArray[np.bool_]
    ends: NDArray[np.int64]
    """Where the ring starts, and how many nodes are in it."""
    orphans: NDArray[np.int32]


@njit(nogil=True, cache=True)
def minimum_cut(terminal, neighbours, capacities):
    """The source's side of the minimum cut: bool (N,); a node that could be on either is on the sink's.

    ``terminal``: float64 (N,), capacity of the edge from the source, or, where negative, to the sink; ``neighbours``:
    int32 (N, 8); ``capacities``: float64 (N, 8), from each node to its neighbours. Terminal and capacities are
    changed in place to what the flow leaves of them. What is left has the same minimum cut: after a change of
    terminal edges, add the difference to what is left and cut again, which saves most of the work.

    Boykov, Kolmogorov, PAMI 2004, section 3; reuse of the flow: Kohli, Torr, PAMI 2007.
    """
    _push_between_neighbours(terminal, neighbours, capacities)
    count = len(terminal)
    forest = _Forest(
        np.zeros(count, np.int8),
        np.zeros(count, np.int8),
        np.ones(count, np.int32),
        np.zeros(count, np.int32),
        np.empty(count, np.int32),
        np.zeros(count, np.bool_),
        np.zeros(2, np.int64),
        np.empty(count, np.int32),
    )
    for node in range(count):
        if terminal[node] != 0:
            forest.tree[node] = SOURCE if terminal[node] > 0 else SINK
            forest.parent[node] = TERMINAL
            _enqueue(forest, node)
    time = 0
    while forest.ends[1] > 0:
        node = _dequeue(forest)
        while forest.tree[node] != FREE:
            side = _grow(forest, neighbours, capacities, node)
            if side < 0:
                break
            if forest.tree[node] == SOURCE:
                orphans = _augment(forest, terminal, neighbours, capacities, node, side)
            else:
                orphans = _augment(forest, terminal, neighbours, capacities, neighbours[node, side], 7 - side)
            time += 1
            _adopt(forest, neighbours, capacities, orphans, time)
    return forest.tree == SOURCE


@njit(nogil=True, cache=True)
def _push_between_neighbours(terminal, neighbours, capacities):
    # Most of the flow in noise: the paths of one edge, without the search for them.
    for node in range(len(terminal)):
        for side in range(8):
            other = neighbours[node, side]
            if other >= 0 and terminal[node] * terminal[other] < 0:
                source, sink, out = (node, other, side) if terminal[node] > 0 else (other, node, 7 - side)
                flow = min(terminal[source], -terminal[sink], capacities[source, out])
                terminal[source] -= flow
                terminal[sink] += flow
                capacities[source, out] -= flow
                capacities[sink, 7 - out] += flow


@njit(nogil=True, cache=True)
def _enqueue(forest, node):
    if not forest.queued[node]:
        forest.queued[node] = True
        forest.queue[(forest.ends[0] + forest.ends[1]) % len(forest.queue)] = node
        forest.ends[1] += 1


@njit(nogil=True, cache=True)
def _dequeue(forest):
    node = forest.queue[forest.ends[0]]
    forest.queued[node] = False
    forest.ends[0] = (forest.ends[0] + 1) % len(forest.queue)
    forest.ends[1] -= 1
    return node


@njit(nogil=True, cache=True)
def _room(tree, neighbours, capacities, node, side):
    """What can still flow between a node of ``tree`` and the child it has, or could have, at a side."""
    return capacities[node, side] if tree == SOURCE else capacities[neighbours[node, side], 7 - side]


@njit(nogil=True, cache=True)
def _grow(forest, neighbours, capacities, node):
    """Take the free neighbours of a node into its tree; the side at which it meets the other tree, or -1."""
    tree, parent, depth, stamp = forest.tree, forest.parent, forest.depth, forest.stamp
    for side in range(8):
        other = neighbours[node, side]
        if other < 0 or _room(tree[node], neighbours, capacities, node, side) <= 0:
            continue
        if tree[other] == FREE:
            tree[other] = tree[node]
            _enqueue(forest, other)
        elif tree[other] != tree[node]:
            return side
        elif stamp[other] > stamp[node] or depth[other] <= depth[node]:
            continue  # its own way to the terminal is the shorter one
        parent[other], depth[other], stamp[other] = 7 - side, depth[node] + 1, stamp[node]
    return -1


@njit(nogil=True, cache=True)
def _augment(forest, terminal, neighbours, capacities, node, side):
    """Fill the path through the edge from a node of the source's tree at a side; the number of orphans it leaves."""
    parent = forest.parent
    flow = capacities[node, side]
    for start, sign in ((node, 1), (neighbours[node, side], -1)):
        child = start
        while parent[child] != TERMINAL:
            up = neighbours[child, parent[child]]
            flow = min(flow, capacities[up, 7 - parent[child]] if sign > 0 else capacities[child, parent[child]])
            child = up
        flow = min(flow, sign * terminal[child])
    capacities[node, side] -= flow
    capacities[neighbours[node, side], 7 - side] += flow
    orphans = 0
    for start, sign in ((node, 1), (neighbours[node, side], -1)):
        child = start
        while True:
            at = parent[child]
            up = child
            if at == TERMINAL:
                terminal[child] -= sign * flow
                left = sign * terminal[child]
            else:
                up = neighbours[child, at]
                capacities[child, at] += sign * flow
                capacities[up, 7 - at] -= sign * flow
                left = capacities[up, 7 - at] if sign > 0 else capacities[child, at]
            if left <= 0:
                parent[child] = ORPHAN
                forest.orphans[orphans] = child
                orphans += 1
            if at == TERMINAL:
                break
            child = up
    return orphans


@njit(nogil=True, cache=True)
def _adopt(forest, neighbours, capacities, orphans, time):
    """Find each orphan the parent nearest to its tree's terminal, or set it free and orphan its children."""
    tree, parent = forest.tree, forest.parent
    while orphans:
        orphans -= 1
        node = forest.orphans[orphans]
        nearest, found = NOWHERE, ORPHAN
        for side in range(8):
            other = neighbours[node, side]
            if other < 0 or tree[other] != tree[node]:
                continue
            if _room(tree[node], neighbours, capacities, other, 7 - side) > 0:
                depth = _depth(forest, neighbours, other, time)
                if depth < nearest:
                    nearest, found = depth, side
        parent[node] = found
        if found != ORPHAN:
            forest.depth[node], forest.stamp[node] = nearest + 1, time
            continue
        for side in range(8):
            other = neighbours[node, side]
            if other < 0 or tree[other] != tree[node]:
                continue
            if _room(tree[node], neighbours, capacities, other, 7 - side) > 0:
                _enqueue(forest, other)
            if parent[other] == 7 - side:
                parent[other] = ORPHAN
                forest.orphans[orphans] = other
                orphans += 1
        tree[node] = FREE


@njit(nogil=True, cache=True)
def _depth(forest, neighbours, node, time):
    """The distance from a node to its terminal, which is noted along the way; NOWHERE if the way ends in an orphan."""
    parent, depth, stamp = forest.parent, forest.depth, forest.stamp
    length = 0
    at = node
    while stamp[at] != time:
        length += 1
        if parent[at] == ORPHAN:
            return NOWHERE
        if parent[at] == TERMINAL:
            stamp[at], depth[at] = time, 1
            length -= 1
            break
        at = neighbours[at, parent[at]]
    length += depth[at]
    left = length
    at = node
    while stamp[at] != time:
        stamp[at], depth[at] = time, left
        left -= 1
        at = neighbours[at, parent[at]]
    return length
