"""Small pairs that are easy to register, and what is asked of a registered one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import torch
from affine import Affine
from synthetic import COLUMNS, MARGIN, RATIO, ROWS, hsi_of, window_of

from hsi_fuse.physics import blur_down
from hsi_fuse.registration.joint import Registered, Start, register_pair
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.registration.warp import Pair
from hsi_fuse.sensors.sense import Sensing

CENTRE = (RATIO * COLUMNS / 2 + MARGIN, RATIO * ROWS / 2 + MARGIN)
TO_CENTRE = Affine.translation(*CENTRE)
SHIFT = Affine.translation(1.7 * RATIO, -2.4 * RATIO)
TURNED = SHIFT * TO_CENTRE * Affine.rotation(1.5) * Affine.scale(1.01) * ~TO_CENTRE
SHEARED = TURNED * TO_CENTRE * Affine(1.01, 0.006, 0, -0.002, 0.995, 0) * ~TO_CENTRE
SMALL = (24, 20)
OnTurn = Callable[[int, int], None]


def registered(pair: Pair, on_turn: OnTurn = lambda turn, turns: None, **options: object) -> Registered:
    return register_pair(
        hsi_of(pair), pair.low_weight, window_of(pair), Start(pair.start, pair.bend), RATIO,
        RegisterOptions(**options), Sensing(), on_turn,
    )  # fmt: skip


def disagreement(pair: Pair, found: Registered) -> float:
    """Of HSI and resampled guide, each seen by the other's sensor: a share of the variance."""
    sensor = found.sensed.sensor
    seen = blur_down(torch.from_numpy(found.guide), sensor.psf, RATIO)
    told = torch.tensordot(sensor.srf, hsi_of(pair), 1) + sensor.offset[:, None, None]
    return float(((seen - told)[:, 2:-2, 2:-2] ** 2).mean() / told.var())


def bytes_of(found: Registered) -> list[bytes]:
    arrays = [
        np.array(found.hsi_to_guide[:6]), found.bend, found.guide, found.guide_weight, found.confidence,
        found.before, found.after, found.sensed.sensor.psf.numpy(), found.sensed.sensor.srf.numpy(),
        found.sensed.guide_noise.numpy(), np.array(astuple(found.evidence)),
    ]  # fmt: skip
    return [b"" if a is None else np.ascontiguousarray(a).tobytes() for a in arrays]
