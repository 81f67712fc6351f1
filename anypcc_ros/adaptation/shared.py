"""Adaptations that many streams share: tuned once on some clouds of a sensor, a sequence or a scene."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from anypcc_ros.adaptation.heads import NODES, HeadTuner
from anypcc_ros.adaptation.trunk import tune_trunk
from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.codec import Encoder
from anypcc_ros.codec.model.adaptations import Adaptation
from anypcc_ros.codec.model.backend import context_model
from anypcc_ros.codec.model.delta import Delta, adapt, encode_delta
from anypcc_ros.codec.model.network import ContextModel
from anypcc_ros.codec.octree import quantise

LEAST_SHARE = 1 / 3
"""Of the price of a change, what the clouds at hand have to save. What saves them less saves others nothing, however many."""


def tune_shared(
    encoder: Encoder, clouds: Sequence[PointCloud], steps: int, trunk: bool = False, streams: int = 100
) -> Adaptation:
    """An adaptation of the encoder's model to clouds like these, on its grid, for about so many streams altogether.

    Prediction heads are tuned; with ``trunk`` before them everything else, if that saves something.
    Raises InputError, as encoding does.
    """
    model, config, share = encoder.model, encoder.config, max(len(clouds) / max(streams, len(clouds)), LEAST_SHARE)
    network = partial(context_model, backend=config.backend, threads=config.threads)
    deltas = [Delta({}, 0, 0)]
    if trunk:
        grids = [quantise(cloud.finite()[0].xyz, config.step, config.origin) for cloud in clouds]
        deltas.append(tune_trunk(model, grids, steps, share))
    tuners = []
    for delta in deltas:
        tuner = HeadTuner(adapt(model, delta), network, share, max(NODES // len(clouds), 4096))
        _encode(encoder, clouds, tuner, tuner.watched)
        tuners.append(tuner)
    costs = [tuner.bits + 8 * share * len(encode_delta(model, delta)) for tuner, delta in zip(tuners, deltas, strict=True)]
    best = costs.index(min(costs))  # with calibration, which the trunk was tuned without, it may be none of its changes
    heads = tuners[best].tune(steps, partial(_encode, encoder, clouds, tuners[best]))
    both = Delta({**deltas[best].layers, **heads.layers}, heads.weight_shift, heads.bias_shift)
    return Adaptation(model.hash, encode_delta(model, both))


def _encode(encoder: Encoder, clouds: Sequence[PointCloud], tuner: HeadTuner, network: ContextModel) -> None:
    """One pass of the clouds' positions, at which the tuner looks on."""
    watched = encoder.watched_by(network, tuner)
    for cloud in clouds:
        watched.encode(PointCloud(cloud.xyz))
