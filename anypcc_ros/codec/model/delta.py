"""What an adaptation changes in a model: a sparse integer delta of some layers' weights and biases, and its bytes.

As in DeepCABAC (Wiedemann et al. 2020, ISO/IEC 15938-17) a number is coded as binary decisions (is it zero, its sign, its
magnitude) under probabilities that follow what was seen in its contexts. Those are mixed (``mixing.py``), and some rows
of numbers, each the weights of one input, are a block: its contexts are the rows before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder, decode_varint, encode_varint
from anypcc_ros.codec.errors import CorruptStreamError, ModelFileError, TruncatedError
from anypcc_ros.codec.mixing import Mixer, decode_block, encode_block
from anypcc_ros.codec.model.integer import EXACT_SUM, WEIGHT_LIMIT, IntegerLayer, IntegerModel
from anypcc_ros.codec.model.network import layers

SHIFT_LIMIT = 22
"""Shifts are at most this."""

_MAGNITUDE_BITS = 3
_LARGE = (1 << _MAGNITUDE_BITS) - 1  # a token tells magnitudes up to this; what larger ones have beyond 1 + this follows apart
_TENSORS = 128
_BLOCK = 128  # numbers; whole rows of them, at least one
_ZERO_KINDS = (_TENSORS, 10, 81, 16, 27)
_VALUE_KINDS = (_TENSORS, 25, 9)


class LayerDelta(NamedTuple):
    """Changes of one layer: ``weight`` (taps, inputs, outputs) and ``bias`` (rows, outputs), int64."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, eq=False)
class Delta:
    """Changes of a model: ``layers`` by name, to be shifted left by so many bits, 0 to 22, and added to the layers' own."""

    layers: Mapping[str, LayerDelta]
    weight_shift: int
    bias_shift: int

    @property
    def changed(self) -> int:
        """How many parameters change."""
        return sum(int(np.count_nonzero(array)) for layer in self.layers.values() for array in layer)


def adapt(model: IntegerModel, delta: Delta) -> IntegerModel:
    """The model with the changes, which again is an exact integer network. Raises CorruptStreamError where it would not be."""
    changed = dict(model.layers)
    for name, change in delta.layers.items():
        layer = model.layers[name]
        weight = layer.weight + (change.weight << delta.weight_shift)
        bias = layer.bias + (change.bias << delta.bias_shift)
        if np.abs(weight).max() > WEIGHT_LIMIT or np.abs(bias).max() >= EXACT_SUM:
            raise CorruptStreamError(f"an adaptation of model {model.name} takes {name} beyond the exact range")
        changed[name] = IntegerLayer(weight.astype(np.int8), bias.astype(np.int32), layer.multiplier)
    try:
        return IntegerModel(model.name, model.config, changed, model.calibrate)
    except ModelFileError as error:
        raise CorruptStreamError(f"an adaptation does not fit its model: {error}") from error


class _Slice(NamedTuple):
    """A matrix of numbers that are coded some rows at a time: one tap's weights, or the biases. ``base``: what is added to;
    ``values``: (rows, outputs) int64, filled in when decoding; ``tensor``: number of the tensor that it belongs to."""

    base: np.ndarray
    values: np.ndarray
    tensor: int

    @property
    def is_bias(self) -> int:
        return self.tensor & 1


def _slices(model: IntegerModel, delta: Delta) -> Iterator[_Slice]:
    """All slices of the layers that change, in the order of the model's layers."""
    for number, spec in enumerate(layers(model.config)):
        if spec.name in delta.layers:
            layer, change = model.layers[spec.name], delta.layers[spec.name]
            for base, values in zip(layer.weight, change.weight, strict=True):
                yield _Slice(base, values, 2 * number)
            yield _Slice(layer.bias, change.bias, 2 * number + 1)


class _Contexts:
    """Contexts of the blocks of a slice: how its rows before the block changed, and the slice of the same shape before it.

    ``alike``: values of that slice, or zeros.
    """

    def __init__(self, part: _Slice, alike: np.ndarray) -> None:
        self._part, self._alike = part, np.clip(alike, -2, 2)
        self._crowd = 8 * np.count_nonzero(alike, axis=1) // alike.shape[1]
        bits = np.frexp(np.abs(part.base).astype(np.float64))[1]  # lengths of the numbers that are added to
        self._length = np.clip(bits - 7 * part.is_bias, 0, 7)

    def of(self, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Contexts (M, 5) of whether the numbers of some rows are zero, and (M, 3) of their signs and magnitudes."""
        part, known = self._part, self._part.values[: block.start]
        shape = part.values[block].shape
        tensor = np.full(shape, part.tensor % _TENSORS)
        last = known[-shape[0] :] if block.start else np.zeros(shape, np.int64)  # a block before is as large, or none
        recent = np.minimum(np.count_nonzero(last, axis=0), 4)
        trend = np.clip(np.sign(last).sum(axis=0), -2, 2)
        density = 8 * np.count_nonzero(known, axis=0) // max(block.start, 1)
        alike = self._alike[block]
        zeros = (
            tensor,
            recent * 2 + part.is_bias,
            density * 9 + 8 * np.count_nonzero(last) // last.size,
            self._length[block] * 2 + part.is_bias,
            np.abs(alike) * 9 + self._crowd[block, None],
        )
        values = tensor, trend * 5 + alike + 12, density
        return _columns(zeros, shape), _columns(values, shape)


def _columns(contexts: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays that broadcast to ``shape`` as the columns of one, (M, len(contexts)) int64."""
    return np.stack([np.broadcast_to(context, shape).ravel() for context in contexts], axis=1).astype(np.int64)


class _DeltaCoder(ABC):
    """What encoder and decoder of a delta share: the numbers in their order and contexts, and what was learned of them."""

    def __init__(self) -> None:
        self.zeros = Mixer(1, _ZERO_KINDS, 2)
        self.values = Mixer(1 + _MAGNITUDE_BITS, _VALUE_KINDS, 2)

    def run(self, model: IntegerModel, delta: Delta) -> None:
        """Code all numbers of the layers that change."""
        alike: dict[tuple[int, ...], np.ndarray] = {}
        for part in _slices(model, delta):
            rows, outputs = part.values.shape
            contexts = _Contexts(part, alike.get((rows, outputs), np.zeros((rows, outputs), np.int64)))
            height = max(_BLOCK // outputs, 1)
            for start in range(0, rows, height):
                block = part.values[start : start + height].reshape(-1)  # a view: decoding fills it in
                of_zeros, of_values = contexts.of(slice(start, start + height))
                selector = np.full(len(block), part.is_bias, np.int64)
                self.zeros.begin(of_zeros, selector)
                changed = self.code_zeros(block)
                if len(changed):
                    self.values.begin(of_values[changed], selector[changed])
                    self.code_values(block, changed)
            alike[rows, outputs] = part.values

    @abstractmethod
    def code_zeros(self, block: np.ndarray) -> np.ndarray:
        """Code which numbers of a block (M,) are not zero; returns their places."""

    @abstractmethod
    def code_values(self, block: np.ndarray, changed: np.ndarray) -> None:
        """Code the numbers at these places."""


class _DeltaEncoder(_DeltaCoder):
    def __init__(self) -> None:
        super().__init__()
        self.coder = SymbolEncoder()
        self.rests: list[bytes] = []

    def code_zeros(self, block: np.ndarray) -> np.ndarray:
        encode_block(self.coder, self.zeros, (block != 0).astype(np.int64))
        return np.flatnonzero(block)

    def code_values(self, block: np.ndarray, changed: np.ndarray) -> None:
        magnitude = np.abs(block[changed]) - 1
        tokens = ((block[changed] < 0) << _MAGNITUDE_BITS) + np.minimum(magnitude, _LARGE)
        encode_block(self.coder, self.values, tokens)
        self.rests += [encode_varint(int(value) - _LARGE) for value in magnitude[magnitude >= _LARGE]]


class _DeltaDecoder(_DeltaCoder):
    def __init__(self, rests: memoryview, words: memoryview) -> None:
        super().__init__()
        self.coder = SymbolDecoder(words)
        self._rests, self._at = rests, 0

    def code_zeros(self, block: np.ndarray) -> np.ndarray:
        return np.flatnonzero(decode_block(self.coder, self.zeros, len(block)))

    def code_values(self, block: np.ndarray, changed: np.ndarray) -> None:
        tokens = decode_block(self.coder, self.values, len(changed))
        magnitude = tokens & _LARGE
        for i in np.flatnonzero(magnitude == _LARGE):
            rest, self._at = decode_varint(self._rests, self._at)
            magnitude[i] += min(rest, EXACT_SUM)
        block[changed] = np.where(tokens >> _MAGNITUDE_BITS, -1 - magnitude, 1 + magnitude)

    def finish(self) -> None:
        """Raises CorruptStreamError where something is left over."""
        if self._at != len(self._rests) or not self.coder.exhausted():
            raise CorruptStreamError(f"{len(self._rests) - self._at} bytes of large changes, or words, are left over")


def encode_delta(model: IntegerModel, delta: Delta) -> bytes:
    """The bytes of changes to ``model``."""
    flags = np.array([spec.name in delta.layers for spec in layers(model.config)])
    encoder = _DeltaEncoder()
    encoder.run(model, delta)
    rests = b"".join(encoder.rests)
    shifts = bytes([delta.weight_shift, delta.bias_shift])
    which = np.packbits(flags, bitorder="little").tobytes()
    return b"".join([shifts, which, encode_varint(len(rests)), rests, encoder.coder.finish()])


def decode_delta(model: IntegerModel, data: bytes | memoryview) -> Delta:
    """Inverse of ``encode_delta``. Raises StreamError subclasses."""
    view, specs = memoryview(data), list(layers(model.config))
    at = 2 + (len(specs) + 7) // 8
    if len(view) < at:
        raise TruncatedError(f"an adaptation of {len(view)} bytes ends before {at}")
    flags = np.unpackbits(np.frombuffer(view[2:at], np.uint8), bitorder="little")
    if max(view[:2]) > SHIFT_LIMIT or flags[len(specs) :].any():
        raise CorruptStreamError(f"an adaptation that begins with {bytes(view[:at]).hex()}")
    changes = {
        spec.name: LayerDelta(
            np.zeros((spec.taps, spec.inputs, spec.outputs), np.int64), np.zeros((spec.rows, spec.outputs), np.int64)
        )
        for spec, flag in zip(specs, flags, strict=False)
        if flag
    }
    delta = Delta(changes, view[0], view[1])
    size, at = decode_varint(view, at)
    if at + size > len(view):
        raise TruncatedError(f"{size} bytes of large changes in an adaptation of {len(view)} bytes")
    decoder = _DeltaDecoder(view[at : at + size], view[at + size :])
    decoder.run(model, delta)
    decoder.finish()
    return delta
