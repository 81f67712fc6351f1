"""Where the network's predictions meet the range coder: each code part, corrected chunk by chunk."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np

from anypcc_ros.codec.background import caller
from anypcc_ros.codec.beams import Beams
from anypcc_ros.codec.calibration import SYMBOLS, Corrector, corrector, decode_predicted, encode_predicted, predicted
from anypcc_ros.codec.contexts import CONTEXT_ROWS, Ancestry, GroupContexts
from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder
from anypcc_ros.codec.likeliest import FillingDecoder, FillingEncoder
from anypcc_ros.codec.model.network import CodePart


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

    def _contexts(self, part: CodePart, ancestry: Ancestry | None, logits: np.ndarray, told: np.ndarray | None) -> np.ndarray:
        assert ancestry is not None, "enter() comes first"
        if self._group is None or self._group.nodes is not part.rows:
            self._group = GroupContexts(part, ancestry, self._beams, self._threads)
        contexts = self._group.rows(part.first_bit > 0, logits)
        return contexts if told is None else contexts[told]


SMALLEST_CUT = 4 * 1024
"""Bytes that a stream still has to have for it to be worth telling that it can be cut there."""


class Shorter(NamedTuple):
    """A stream of fewer levels: the range coder's ``words``, and the ``cells`` (N, 3) uint32 in Morton order that it tells."""

    words: bytes
    cells: np.ndarray


class Witness(Protocol):
    """Who looks on while codes are encoded."""

    def saw(self, part: CodePart, logits: np.ndarray, frequencies: np.ndarray, symbols: np.ndarray) -> None:
        """``symbols`` (n,) uint8 of a part were predicted by ``logits`` (n, S) int32 and coded under ``frequencies`` (n, S)
        float32, none of which it may keep. Called in the order of the parts, maybe some later."""


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
        self._aside = caller(correction.threads)
        self._threads = 1  # the other cores are the network's
        self._shorter: list[Shorter] = []
        self._filling: FillingEncoder | None = None

    def __enter__(self) -> Self:
        self._aside.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._aside.__exit__(kind, error, trace)

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
                self._aside.call(self._encode, logits, part, self._ancestry, symbols[told], told)
            return symbols
        if self._rows is not part.rows:
            self._rows, self._group_codes = part.rows, self._codes[part.rows]
        symbols = self._group_codes >> part.first_bit & ((1 << part.bits) - 1)
        # All codes, as the caller goes on filling in those of the part; only what a decoder knows is looked at.
        work = logits, replace(part, codes=self._codes), self._ancestry, symbols
        self._aside.call(self._encode, *work)
        return symbols

    def _encode(
        self, logits: np.ndarray, part: CodePart, ancestry: Ancestry | None, symbols: np.ndarray, told: np.ndarray | None = None
    ) -> None:
        """The symbols (n,) of a part, or of those rows of it that are ``told``."""
        chosen = logits if told is None else logits[told]
        calibration = self._corrector(logits)
        if self._witness:
            frequencies = predicted(chosen)
            if calibration:
                frequencies = calibration.replay(chosen, self._contexts(part, ancestry, logits, told), symbols)
            self._coder.encode(symbols, frequencies)
            self._witness.saw(part, logits, frequencies, symbols)
        elif calibration:
            calibration.encode(chosen, self._contexts(part, ancestry, logits, told), symbols, self._coder)
        else:
            encode_predicted(chosen, symbols, self._coder)

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
        return calibration.decode(chosen, self._contexts(part, self._ancestry, logits, told), self._coder)

    def exhausted(self) -> bool:
        """Whether, as far as one can tell, everything encoded was read."""
        return self._coder.exhausted()
