"""Where the codec's time goes, stage by stage, without a line of timing code in the codec.

For the length of a recording the codec's own functions are replaced by ones that time them. That costs microseconds per
call; figures to be quoted as a whole are nevertheless taken without it.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from anypcc_ros.codec import bitstream, geometry, octree, position_decoder, position_encoder
from anypcc_ros.codec.beam_finder import BeamFinder
from anypcc_ros.codec.entropy import SymbolDecoder, SymbolEncoder
from anypcc_ros.codec.kernels.levels import NativeLevels
from anypcc_ros.codec.lattice import Lattice
from anypcc_ros.codec.model.accelerated import NativeArithmetic
from anypcc_ros.codec.model.network import is_head, plain_name
from anypcc_ros.codec.occupancy import OccupancyDecoder, OccupancyEncoder

STAGES = {
    "grid": "positions to grid cells and back; unique cells in Morton order",
    "lattice": "axes that use a coarser lattice than the grid",
    "beams": "the sensor's laser beams, which the encoder fits",
    "octree": "occupancy codes of all levels; in the decoder, coordinates of the children",
    "levels": "the neighbour tables of a level, and the kernels' plans of its convolutions",
    "prior": "fusion of a level's codes and the convolutions down to the level below",
    "aggregation": "what the second checkerboard group sees of the first",
    "heads": "the network's predictions of the codes",
    "calibration": "what is known around the nodes, and the probabilities corrected by it; in the decoder with the range coder",
    "entropy": "range coder",
    "duplicates": "points per cell",
    "container": "chunks and checksums",
    "other": "array handling between the stages",
}
"""Stage names and what they hold."""

Stage: TypeAlias = str | Callable[[str], str]
"""A stage, or a function that tells it from the name of a layer, the timed function's first argument after self."""

Hook: TypeAlias = tuple[Any, str, Stage]
"""Where a timed function is looked up when the codec calls it: the module or class, the name there, and its stage."""


def _stage_of_layer(layer: str) -> str:
    if is_head(layer):
        return "heads"
    return "aggregation" if plain_name(layer) in ("seen", "aggregate") else "prior"


_HOOKS: tuple[Hook, ...] = (
    (position_encoder, "quantise", "grid"),
    (position_encoder, "voxelise", "grid"),
    (position_decoder, "dequantise", "grid"),
    (BeamFinder, "find", "beams"),
    (position_encoder, "find_lattice", "lattice"),
    (position_encoder, "encode_lattice", "lattice"),
    (position_decoder, "decode_lattice", "lattice"),
    (Lattice, "compact", "lattice"),
    (Lattice, "restore", "lattice"),
    (position_encoder, "encode_counts", "duplicates"),
    (position_decoder, "decode_counts", "duplicates"),
    (position_encoder, "cells_checksum", "container"),
    (position_decoder, "cells_checksum", "container"),
    (bitstream, "write_stream", "container"),
    (bitstream, "read_stream", "container"),
    (octree, "occupancy_pyramid", "octree"),
    (octree, "child_coords", "octree"),
    (geometry, "encode_raw", "container"),
    (geometry, "decode_raw", "container"),
    (OccupancyEncoder, "code", "calibration"),
    (OccupancyEncoder, "_encode", "calibration"),  # in the background, where there are threads for it
    (OccupancyDecoder, "code", "calibration"),
    (SymbolEncoder, "encode", "entropy"),
    (SymbolEncoder, "finish", "entropy"),
    (SymbolDecoder, "decode", "entropy"),
)


def _network_hooks(arithmetic: Any) -> tuple[Hook, ...]:
    by_layer = ("linear", "conv", "up", "aggregate", "head")
    return (
        *((arithmetic, name, _stage_of_layer) for name in by_layer),
        (arithmetic, "gather", "aggregation"),
        (arithmetic, "expand", "levels"),
    )


_NATIVE_HOOKS: tuple[Hook, ...] = (
    *_network_hooks(NativeArithmetic),
    *((NativeLevels, name, "levels") for name in ("neighbors", "across")),
)


def _torch_hooks() -> tuple[Hook, ...]:
    from anypcc_ros.codec.model import reference

    tables = tuple((reference, name, "levels") for name in ("up_table", "cross_table"))
    return (*_network_hooks(reference.TorchArithmetic), *tables)


class Stopwatch:
    """Seconds by stage, in the order of ``STAGES``, of one run of encoder or decoder.

    Of stages within stages each counts its own time alone. Stages that run on other threads are counted too, so that the
    sum can exceed the run; ``other`` is what the calling thread did outside any stage.
    """

    def __init__(self, synchronise: Callable[[], None] = lambda: None) -> None:
        """``synchronise`` waits for work that a stage has started elsewhere, on a GPU."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._synchronise = synchronise
        self._threads = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's time, less that of the stages within it."""
        inner: list[float] = self._threads.__dict__.setdefault("inner", [])  # seconds inside each stage now open
        inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
            self._synchronise()
        finally:
            seconds = time.perf_counter() - start
            own = seconds - inner.pop()
            if inner:
                inner[-1] += seconds
            with self._lock:
                self.seconds[name] += own

    def timed(self, stage: Stage, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each call counted towards its stage."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage if isinstance(stage, str) else stage(args[1])):
                return function(*args, **kwargs)

        return call


@contextmanager
def recording(backend: str) -> Iterator[Stopwatch]:
    """Time the block, which encodes or decodes once on ``backend`` (native, torch or cuda), by stage.

    It counts the whole process: nothing else may encode or decode meanwhile.
    """
    synchronise: Callable[[], None] = lambda: None  # noqa: E731 - one name, two functions
    if backend == "cuda":
        import torch

        synchronise = torch.cuda.synchronize
    watch = Stopwatch(synchronise)
    with ExitStack() as restored:
        for owner, name, stage in (*_HOOKS, *(_NATIVE_HOOKS if backend == "native" else _torch_hooks())):
            original = getattr(owner, name)
            restored.callback(setattr, owner, name, original)
            setattr(owner, name, watch.timed(stage, original))
        with watch.stage("other"):
            yield watch
