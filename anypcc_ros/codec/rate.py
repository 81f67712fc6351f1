"""Streams of a given size: the step, and the scales dropped, that give it.

The size of a stream falls steadily with the edge of its cells, step * 2**drop_scales. Its parts do so in ways that are known
before anything is coded, from the cloud on a grid alone: positions follow the number of octree nodes, the counts of points in a
cell their entropy, and fields the number of points. So the parts of one stream foretell those of another one, with another edge
or of the next frame; and what they do not foretell, on a double logarithmic scale, is nearly a line, the *drift*.

Where scales are filled in, which dense surfaces are better with, the step is left as it is, and what is between whole scales
is sent of the coarsest of them: edge = step * 2**(drop_scales - truth). There the drift is all that is known.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from anypcc_ros.codec.bitstream import ATTRIBUTES, COUNTS, FIELDS, OFF_GRID, ORDER, REMAINDERS, SCAN, StreamInfo, inspect
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.config import COARSEST_STEP, FINEST_STEP, CodecConfig, TargetConfig
from anypcc_ros.codec.exact import on_grid
from anypcc_ros.codec.filling import scales_to_fill
from anypcc_ros.codec.octree import occupancy_pyramid, quantise, voxelise

TOLERANCE = 0.01
"""A stream so near to its target, relatively, is not encoded again."""

SEARCH_PASSES = 12
"""Encodings of a first frame at most; two to six are usual."""

MAX_SCALES = 12
"""Scales dropped at most. More would only make the step small."""

DEFAULT_PERIOD = 0.1
"""Seconds from one frame to the next, where nothing is known of it."""

_REPAIRS = 3
"""Encodings, at most, after the passes asked for, of a frame that these have not brought near enough."""

_CARRIED = (FIELDS, ATTRIBUTES, ORDER, REMAINDERS, OFF_GRID, SCAN)

_CROWD = 2.0
"""Points in a cell, on average, from which on they are merged. With more of them hardly anything depends on the edge: finer
counts, and fields that are told by coarser places, take what positions no longer do."""

_SEPARATE = math.log(1.25)  # how much larger a target must be for merged points to be kept again, as a logarithm
_MISSED = math.log(1.25)  # a stream so far from its target, as a logarithm, tells nothing of other clouds
_OTHER = 2.0  # a cloud with so many times the points, or so few, is another one
_STEEPEST, _FLATTEST, _SLOPE = -4.0, -0.1, -0.7  # of log(bytes) by log(edge); the last one before anything is known
_DRIFT = -0.7  # the same where scales are filled in
_APART = 0.1  # edges nearer than this, as a difference of logarithms, tell nothing of the drift: sizes go up and down by 1 %
_WHOLE = 1e-3  # scales nearer to a whole number than this, from above, are that
_LONGEST_STRIDE = math.log(16)  # from one edge to the next
_REACH = math.log(4096)  # from the edge of the configuration
_LOOKS = 3  # grids that are looked at before one is encoded, at most, besides the last one; the nearest is taken
_GAP = 0.01  # from an edge that has given too much or too little to the next one, as a difference of logarithms, at least
_FORETOLD = TOLERANCE / 4  # an edge that should come so near is taken
_MOST_CELLS, _FARTHEST = 2.0**31, 2.0**51  # from one end of a cloud to the other, and from the origin
_LITTLE = 0.1  # of what no grid makes smaller: where that alone exceeds the target, positions are given so much beside it


class _Parts(NamedTuple):
    """Of a stream, bytes; or what a cloud has on some grid, which they follow: nodes of the octree, and cells; the entropy of
    the numbers of points in the cells; and the points that fields are of, or the cells where points are merged."""

    positions: float
    counts: float
    carried: float

    def following(self, before: _Parts, now: _Parts) -> _Parts:
        """These bytes, when in place of what there was before there is what is there now."""
        return _Parts(*(size * new / max(old, 1.0) for size, old, new in zip(self, before, now, strict=True)))


_NOTHING = _Parts(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class _State:
    """What is known of the frames so far. ``edge``: logarithm of the last frame's; ``filling``: whether scales are filled in;
    ``merging``: the logarithm of the size up to which scales are dropped, None while they are not; ``parts``: the last frame's,
    None before the first one, and ``content``: what they follow; ``slope``: how size depends on the edge, ``drift``: how much
    of that the content does not tell; ``crowd``: points per cell. ``points``: of that frame, and ``off``: how far it was from
    its target, a logarithm."""

    edge: float
    filling: bool = False
    merging: float | None = None
    parts: _Parts | None = None
    content: _Parts = _NOTHING
    slope: float = _SLOPE
    drift: float = 0.0
    crowd: float = 1.0
    points: int = 0
    off: float = 0.0

    @property
    def size(self) -> float:
        """Logarithm of the last frame's bytes."""
        return math.log(sum(self.parts)) if self.parts else math.nan

    def expects(self, content: _Parts, edge: float) -> float:
        """The logarithm of the size that a cloud should have on a grid with this edge, where it has this content."""
        assert self.parts is not None
        return math.log(sum(self.parts.following(self.content, content))) + self.drift * (edge - self.edge)

    def merged(self, wanted: float) -> _State:
        """The same when scales are dropped, up to the size wanted: no cell has more points than one."""
        assert self.parts is not None
        parts = _Parts(self.parts.positions, 0.0, self.parts.carried / self.crowd)
        content = _Parts(self.content.positions, 0.0, self.content.carried / self.crowd)
        return replace(self, merging=wanted, parts=parts, content=content, slope=_SLOPE, drift=0.0)


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
        self._encoder_config: CodecConfig | None = None

    def encode(self, encoder: Encoder, cloud: PointCloud, seconds: float = DEFAULT_PERIOD) -> bytes:
        """The stream of the next frame, with ``encoder``, at whose step the search begins.

        ``seconds``: the time until the frame after it, for ``target_bitrate``. Without a target, the encoder's own stream.
        Where the target cannot be met, because all points at one place take more than that, or because the finest step
        takes less, the nearest stream is taken.
        """
        target = self.config.bytes_of(len(cloud), seconds)
        if not (len(cloud) and target > 0):
            return encoder.encode(cloud)
        encoder, wanted = encoder.for_one_cloud(), math.log(target)
        with self._lock:
            state = self._state if self._encoder_config == encoder.config else None
        if state is not None and (_another_scene(state, cloud) or (state.filling and not _is_surface(encoder.config, cloud))):
            state = None
        if state is None:
            filling = _prefers_filling(encoder, cloud, target)
            data, state = _search(encoder, cloud, wanted, _first(encoder.config, filling), SEARCH_PASSES)
        else:
            passes = self.config.target_passes
            data, state = _search(encoder, cloud, wanted, state, passes + _REPAIRS * (passes > 1))
        merging = _merging(encoder.config, state, wanted)
        if (merging is None) != (state.merging is None):  # on the other curve the same edge has another size
            other = _State(state.edge) if merging is None else state.merged(merging)
            data, state = _search(encoder, cloud, wanted, other, SEARCH_PASSES)
        with self._lock:
            self._state = _remembered(encoder.config, state, cloud, wanted)
            self._encoder_config = encoder.config
        return data


def _first(config: CodecConfig, filling: bool) -> _State:
    """Before the first frame."""
    merging = math.inf if config.drop_scales and not filling else None
    return _State(_edge(config, filling), filling, merging, drift=_DRIFT * filling)


def _edge(config: CodecConfig, filling: bool) -> float:
    return math.log(config.step) + (config.drop_scales - config.truth * filling) * math.log(2)


def _remembered(config: CodecConfig, state: _State, cloud: PointCloud, wanted: float) -> _State:
    """What is known for the frames after this one: where it missed its target by far, not how size depends on the edge."""
    off = state.size - _attainable(config, state, wanted)
    known = state if abs(off) < _MISSED else replace(state, slope=_SLOPE, drift=_DRIFT * state.filling)
    return replace(known, points=len(cloud), off=off)


def _another_scene(state: _State, cloud: PointCloud) -> bool:
    """Whether the frame before, far from its target, had so many points fewer or more that the search begins anew: a sensor
    that was just switched on, or covered."""
    fewer, more = sorted((max(state.points, 1), len(cloud)))
    return abs(state.off) > _MISSED and more > _OTHER * fewer


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
        return wanted if _crowded(config, state) else None
    return state.merging if wanted < state.merging + _SEPARATE else None


def _crowded(config: CodecConfig, state: _State) -> bool:
    """Whether points of one cell are better merged, if they may be."""
    may = state.merging is None and not (state.filling or config.merge_duplicates or config.exact or config.order == "original")
    return may and state.crowd >= _CROWD


def _attainable(config: CodecConfig, state: _State, wanted: float) -> float:
    """The size wanted, a logarithm, or more: where every point is kept what is carried with them takes as much on any grid, and
    nothing is gained by positions that take next to nothing beside it."""
    if state.parts is None or not (config.exact or config.order == "original"):
        return wanted
    return max(wanted, math.log(max((1 + _LITTLE) * state.parts.carried, 1.0)))


def _bounds(config: CodecConfig, cloud: PointCloud, filling: bool) -> tuple[float, float]:
    """The finest and the coarsest edge, logarithms, that are tried for a cloud: those of which the grid can hold it."""
    middle = _edge(config, filling)
    low, high = (math.log(config.step) if filling else middle - _REACH), middle + _REACH
    points = cloud.finite()[0].xyz
    if len(points) and not config.exact:  # which holds what the grid does not
        extent = float(np.ptp(points.astype(np.float64), axis=0).max())
        farthest = float(np.abs(points.astype(np.float64) - config.origin).max())
        low = max(low, math.log(max(extent / _MOST_CELLS, farthest / _FARTHEST, FINEST_STEP)))
    low, high = max(low, math.log(2 * FINEST_STEP)), min(high, math.log(COARSEST_STEP / 2))
    return low, max(low, high)


def _search(encoder: Encoder, cloud: PointCloud, wanted: float, state: _State, passes: int) -> tuple[bytes, _State]:
    """The nearest to the size wanted of so many streams at most, and what is known then."""
    known = state
    finest, coarsest = low, high = _bounds(encoder.config, cloud, state.filling)  # the edge is between low and high
    best, nearest, off = b"", state, math.inf
    for i in range(passes):
        aim = _attainable(encoder.config, known, wanted)
        edge, content, slope = _foresee(encoder, cloud, aim, known, low, high, same_cloud=i > 0)
        edge = min(max(edge, finest), coarsest)
        data, info = _encode(encoder, cloud, edge, state)
        crowd = info.points / max(info.voxels, 1)
        tried = replace(known, edge=edge, content=content, parts=_parts(info), crowd=crowd, slope=slope)
        if i and abs(edge - known.edge) > _APART:
            untold = (tried.size - known.expects(content, edge)) / (edge - known.edge)
            tried = replace(tried, drift=known.drift + untold)
        more = tried.size - _attainable(encoder.config, tried, wanted)
        if more > 0 and _crowded(encoder.config, tried):
            return data, tried  # coarser cells would hold even more points
        if not best or abs(more) < off:
            best, nearest, off = data, tried, abs(more)
        if abs(more) < math.log1p(TOLERANCE) or (edge == finest and more < 0):
            break
        low, high = (max(low, edge), high) if more > 0 else (low, min(high, edge))
        if high - low < 2 * _GAP:  # none is right, as where other beams were found: only the last stream counts
            low, high = (edge, coarsest) if more > 0 else (finest, edge)
        known = tried
    return best, replace(nearest, slope=tried.slope, drift=tried.drift)


def _foresee(
    encoder: Encoder, cloud: PointCloud, wanted: float, known: _State, low: float, high: float, *, same_cloud: bool
) -> tuple[float, _Parts, float]:
    """The edge, between ``low`` and ``high``, that should give the size wanted; what the cloud has there; and the slope.
    ``same_cloud``: what is known is of this one."""
    points = cloud.finite()[0].xyz

    def look(edge: float) -> _Parts:
        return _content(points, edge, encoder.config, known)

    edge, slope = known.edge, known.slope
    content = known.content if same_cloud else look(edge)
    if known.parts is None:
        return edge, content, slope
    gap = min(_GAP, (high - low) / 4)
    size = known.expects(content, edge)
    seen = [] if same_cloud else [(abs(size - wanted), edge, content)]
    for _ in range(_LOOKS):
        if abs(size - wanted) < _FORETOLD and seen:
            break
        stride = min(max((wanted - size) / slope, -_LONGEST_STRIDE), _LONGEST_STRIDE)
        there, before = min(max(edge + stride, low + gap), high - gap), size
        content = look(there)
        size = known.expects(content, there)
        if abs(there - edge) > _APART / 3:
            slope = min(max((size - before) / (there - edge), 2 * slope, _STEEPEST), slope / 2, _FLATTEST)
        edge = there
        seen.append((abs(size - wanted), edge, content))
    _, edge, content = min(seen, key=lambda look: look[0])
    return edge, content, slope


def _content(points: np.ndarray, edge: float, config: CodecConfig, state: _State) -> _Parts:
    """What finite ``points`` (N, 3) have on the grid of this edge, a logarithm."""
    if not len(points):
        return _NOTHING
    step, scales = _grid(edge, config, state)
    if config.exact:
        points = points[on_grid(points, step, config.origin)]
    voxels, _ = voxelise(quantise(points, step, config.origin, config.threads), scales, config.threads)
    nodes = len(voxels.coords) + sum(map(len, occupancy_pyramid(voxels)))
    if scales:
        return _Parts(nodes, 0.0, len(voxels.coords))
    cells = np.bincount(voxels.counts)
    cells = cells[cells > 0]
    return _Parts(nodes, float((cells * np.log2(cells.sum() / cells)).sum()) / 8, len(points))


def _grid(edge: float, config: CodecConfig, state: _State) -> tuple[float, int]:
    """The step and the scales dropped that give cells of this edge, a logarithm, where no scale is filled in."""
    if state.filling:
        return config.step, 0
    above = (edge - math.log(config.step)) / math.log(2)
    scales = 0 if state.merging is None else min(max(round(above), 1), MAX_SCALES)
    return max(math.exp(edge) / 2**scales, FINEST_STEP), scales


def _parts(info: StreamInfo) -> _Parts:
    """Bytes of a stream."""
    counts, carried = (sum(chunk.size for chunk in info.chunks if chunk.tag in tags) for tags in ((COUNTS,), _CARRIED))
    return _Parts(info.size - counts - carried, counts, carried)


def _encode(encoder: Encoder, cloud: PointCloud, edge: float, state: _State) -> tuple[bytes, StreamInfo]:
    """A stream with cells of this edge, a logarithm."""
    if state.filling:
        above = (edge - math.log(encoder.config.step)) / math.log(2)
        scales = min(max(math.ceil(above - _WHOLE), 0), MAX_SCALES)
        finer = encoder.on_grid(encoder.config.step, scales, min(max(scales - above, 0.0), 1.0), "likeliest")
    else:
        finer = encoder.on_grid(*_grid(edge, encoder.config, state))
    data = finer.encode(cloud)
    return data, inspect(data)
