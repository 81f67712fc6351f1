"""One channel: an integer for each point, predicted from its surroundings, to bytes and back.

Few different values are tokens themselves; of others the token is what the prediction leaves, in classes that grow with it,
and the bits below the class follow as they are. 64-bit integers wrap around, so that every channel comes back.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod

import numpy as np

from anypcc_ros.codec.bits import BitReader, BitWriter, check_rests
from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder, decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, TruncatedError
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.mixing import Mixer, decode_block, encode_block
from anypcc_ros.codec.surroundings import NEIGHBORS, ONE, Surroundings

DIRECT_BITS = 8
"""Values that span no more bits may be tokens themselves."""

_HEADER = struct.Struct("<Bq")  # bits of a direct token, or a predictor; the smallest value
_MEAN, _MEDIAN, _PLAIN = 255, 254, 253  # predictors of residuals
_TOKEN_BITS = 8  # of residuals: 16 small ones, and four classes for each of 60 octaves
_CLIPPED = 1 << 40  # differences to the nearest value, for sums with weights within int64
_SAMPLE = 1 << 11  # values that a predictor is chosen by
_HIGHEST = np.iinfo(np.int64).max
_PLACE_BITS = 6  # of a point's number, as far as its place on the curve tells
_ROOTS = np.array([min(int(spread**0.5), 7) for spread in range(1 << DIRECT_BITS)])


class Channel(ABC):
    """How the values of a channel become tokens in contexts, block by block: what the kernels do faster.

    ``known``: (N,) int64, the values that are decoded, 0 elsewhere. ``tokens``: their tokens, likewise.
    """

    def __init__(self, surroundings: Surroundings, bits: int, sizes: tuple[int, ...], selectors: int) -> None:
        self.surroundings = surroundings
        self.known = np.zeros(len(surroundings), np.int64)
        self.tokens = np.zeros(len(surroundings), np.int64)
        self.bits = bits
        self.mixer = Mixer(bits, sizes, selectors)

    @abstractmethod
    def contexts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Contexts (M, K) and weight set (M,) of a block. Called once for each block, before the others."""

    @abstractmethod
    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (M,) int64 of the block's values, and what they leave (M,) uint64, in as many bits as ``rest_bits`` says."""

    @abstractmethod
    def join(self, tokens: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Inverse of ``split``."""

    def settle(self, rows: np.ndarray, values: np.ndarray, tokens: np.ndarray) -> None:
        """The block is known."""
        self.known[rows], self.tokens[rows] = values, tokens


class Direct(Channel):
    """Values from ``low`` on, of ``bits`` bits, under contexts of the values around, of the place and of the elevation."""

    def __init__(self, surroundings: Surroundings, low: int, bits: int) -> None:
        super().__init__(surroundings, bits, (8 << bits, 16 << bits, 2048, 4096), 8)
        self._low, self._coarse = low, max(bits - 5, 0)
        self._part = max(max(len(surroundings) - 1, 0).bit_length() - _PLACE_BITS, 0)

    def contexts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        around = self.surroundings
        near = self.tokens[around.nearest[rows]]
        reach, middle = around.reach[rows], np.sort(near, axis=1)[:, 2]
        three = near[:, :3]
        spread = _ROOTS[_spread(near)]
        contexts = (
            (near[:, 0] + _ahead_of(three - near[:, :1], around.shares[rows])) * 8 + spread,
            near[:, 0] * 16 + reach,
            (rows.astype(np.int64) >> self._part) * 32 + (middle >> self._coarse),
            around.elevation[rows].astype(np.int64) * 16 + reach,
        )
        return np.stack(contexts, axis=1), spread

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values - self._low, np.zeros(len(values), np.uint64)

    def join(self, tokens: np.ndarray, rest: np.ndarray) -> np.ndarray:
        return tokens + self._low


class Residual(Channel):
    """Any values, as what a prediction from those around leaves, under contexts of how much it left around."""

    def __init__(self, surroundings: Surroundings, predictor: int, reference: np.ndarray | None = None) -> None:
        super().__init__(surroundings, _TOKEN_BITS, (4096, 4096, 4096, 4096), 16)
        self._predictor = predictor
        self._reference = np.zeros(len(surroundings), np.int64) if reference is None else reference.astype(np.int64)

    def contexts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        around = self.surroundings
        self._predicted, ahead, apart = _predict(self._predictor, self.known, around, rows)
        errors = self.tokens[around.nearest[rows]]
        noise = errors.sum(axis=1)
        contexts = (
            token_of(_spread(apart[:, :3])) * 16 + around.distance[rows],
            errors[:, 0] * 16 + _coarse(errors[:, 1]),
            self._reference[rows] * 16 + _coarse(noise // NEIGHBORS),
            token_of(zigzag(ahead)) * 16 + _coarse(token_of(_spread(apart))),
        )
        return np.stack(contexts, axis=1), _coarse(np.minimum(noise >> 1, 255))

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual = zigzag(values - self._predicted)
        tokens = token_of(residual)
        return tokens, residual - _least(tokens)

    def join(self, tokens: np.ndarray, rest: np.ndarray) -> np.ndarray:
        return self._predicted + unzigzag(_least(tokens) + rest)


def _predict(
    predictor: int, known: np.ndarray, around: Surroundings, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(M,) int64 each: predictions from values (N,); by how much they differ from the nearest value; and by how much the
    values around do, (M, 5)."""
    near = known[around.nearest[rows]]
    apart = np.clip(near - near[:, :1], -_CLIPPED, _CLIPPED)
    ahead = np.sort(apart, axis=1)[:, 2] if predictor == _MEDIAN else _ahead_of(apart[:, :3], around.shares[rows])
    predicted = np.zeros(len(rows), np.int64) if predictor == _PLAIN else near[:, 0] + ahead
    return predicted, ahead, apart


def _spread(near: np.ndarray) -> np.ndarray:
    """How far the values of each row lie apart."""
    return near.max(axis=1) - near.min(axis=1)


def best_predictor(values: np.ndarray, around: Surroundings) -> tuple[int, float]:
    """The predictor that leaves the fewest bits of a sample of the values (N,), and about how many of each."""
    rows = np.arange(0, len(values), len(values) // _SAMPLE + 1)
    if not len(rows):
        return _MEAN, 0.0
    found = [(predictor, _predict(predictor, values, around, rows)[0]) for predictor in (_MEAN, _MEDIAN)]
    found.append((_PLAIN, np.zeros(len(rows), np.int64)))
    bits = [(predictor, float(np.log2(1.0 + zigzag(values[rows] - predicted)).mean())) for predictor, predicted in found]
    return min(bits, key=lambda one: one[1])


def _ahead_of(apart: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """By how much the mean of three values, which are (M, 3) more than the first one, is more than that."""
    return (apart[:, 1:] * shares).sum(axis=1) + ONE // 2 >> 8


def zigzag(values: np.ndarray) -> np.ndarray:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ...: int64 to uint64."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: np.ndarray) -> np.ndarray:
    """Inverse of ``zigzag``."""
    return (values >> np.uint64(1)).view(np.int64) ^ -(values & np.uint64(1)).view(np.int64)


def _bit_length(values: np.ndarray) -> np.ndarray:
    """(M,) int64 from uint64. float64 may round up to the next power of two, which the second step takes back."""
    length = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    return length - ((length > 0) & (values >> np.maximum(length - 1, 0).astype(np.uint64) == 0))


def token_of(values: np.ndarray) -> np.ndarray:
    """Class (M,) int64, 0 to 255, of non-negative integers: 0 to 15 themselves, beyond them a quarter of an octave."""
    values = values.view(np.uint64)
    octave = np.maximum(_bit_length(values), 5) - 5
    classes = 16 + octave * 4 + ((values >> (octave + 2).astype(np.uint64)).view(np.int64) & 3)
    return np.where(values < 16, values.view(np.int64), classes)


def _coarse(tokens: np.ndarray) -> np.ndarray:
    """One of 16 classes (M,) of tokens, finer where they are small."""
    return np.where(tokens < 48, tokens >> 2, 12 + (tokens >> 6))


def rest_bits(tokens: np.ndarray) -> np.ndarray:
    """How many bits each token (M,) leaves, int64."""
    return np.where(tokens < 16, 0, (tokens - 16 >> 2) + 2)


def _least(tokens: np.ndarray) -> np.ndarray:
    """The smallest value of each class (M,), uint64."""
    top = np.where(tokens < 16, tokens, 4 + (tokens & 3)).view(np.uint64)
    return top << rest_bits(tokens).view(np.uint64)


def encode_channel(
    values: np.ndarray, surroundings: Surroundings, reference: np.ndarray | None = None
) -> tuple[bytes, np.ndarray]:
    """Code (N,) int64, one for each point; their bytes and tokens (N,) uint8.

    ``reference``: (N,) uint8, what the decoder has before and foretells the size of tokens, such as those of
    another channel.
    """
    low = int(values.min(initial=_HIGHEST))
    bits = (int(values.max(initial=-_HIGHEST - 1)) - low).bit_length() if len(values) else 0
    direct = bits <= DIRECT_BITS and (reference is None or not bits)
    kind = bits if direct else best_predictor(values, surroundings)[0]
    low = low if direct else 0
    header = _HEADER.pack(kind, low)
    if not kind:
        return header + encode_varint(0), np.zeros(len(values), np.uint8)
    if native.available():
        tokens, rests, words = _kernel(surroundings).encode(kind, low, reference, np.ascontiguousarray(values))
    else:
        tokens, rests, words = _encode_blocks(_channel(kind, low, surroundings, reference), values)
    return header + encode_varint(len(rests)) + rests + words, tokens


def decode_channel(
    data: memoryview, surroundings: Surroundings, reference: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of ``encode_channel``: values and tokens. Raises StreamError subclasses."""
    if len(data) < _HEADER.size:
        raise TruncatedError(f"a channel of {len(data)} bytes")
    kind, low = _HEADER.unpack_from(data)
    size, at = decode_varint(data, _HEADER.size)
    if kind not in (*range(DIRECT_BITS + 1), _MEAN, _MEDIAN, _PLAIN) or size > len(data) - at:
        raise CorruptStreamError(f"a channel of kind {kind} with {size} bytes of low bits in {len(data)}")
    rests, words = data[at : at + size], SymbolDecoder(data[at + size :])
    if not kind:
        values, tokens, used = np.full(len(surroundings), low), np.zeros(len(surroundings), np.uint8), 0
    elif words.native:
        packed = np.frombuffer(rests, np.uint8)
        with words.checked():
            values, tokens, used = _kernel(surroundings).decode(kind, low, reference, words.native, packed)
    else:
        values, tokens, used = _decode_blocks(_channel(kind, low, surroundings, reference), words, rests)
    check_rests(rests, used)
    if not words.exhausted():
        raise CorruptStreamError(f"words are left over in a channel of {len(data)} bytes")
    return values, tokens


def _kernel(around: Surroundings) -> native.ChannelKernel:
    classes = around.distance, around.reach, around.elevation
    return native.ChannelKernel(around.nearest, around.shares, classes, around.order, around.lengths)


def _channel(kind: int, low: int, surroundings: Surroundings, reference: np.ndarray | None) -> Channel:
    return Residual(surroundings, kind, reference) if kind > DIRECT_BITS else Direct(surroundings, low, kind)


def _encode_blocks(channel: Channel, values: np.ndarray) -> tuple[np.ndarray, bytes, bytes]:
    """Tokens, rests and words."""
    coder, rests = SymbolEncoder(), BitWriter()
    for rows in channel.surroundings.blocks():
        channel.mixer.begin(*channel.contexts(rows))
        tokens, rest = channel.split(values[rows])
        if isinstance(channel, Residual):
            rests.write(rest, rest_bits(tokens))
        encode_block(coder, channel.mixer, tokens)
        channel.settle(rows, values[rows], tokens)
    return channel.tokens.astype(np.uint8), rests.finish(), coder.finish()


def _decode_blocks(channel: Channel, coder: SymbolDecoder, data: memoryview) -> tuple[np.ndarray, np.ndarray, int]:
    """Values, tokens, and how many bits of rests they took."""
    rests = BitReader(data)
    for rows in channel.surroundings.blocks():
        channel.mixer.begin(*channel.contexts(rows))
        tokens = decode_block(coder, channel.mixer, len(rows))
        rest = rests.read(rest_bits(tokens)) if isinstance(channel, Residual) else tokens
        channel.settle(rows, channel.join(tokens, rest), tokens)
    return channel.known, channel.tokens.astype(np.uint8), rests.used


def sized(payload: bytes) -> list[bytes]:
    """A payload among others: its length and itself."""
    return [encode_varint(len(payload)), payload]


def take_sized(data: memoryview, at: int) -> tuple[memoryview, int]:
    """The payload whose length stands at a place, and the place after it. Raises StreamError subclasses."""
    size, at = decode_varint(data, at)
    if size > len(data) - at:
        raise TruncatedError(f"{size} bytes of a channel in {len(data) - at}")
    return data[at : at + size], at + size
