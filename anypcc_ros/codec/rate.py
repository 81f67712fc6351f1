"""Streams of a given size: the step, and the scales dropped, that give it.

The size of a stream falls steadily with the edge of its cells, step * 2**drop_scales. On a double logarithmic scale it
does so nearly in a line, whose slope changes slowly: a secant finds the edge within few encodings, and that of one frame
serves the next. Between frames positions follow the number of octree nodes, and fields that of points, both of which are
known before anything is coded.

Where scales are filled in, which dense surfaces are better with, the step is left as it is, and what is between whole scales
is sent of the coarsest of them: edge = step * 2**(drop_scales - truth).
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

from anypcc_ros.codec.bitstream import ATTRIBUTES, COUNTS, OFF_GRID, ORDER, REMAINDERS, inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.config import CodecConfig, TargetConfig
from anypcc_ros.codec.filling import scales_to_fill
from anypcc_ros.codec.octree import occupancy_pyramid, quantise, voxelise

TOLERANCE = 0.01
"""A stream so near to its target, relatively, is not encoded again."""

SEARCH_PASSES = 12
"""Encodings of a first frame at most; three to five are usual."""

MAX_SCALES = 12
"""Scales dropped at most. More would only make the step small."""

PERIOD_FRAMES = 11
DEFAULT_PERIOD, LONGEST_PERIOD = 0.1, 10.0
"""Seconds."""

_CARRIED = (COUNTS, ATTRIBUTES, ORDER, REMAINDERS, OFF_GRID)

_CROWD = 4.0
"""Points in a cell, on average, from which on they are merged."""

_SEPARATE = math.log(1.25)  # how much larger a target must be for merged points to be kept again, as a logarithm
_STEEPEST, _FLATTEST, _SLOPE = -2.0, -0.1, -0.7  # of log(bytes) by log(edge); the last one before anything is known
_SAME_EDGE = 0.02  # edges nearer than this, as a difference of logarithms, tell nothing of the slope
_WHOLE = 1e-3  # scales nearer to a whole number than this, from above, are that
_LONGEST_STRIDE = math.log(16)  # from one edge to the next
_REACH = math.log(4096)  # from the edge of the configuration


class _Content(NamedTuple):
    """What a frame has on some grid: ``nodes`` of its octree, which take most of the bytes of positions; and ``carriers`` of
    fields and counts, the points, or the cells where they are merged."""

    nodes: int
    carriers: int


_NOTHING = _Content(1, 1)


@dataclass(frozen=True)
class _State:
    """What is known of the frames so far. ``edge``, ``size``: logarithms of the last frame's edge and bytes, NaN if there is
    none; ``filling``: whether scales are filled in; ``content``: what the frame had; ``carried``: share of its bytes that
    fields and counts took; ``slope``: how size depends on edge; ``crowd``: points per cell; ``merging``: the logarithm of the
    size up to which scales are dropped, None while they are not."""

    edge: float
    filling: bool = False
    size: float = math.nan
    content: _Content = _NOTHING
    carried: float = 0.0
    slope: float = _SLOPE
    crowd: float = 1.0
    merging: float | None = None

    def after(self, content: _Content) -> _State:
        """What to expect of another frame on the same grid."""
        nodes, carriers = content.nodes / self.content.nodes, content.carriers / self.content.carriers
        return replace(self, size=self.size + math.log((1 - self.carried) * nodes + self.carried * carriers))

    def toward(self, size: float) -> float:
        """The logarithm of the edge that this size should need."""
        if math.isnan(self.size):
            return self.edge
        stride = (size - self.size) / self.slope
        return self.edge + min(max(stride, -_LONGEST_STRIDE), _LONGEST_STRIDE)


class RateControl:
    """Encodes the frames of one stream toward a target. Several threads may do so at a time.

    The step is what is changed first: every point is kept, with its fields. Where cells come to hold several points, their
    number and their fields cost more than the places, and no step makes that less; then scales are dropped, so that
    each cell is one point. Not with ``order`` original and ``exact``, which keep every point whatever it costs.
    """

    def __init__(self, config: TargetConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._state: _State | None = None

    def encode(self, encoder: Encoder, cloud: PointCloud, seconds: float = DEFAULT_PERIOD) -> bytes:
        """The stream of the next frame, with ``encoder``, at whose step the search begins.

        ``seconds``: the time until the frame after it, for ``target_bitrate``. Without a target, the encoder's own stream.
        Where the target cannot be met, because all points at one place take more than that, or because the finest step
        takes less, the nearest stream is taken.
        """
        target = self.config.bytes_of(len(cloud), seconds)
        if not (len(cloud) and target > 0):
            return encoder.encode(cloud)
        wanted = math.log(target)
        with self._lock:
            state = self._state
        if state is not None and state.filling and not _is_surface(encoder.config, cloud):
            state = None  # another scene
        if state is None:
            filling = _prefers_filling(encoder, cloud, target)
            data, state = _search(encoder, cloud, wanted, _first(encoder.config, filling), SEARCH_PASSES)
        else:
            state = state.after(_content(encoder, cloud, state))
            data, state = _search(encoder, cloud, wanted, state, self.config.target_passes)
        merging = state.merging if state.filling else _merging(encoder.config, state, wanted)
        if (merging is None) != (state.merging is None):  # on the other curve the same edge has another size
            data, state = _search(encoder, cloud, wanted, _State(state.edge, merging=merging), SEARCH_PASSES)
        state = replace(state, content=_content(encoder, cloud, state))
        with self._lock:
            self._state = state
        return data


class FramePeriod:
    """Seconds between the frames of one stream, from the times at which they were taken. Several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=PERIOD_FRAMES)

    def after(self, time: float) -> float:
        """The mean over the last frames, this one of ``time`` included; ``DEFAULT_PERIOD`` for the first one.

        A time before the last one's begins anew, as where a recording is played again.
        """
        with self._lock:
            if self._times and not 0 < time - self._times[-1] < LONGEST_PERIOD:
                self._times.clear()
            self._times.append(time)
            frames = len(self._times) - 1
            return (self._times[-1] - self._times[0]) / frames if frames else DEFAULT_PERIOD


def _first(config: CodecConfig, filling: bool) -> _State:
    """Before the first frame."""
    return _State(_edge(config, filling), filling, merging=math.inf if config.drop_scales else None)


def _edge(config: CodecConfig, filling: bool) -> float:
    return math.log(config.step) + (config.drop_scales - config.truth * filling) * math.log(2)


def _prefers_filling(encoder: Encoder, cloud: PointCloud, target: float) -> bool:
    """Whether scales are filled in rather than the step enlarged. ``lossy`` auto: where that is better with one scale, and the
    cloud on its grid takes more than the target."""
    config = encoder.config
    if not _is_surface(config, cloud):
        return False
    if config.lossy == "likeliest":
        return True
    filled = inspect(encoder.on_grid(config.step, 1).encode(cloud)).filled_scales
    return filled > 0 and len(encoder.on_grid(config.step, 0).encode(cloud)) > target


def _is_surface(config: CodecConfig, cloud: PointCloud) -> bool:
    """Whether a scale of the cloud on the configuration's grid may be filled in, as ``lossy`` says."""
    points = cloud.finite()[0].xyz
    if config.exact or config.order == "original" or config.lossy == "scales" or not len(points):
        return False
    voxels, _ = voxelise(quantise(points, config.step, config.origin))
    return config.lossy == "likeliest" or scales_to_fill(voxels, replace(config, drop_scales=1), cloud.fields) > 0


def _merging(config: CodecConfig, state: _State, wanted: float) -> float | None:
    """``merging`` of the state from now on."""
    if state.merging is None:
        may = not (config.merge_duplicates or config.exact or config.order == "original")
        return wanted if may and state.crowd >= _CROWD else None
    return state.merging if wanted < state.merging + _SEPARATE else None


def _search(encoder: Encoder, cloud: PointCloud, wanted: float, state: _State, passes: int) -> tuple[bytes, _State]:
    """The nearest to the size wanted of so many streams at most, and what is known then."""
    middle, known = _edge(encoder.config, state.filling), state
    low, high = middle - _REACH, middle + _REACH  # the edge is between these
    finest = math.log(encoder.config.step) if state.filling else low
    best, nearest = b"", state
    for i in range(passes):
        edge = known.toward(wanted)
        edge = max(edge if low < edge < high else (low + high) / 2, finest)
        data, tried = _encode(encoder, cloud, edge, known, same_frame=i > 0)
        if not best or abs(tried.size - wanted) < abs(nearest.size - wanted):
            best, nearest = data, tried
        if abs(tried.size - wanted) < TOLERANCE or high - low < _SAME_EDGE / 4 or (edge == finest and tried.size < wanted):
            break
        low, high = (max(low, tried.edge), high) if tried.size > wanted else (low, min(high, tried.edge))
        known = tried
    return best, replace(nearest, slope=known.slope)


def _content(encoder: Encoder, cloud: PointCloud, state: _State) -> _Content:
    """What the cloud has on the grid of ``state``."""
    points = cloud.finite()[0].xyz
    if not len(points):
        return _NOTHING
    voxels, _ = voxelise(quantise(points, math.exp(state.edge), encoder.config.origin))
    nodes = len(voxels.coords) + sum(map(len, occupancy_pyramid(voxels)))
    return _Content(nodes, len(points) if state.merging is None else len(voxels.coords))


def _encode(encoder: Encoder, cloud: PointCloud, edge: float, before: _State, *, same_frame: bool) -> tuple[bytes, _State]:
    """A stream with cells of this edge, a logarithm. ``before``: what was known, of the same frame or the one before."""
    above = (edge - math.log(encoder.config.step)) / math.log(2)
    if before.filling:
        scales = min(max(math.ceil(above - _WHOLE), 0), MAX_SCALES)
        finer = encoder.on_grid(encoder.config.step, scales, min(max(scales - above, 0.0), 1.0), "likeliest")
    else:
        scales = 0 if before.merging is None else min(max(round(above), 1), MAX_SCALES)
        finer = encoder.on_grid(math.exp(edge) / 2**scales, scales)
    data = finer.encode(cloud)
    info = inspect(data)
    size, slope = math.log(len(data)), before.slope
    if same_frame and abs(edge - before.edge) > _SAME_EDGE:
        steepest = _STEEPEST * (1 + before.filling)  # all bits of a scale go within one octave
        slope = min(max((size - before.size) / (edge - before.edge), steepest), _FLATTEST)
    carried = sum(chunk.size for chunk in info.chunks if chunk.tag in _CARRIED) / len(data)
    return data, _State(
        edge, before.filling, size, before.content, carried, slope, info.points / max(info.voxels, 1), before.merging
    )
