"""Where the network's predictions meet the range coder: each code part, calibrated chunk by chunk."""

from __future__ import annotations

import numpy as np

from anypcc_ros.codec.beams import Beams
from anypcc_ros.codec.calibration import SYMBOLS, corrector, softmax
from anypcc_ros.codec.contexts import CONTEXT_ROWS, Ancestry, GroupContexts
from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder
from anypcc_ros.codec.model.network import CodePart


class _OccupancyCoder:
    """What encoder and decoder share: the calibration, and what is known about the level at hand."""

    def __init__(self, beams: Beams | None) -> None:
        self._beams = beams
        self._corrector = corrector(CONTEXT_ROWS)
        self._ancestry: Ancestry | None = None
        self._group: GroupContexts | None = None

    def enter(self, ancestry: Ancestry) -> None:
        """Begin a level."""
        self._ancestry = ancestry

    def _contexts(self, part: CodePart, logits: np.ndarray) -> np.ndarray:
        assert self._ancestry is not None, "enter() comes first"
        if self._group is None or self._group.nodes is not part.rows:
            self._group = GroupContexts(part, self._ancestry, self._beams)
        return self._group.rows(part.first_bit > 0, logits)


class OccupancyEncoder(_OccupancyCoder):
    """A ``network.SymbolCoder`` that range-encodes the codes it was given, level by level."""

    def __init__(self, beams: Beams | None) -> None:
        super().__init__(beams)
        self._coder = SymbolEncoder()
        self._codes = np.zeros(0, np.uint8)

    def know(self, codes: np.ndarray) -> None:
        """The codes (N,) uint8 of the level at hand."""
        self._codes = codes

    def code(self, logits: np.ndarray, part: CodePart) -> np.ndarray:
        symbols = self._codes[part.rows] >> part.first_bit & ((1 << part.bits) - 1)
        if logits.shape[1] == SYMBOLS:
            frequencies = self._corrector.replay(logits, self._contexts(part, logits), symbols)
        else:
            frequencies = softmax(logits)
        self._coder.encode(symbols, frequencies)
        return symbols

    def finish(self) -> bytes:
        """Everything encoded."""
        return self._coder.finish()


class OccupancyDecoder(_OccupancyCoder):
    """A ``network.SymbolCoder`` that reads codes from range-coded bytes. Raises CorruptStreamError."""

    def __init__(self, data: bytes | memoryview, beams: Beams | None) -> None:
        super().__init__(beams)
        self._coder = SymbolDecoder(data)

    def code(self, logits: np.ndarray, part: CodePart) -> np.ndarray:
        if logits.shape[1] != SYMBOLS:
            return self._coder.decode(softmax(logits)).astype(np.uint8)
        return self._corrector.decode(logits, self._contexts(part, logits), self._coder.decode)

    def exhausted(self) -> bool:
        """Whether, as far as one can tell, everything encoded was read."""
        return self._coder.exhausted()
