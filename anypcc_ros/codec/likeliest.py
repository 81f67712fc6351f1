"""Octree levels that are filled in: of their cells little more than the number is sent, and the likeliest ones are taken.

AnyPcc (arXiv 2510.20331, on lossy compression of dense clouds) sends of the finest scales only how many points they have, and
its decoder takes the likeliest positions under the same network that codes the other scales. Here each group of the
checkerboard is filled in by itself, so that the second one is predicted from the first, and each half of the codes; and the
codes that the model doubts most can be sent all the same. Doubt is how many of its cells a likeliest code is expected
to get wrong: codes with the same doubt save about the same error for the same bits, wherever in the cloud they are.

All of it is integers. Frequencies are those of the network, without the calibration, which learns from what was sent alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anypcc_ros.codec.calibration import predicted
from anypcc_ros.codec.entropy import decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError
from anypcc_ros.codec.model.integer import FREQUENCY_BITS
from anypcc_ros.codec.model.network import CodePart
from anypcc_ros.codec.octree import CHILD_COUNT

CODE_BITS = 8
NOTHING = (CODE_BITS << FREQUENCY_BITS - 1) + 1
"""A threshold that no doubt reaches."""


def cell_chances(logits: np.ndarray) -> np.ndarray:
    """How likely each cell of a code part is occupied, in 2**-16: (n, bits) int32 from logits (n, 2**bits)."""
    frequencies, bits = predicted(logits).astype(np.int32), logits.shape[1].bit_length() - 1
    columns = [frequencies.reshape(len(logits), -1, 2, 1 << bit)[:, :, 1].sum(axis=(1, 2)) for bit in range(bits)]
    return np.stack(columns, axis=1).astype(np.int32)


def doubt(chances: np.ndarray) -> np.ndarray:
    """(n,) int32: cells expected to be wrong where each is taken for what is likelier, in 2**-16."""
    return np.asarray(np.minimum(chances, (1 << FREQUENCY_BITS) - chances).sum(axis=1, dtype=np.int32))


def likeliest(chances: np.ndarray, number: int, needy: np.ndarray) -> np.ndarray:
    """Symbols (n,) uint8 that have the ``number`` likeliest cells in all, of equally likely ones the first.

    ``chances``: (n, bits) int32. ``needy``: (n,) bool, which symbols need a cell; the likeliest of each of these is taken
    first of all. ``number`` lies between their number and that of all cells.
    """
    wanted = chances.copy()
    rows = np.flatnonzero(needy)
    wanted[rows, chances[rows].argmax(axis=1)] = (1 << FREQUENCY_BITS) + 1
    flat = wanted.ravel()
    crowd = np.cumsum(np.bincount(flat, minlength=(1 << FREQUENCY_BITS) + 2)[::-1])  # cells at least so likely, downwards
    threshold = (1 << FREQUENCY_BITS) + 1 - int(np.searchsorted(crowd, number))
    taken = flat > threshold
    taken[np.flatnonzero(flat == threshold)[: number - int(taken.sum())]] = True
    symbols = taken.reshape(chances.shape) << np.arange(chances.shape[1])
    return np.asarray(symbols.sum(axis=1).astype(np.uint8))


def _needy(part: CodePart) -> np.ndarray:
    """(n,) bool: nodes without a child so far, when the last part of their codes is at hand."""
    if part.first_bit + part.bits < CODE_BITS:
        return np.zeros(len(part.rows), np.bool_)
    return np.asarray(part.codes[part.rows] == 0)


class FillingEncoder:
    """What an encoder decides of the filled-in levels, coarse to fine, and tells the decoder."""

    def __init__(self, truth: float) -> None:
        """``truth``: share of the codes of the first level that are sent."""
        self._truth = truth
        self._words: list[bytes] = []
        self._threshold: int | None = None
        self._children = 0, 1

    def enter(self, children: int, codes: np.ndarray) -> None:
        """Begin a level that has so many ``children`` in truth; ``codes`` (N,) uint8 are those of the decoded nodes, 0 where
        these are not in the cloud."""
        # Cells that are lost with their parents are made up for, so that each level has as many as in truth.
        self._children = children, max(int(CHILD_COUNT[codes].sum(dtype=np.int64)), 1)
        self._threshold = None

    def code(self, logits: np.ndarray, part: CodePart, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The symbols (n,) uint8 that the decoder will have, and the rows of those that have to be sent.

        ``codes``: (N,) uint8, as in ``enter``.
        """
        chances, needy, codes = cell_chances(logits), _needy(part), codes[part.rows]
        doubts = doubt(chances)
        threshold = self._first_threshold(doubts) if self._threshold is None else self._threshold
        told, rest = np.flatnonzero(doubts >= threshold), np.flatnonzero(doubts < threshold)
        symbols = codes >> part.first_bit & (1 << part.bits) - 1
        children, known = self._children
        number = (int(CHILD_COUNT[symbols[rest]].sum(dtype=np.int64)) * children + known // 2) // known
        number = max(min(number, len(rest) * part.bits), int(needy[rest].sum()))
        self._words.append(encode_varint(number))
        # There is no truth of a node that is not in the cloud, and where the first half of a code was filled in wrongly.
        untrue = told[(codes[told] == 0) | (needy[told] & (symbols[told] == 0))]
        symbols[untrue] = logits[untrue, 1:].argmax(axis=1) + 1
        symbols[rest] = likeliest(chances[rest], number, needy[rest])
        return symbols, told

    def _first_threshold(self, doubts: np.ndarray) -> int:
        """That of the level, from its first part: the doubts (n,) int32."""
        told = round(self._truth * len(doubts))
        self._threshold = 0 if self._truth == 1 else int(np.partition(doubts, -told)[-told]) if told else NOTHING
        self._truth = 0.0  # levels below are filled in throughout: an error here weighs several times one there
        self._words.append(encode_varint(self._threshold))
        return self._threshold

    def finish(self) -> bytes:
        """What the decoder has to know of all levels."""
        return b"".join(self._words)


class FillingDecoder:
    """Inverse of ``FillingEncoder``. Raises StreamError subclasses."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at, self._threshold = data, 0, NOTHING

    def enter(self) -> None:
        """Begin a level."""
        self._threshold = self._number()

    def code(self, logits: np.ndarray, part: CodePart, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The symbols (n,) uint8; ``decode`` gives those in the rows that were sent."""
        chances, needy = cell_chances(logits), _needy(part)
        doubts = doubt(chances)
        told, rest = np.flatnonzero(doubts >= self._threshold), np.flatnonzero(doubts < self._threshold)
        number, least = self._number(), int(needy[rest].sum())
        if not least <= number <= len(rest) * part.bits:
            raise CorruptStreamError(f"{number} cells for {len(rest)} codes of {part.bits} bits, {least} of which need one")
        symbols = np.empty(len(logits), np.uint8)
        symbols[told] = decode(told) if len(told) else 0
        symbols[rest] = likeliest(chances[rest], number, needy[rest])
        return symbols

    def _number(self) -> int:
        value, self._at = decode_varint(self._data, self._at)
        return value

    def exhausted(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._data)
