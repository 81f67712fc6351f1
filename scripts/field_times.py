#!/usr/bin/env python3
"""What fields add to the time of encoding and decoding messages: whole frames, the same without fields, and the difference.

    python scripts/field_times.py ../shared/data/test/lidar_spinning ../shared/bags --match vlp32

Medians of processor time on one thread, so that other work on the machine counts little. The encoder is the node's, which
remembers the sensor. Prints rows of a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from anypcc_ros.codec.cloud import PointCloud  # noqa: E402
from anypcc_ros.codec.codec import Decoder, Encoder  # noqa: E402
from anypcc_ros.codec.config import CodecConfig, DecoderConfig  # noqa: E402
from anypcc_ros.evaluation.message_samples import samples  # noqa: E402


def milliseconds(action: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    action()
    return 1000 * (time.process_time() - start)


def times(cloud: PointCloud, config: CodecConfig, repeats: int) -> tuple[float, ...]:
    """Of encoding and decoding: whole, without fields, and the difference; ms."""
    bare = PointCloud(cloud.xyz, {}, cloud.height, 0)
    decoder, taken = Decoder(DecoderConfig(threads=config.threads)), []
    coders = [(Encoder(config, successive=True), given) for given in (cloud, bare)]
    streams = [encoder.encode(given) for encoder, given in coders]
    for _ in range(repeats):  # in turn, so that a change of the clock is in both
        encoding = [milliseconds(lambda e=encoder, c=given: e.encode(c)) for encoder, given in coders]
        taken.append((*encoding, *(milliseconds(lambda s=stream: decoder.decode(s)) for stream in streams)))
    columns = list(zip(*taken, strict=True))
    pairs = [(columns[i], columns[i + 1]) for i in (0, 2)]
    return tuple(
        value
        for whole, without in pairs
        for value in (median(whole), median(without), median(a - b for a, b in zip(whole, without, strict=True)))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="clouds in files, bags, and folders of them")
    parser.add_argument("--match", default="", help="only messages with this in their name")
    parser.add_argument("--step", type=float, default=CodecConfig.step)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    config = CodecConfig(step=options.step, threads=1)
    for sample in samples(options.paths):
        if options.match in sample.name:
            found = times(sample.cloud, config, options.repeats)
            shares = [f"{found[i + 2] / found[i + 1]:.2f}" for i in (0, 3)]
            encode, decode = ([f"{value:.0f}" for value in part] for part in (found[:3], found[3:]))
            print(
                "|",
                " | ".join([sample.name, f"{len(sample.cloud):,}", *encode, shares[0], *decode, shares[1]]),
                "|",
                flush=True,
            )


if __name__ == "__main__":
    main()
