"""Where the network's predictions meet the range coder: each code part, corrected chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np

from anypcc_ros.codec.background import caller, later, several
from anypcc_ros.codec.beams import Beams
from anypcc_ros.codec.calibration import (
    SYMBOLS,
    WEIGHT_BITS,
    Corrector,
    corrector,
    decode_predicted,
    encode_predicted,
    predicted,
)
from anypcc_ros.codec.contexts import CONTEXT_ROWS, Ancestry, GroupContexts
from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder
from anypcc_ros.codec.likeliest import FillingDecoder, FillingEncoder
from anypcc_ros.codec.model.network import CodePart
from anypcc_ros.codec.neighbors import Level


class Correction(NamedTuple):
    """What is done about the network's predictions. ``calibrated``: they are corrected by what was seen of the cloud.
    ``beams``: then also by the sensor's. ``threads`` for that, 0 for one per core."""

    calibrated: bool = True
    beams: Beams | None = None
    threads: int = 1


CALIBRATED = Correction()


class _OccupancyCoder:
    """What encoder and decoder share: the calibration, and what is known about the level at hand."""

    def __init__(self, correction: Correction) -> None:
        self._beams, self._threads = correction.beams, correction.threads
        self._calibration = corrector(CONTEXT_ROWS) if correction.calibrated else None
        self._ancestry: Ancestry | None = None
        self._group: GroupContexts | None = None

    def enter(self, ancestry: Ancestry) -> None:
        """Begin a level."""
        self._ancestry = ancestry

    def _corrector(self, logits: np.ndarray) -> Corrector | None:
        """What corrects these; rows of biases have one entry per symbol of half a code."""
        return self._calibration if logits.shape[1] == SYMBOLS else None

    def _contexts(self, part: CodePart, ancestry: Ancestry | None, told: np.ndarray | None) -> np.ndarray:
        assert ancestry is not None, "enter() comes first"
        if self._group is None or self._group.nodes is not part.rows:
            self._group = self._around(part, ancestry)
        contexts = self._group.rows(part.first_bit > 0)
        return contexts if told is None else contexts[told]

    def _around(self, part: CodePart, ancestry: Ancestry) -> GroupContexts:
        return GroupContexts(part, ancestry, self._beams, self._threads)


FORESEEN = 1 << 12
"""Nodes of a group from which on it is worth a thread of its own to look up early what is around them."""

SMALLEST_CUT = 4 * 1024
"""Bytes that a stream still has to have for it to be worth telling that it can be cut there."""


class Shorter(NamedTuple):
    """A stream of fewer levels: the range coder's ``words``, and the ``cells`` (N, 3) uint32 in Morton order that it tells."""

    words: bytes
    cells: np.ndarray


class Witness(Protocol):
    """Who looks on while codes are encoded."""

    def saw(self, part: CodePart, logits: np.ndarray, frequencies: np.ndarray, symbols: np.ndarray, weight: float) -> None:
        """``symbols`` (n,) uint8 of a part were predicted by ``logits`` (n, S) int32 and coded under ``frequencies`` (n, S)
        float32, none of which it may keep; in these the logits had this ``weight``, the mean of that before the part and after
        it. Called in the order of the parts, maybe some later."""


class OccupancyEncoder(_OccupancyCoder):
    """A ``network.SymbolCoder`` that range-encodes the codes it was given, level by level.

    The network needs nothing of what this does. With more than one thread it is done in the background, a few code parts
    behind: as a context it leaves nothing of that behind. ``witness``: who looks on, if anybody.
    """

    def __init__(self, correction: Correction, witness: Witness | None = None) -> None:
        super().__init__(correction)
        self._coder = SymbolEncoder()
        self._witness = witness
        self._codes = self._group_codes = np.zeros(0, np.uint8)
        self._rows: np.ndarray | None = None  # whose codes the latter are
        self._aside, self._ahead = caller(correction.threads), correction.threads
        self._threads = 1  # the other cores are the network's
        self._foreseen: dict[int, Callable[[], GroupContexts]] = {}  # by the identity of a group's rows
        self._shorter: list[Shorter] = []
        self._filling: FillingEncoder | None = None

    def __enter__(self) -> Self:
        self._aside.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._aside.__exit__(kind, error, trace)

    def foresee(self, ancestry: Ancestry, level: Level, codes: np.ndarray) -> None:
        """A level that will be sent as it is, with these codes (N,) uint8: where there are threads for it, what is around its
        nodes is looked up while the network is still busy with it."""
        if not self._calibration or not several(self._ahead):
            return
        for group, rows in enumerate(level.groups):
            if len(rows) >= FORESEEN:
                part = CodePart(level, rows, group, 0, 0, codes)
                self._foreseen[id(rows)] = later(self._ahead, super()._around, part, ancestry)

    def _around(self, part: CodePart, ancestry: Ancestry) -> GroupContexts:
        foreseen = self._foreseen.pop(id(part.rows), None)
        return foreseen() if foreseen else super()._around(part, ancestry)

    def enter(self, ancestry: Ancestry) -> None:
        super().enter(ancestry)
        self._aside.call(self._note_cut, ancestry)

    def know(self, codes: np.ndarray) -> None:
        """The codes (N,) uint8 of the level at hand."""
        self._codes = codes

    def fill(self, filling: FillingEncoder, children: int, codes: np.ndarray) -> None:
        """In place of ``know``, for a level that is filled in: see ``FillingEncoder.enter``."""
        self._filling, self._codes = filling, codes
        filling.enter(children, codes)

    def code(self, logits: np.ndarray, part: CodePart) -> np.ndarray:
        if self._filling:
            symbols, told = self._filling.code(logits, part, self._codes)
            if len(told):
                contexts = self._contexts(part, self._ancestry, told) if self._corrector(logits) else None
                self._aside.call(self._encode, logits[told], contexts, part, symbols[told])
            return symbols
        if self._rows is not part.rows:
            self._rows, self._group_codes = part.rows, self._codes.take(part.rows)
        symbols = self._group_codes >> part.first_bit & ((1 << part.bits) - 1)
        # All codes, as the caller goes on filling in those of the part; only what a decoder knows is looked at.
        whole = replace(part, codes=self._codes)
        contexts = self._contexts(whole, self._ancestry, None) if self._corrector(logits) else None
        self._aside.call(self._encode, logits, contexts, whole, symbols)
        return symbols

    def _encode(self, logits: np.ndarray, contexts: np.ndarray | None, part: CodePart, symbols: np.ndarray) -> None:
        """The symbols (n,) of a part, or of some rows of it, from their logits (n, S) and contexts (n, T)."""
        corrected = (self._calibration, contexts) if self._calibration and contexts is not None else None
        if self._witness:
            before = _own_weight(corrected)
            frequencies = corrected[0].replay(logits, corrected[1], symbols) if corrected else predicted(logits)
            self._coder.encode(symbols, frequencies)
            self._witness.saw(part, logits, frequencies, symbols, (before + _own_weight(corrected)) / 2)
        elif corrected:
            corrected[0].encode(logits, corrected[1], symbols, self._coder)
        else:
            encode_predicted(logits, symbols, self._coder)

    def _note_cut(self, ancestry: Ancestry) -> None:
        words = self._coder.finish()
        if len(words) >= SMALLEST_CUT and ancestry.place:
            # Without this level its nodes are the cells.
            self._shorter.insert(0, Shorter(words, ancestry.place.coords))

    def finish(self) -> bytes:
        """Everything encoded."""
        self._aside.wait()
        return self._coder.finish()

    def shorter(self) -> list[Shorter]:
        """After ``finish``: what it would have given without the last level, the last two, ..., as long as those are
        ``SMALLEST_CUT`` bytes and places are known."""
        return self._shorter


def _own_weight(corrected: tuple[Corrector, np.ndarray] | None) -> float:
    """What the network's logits count, as they are corrected with these contexts (n, T)."""
    return float(corrected[0].weights(corrected[1].shape[1])[-1]) / (1 << WEIGHT_BITS) if corrected else 1.0


class OccupancyDecoder(_OccupancyCoder):
    """A ``network.SymbolCoder`` that reads codes from range-coded bytes. Raises CorruptStreamError."""

    def __init__(self, data: bytes | memoryview, correction: Correction) -> None:
        super().__init__(correction)
        self._coder = SymbolDecoder(data)
        self._filling: FillingDecoder | None = None

    def fill(self, filling: FillingDecoder) -> None:
        """The level at hand and all below it are filled in."""
        self._filling = filling
        filling.enter()

    def code(self, logits: np.ndarray, part: CodePart) -> np.ndarray:
        if self._filling:
            return self._filling.code(logits, part, lambda told: self._decode(logits, part, told))
        return self._decode(logits, part)

    def _decode(self, logits: np.ndarray, part: CodePart, told: np.ndarray | None = None) -> np.ndarray:
        chosen = logits if told is None else logits[told]
        if not (calibration := self._corrector(logits)):
            return decode_predicted(chosen, self._coder, self._threads)
        return calibration.decode(chosen, self._contexts(part, self._ancestry, told), self._coder)

    def exhausted(self) -> bool:
        """Whether, as far as one can tell, everything encoded was read."""
        return self._coder.exhausted()
