"""An endless sequence of components in given proportions, with random access to any place.

The components are the leaves of a binary tree. At an inner node, of the first n places that reach it, round(n * r) go
to the child with the share r of the node's weight, as in Bresenham's line algorithm. Walking down from the root gives
the component at a place, and how many of it came before. There is no state, and no weight is too small.

The tree is a Huffman tree: light components are deep, where the rounding errors above them matter little. A leaf of
weight w is off its exact share by at most half the sum of w / W, over itself and the nodes of weight W between it and
the root. In a Huffman tree, these W grow at least like Fibonacci numbers, so no component is ever off by more than 1.7
rows. With up to three components, none is off by more than 1.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np


@dataclass(frozen=True)
class _Leaf:
    component: int


@dataclass(frozen=True)
class _Split:
    """`share`: the fraction of the places that reach this node and go left, 0 to 1."""

    share: float
    left: _Node
    right: _Node

    def to_left(self, places: np.ndarray) -> np.ndarray:
        """int64: how many of the first `places` that reach this node go left."""
        return np.floor(self.share * places + 0.5).astype(np.int64)


_Node = _Leaf | _Split


class Interleaving:
    """`weights`: float[components], finite, at least 0, and one above 0. They are relative to each other."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.components = len(weights)
        self._root = _huffman(weights)

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 arrays like `places`: the component at each place, and how many of it came before."""
        component, before = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        _locate(self._root, np.arange(len(places)), np.asarray(places, np.int64), component, before)
        return component, before

    def counts(self, places: int) -> np.ndarray:
        """int64[components]: how many of the first `places` each component has."""
        counts = np.zeros(self.components, np.int64)
        _count(self._root, np.asarray(places, np.int64), counts)
        return counts


# Not closures: one that calls itself is a reference cycle, and keeps its arrays until the garbage collector runs.
def _locate(node: _Node, which: np.ndarray, local: np.ndarray, component: np.ndarray, before: np.ndarray) -> None:
    if isinstance(node, _Leaf):
        component[which], before[which] = node.component, local
    elif len(which):
        lefts = node.to_left(local)
        left = node.to_left(local + 1) > lefts
        _locate(node.left, which[left], lefts[left], component, before)
        _locate(node.right, which[~left], (local - lefts)[~left], component, before)


def _count(node: _Node, local: np.ndarray, counts: np.ndarray) -> None:
    if isinstance(node, _Leaf):
        counts[node.component] = local
    else:
        lefts = node.to_left(local)
        _count(node.left, lefts, counts)
        _count(node.right, local - lefts, counts)


def _huffman(weights: Sequence[float]) -> _Node:
    numbers = count()  # breaks ties, so that nodes are never compared
    heap: list[tuple[float, int, _Node]] = [(w, next(numbers), _Leaf(c)) for c, w in enumerate(weights) if w > 0]
    heapq.heapify(heap)
    while len(heap) > 1:
        (light, _, right), (heavy, _, left) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (light + heavy, next(numbers), _Split(heavy / (light + heavy), left, right)))
    return heap[0][2]
