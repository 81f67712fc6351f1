"""Adaptations that many streams share: tuned once on some clouds of a sensor, a sequence or a scene."""

from __future__ import annotations

from collections.abc import Sequence

from anypcc_ros.adaptation.heads import NODES, HeadTuner
from anypcc_ros.adaptation.trunk import tune_trunk
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.model.adaptations import Adaptation
from anypcc_ros.codec.model.backend import context_model
from anypcc_ros.codec.model.delta import Delta, adapt, encode_delta
from anypcc_ros.codec.octree import quantise


def tune_shared(
    encoder: Encoder, clouds: Sequence[PointCloud], steps: int, trunk: bool = False, streams: int = 100
) -> Adaptation:
    """An adaptation of the encoder's model to clouds like these, on its grid, for about so many streams altogether.

    Prediction heads are tuned; with ``trunk`` before them everything else.

    Raises InputError, as encoding does.
    """
    model, config, share = encoder.model, encoder.config, len(clouds) / max(streams, len(clouds))
    delta = Delta({}, 0, 0)
    if trunk:
        grids = [quantise(cloud.finite()[0].xyz, config.step, config.origin) for cloud in clouds]
        delta = tune_trunk(model, grids, steps, share)
    network = context_model(adapt(model, delta), config.backend, config.threads)
    tuner = HeadTuner(model, network, share, max(NODES // len(clouds), 4096))
    watched = encoder.watched_by(tuner.watched, tuner)
    for cloud in clouds:
        watched.encode(PointCloud(cloud.xyz))
    heads = tuner.tune(steps)
    both = Delta({**delta.layers, **heads.layers}, heads.weight_shift, heads.bias_shift)
    return Adaptation(model.hash, encode_delta(model, both))
