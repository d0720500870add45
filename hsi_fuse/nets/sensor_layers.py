"""PSF and SRF as layers that a network trains, and the units in which it does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsi_fuse.losses import mean_misfit
from hsi_fuse.optimise import Schedule, train
from hsi_fuse.physics import blur_down, psf_padding
from hsi_fuse.problem import silent
from hsi_fuse.sensor import Sensor

LEAST_WEIGHT = 1e-3
"""A learned PSF starts nowhere below this share of its peak: from zero a softmax never rises."""
PSF_RATE, SRF_RATE, GAIN_RATE = 5e-2, 1e-3, 1e-4
"""Adam's rates where sensors are learned by themselves."""


class SensorLayers(nn.Module):
    """PSF and SRF as layers, for images in a scene's units (`Units`).

    The PSF is a softmax: non-negative, sums to 1. The SRF's rows are non-negative and divided by their sum
    (paper, equation 9); here each has a gain besides, near 1, and an offset, near 0. Deviation: the SRF's
    support need not be given; without it every HSI band may take part.

    Parameters
    ----------
    srf : Tensor (m, n)
        Where it starts; only the shape of the rows counts.
    psf : Tensor (p, p)
    ratio : int
    support : Tensor (m, n), optional
        0 where a response stays 0, else 1.
    """

    support: Tensor

    def __init__(self, srf: Tensor, psf: Tensor, ratio: int, support: Tensor | None = None) -> None:
        super().__init__()
        self.ratio = ratio
        self.register_buffer(
            "support", torch.ones_like(srf) if support is None else support, persistent=False
        )
        self.psf_logits = nn.Parameter((psf / psf.max()).clamp_min(LEAST_WEIGHT).log())
        peak = srf.amax(1, keepdim=True)
        self.responses = nn.Parameter(torch.where(peak > 0, srf / peak.clamp_min(1e-30), 1.0))
        self.gain = nn.Parameter(torch.ones_like(peak[:, 0]))
        self.offset = nn.Parameter(torch.zeros_like(peak[:, 0]))

    @property
    def psf(self) -> Tensor:
        """(p, p), sums to 1."""
        return softmax_map(self.psf_logits)

    @property
    def srf(self) -> Tensor:
        """(m, n), rows sum to the gain."""
        weights = self.responses.clamp_min(0)
        return self.gain.clamp_min(0)[:, None] * weights / weights.sum(1, keepdim=True).clamp_min(1e-12)

    @torch.no_grad()
    def project(self) -> None:
        """Responses back to 0 at least, to be called after each step; and to 0 outside the support.

        One that were left below 0 would have no gradient and never come back.
        """
        self.responses.clamp_(min=0).mul_(self.support)

    def down(self, image: Tensor) -> Tensor:
        """What the HSI's sensor sees of a fine image: (c, H, W) -> (c, h, w)."""
        return blur_down(image, self.psf, self.ratio)

    def mix(self, image: Tensor) -> Tensor:
        """What the guide's sensor sees of a cube, or of spectra: (n, ...) -> (m, ...), without offset."""
        return torch.tensordot(self.srf, image, dims=1)


@dataclass(frozen=True)
class Units:
    """Reflectance-like units in which both images of a pair lie between 0 and about 1.

    HSI = `scale` x. Guide = `gain` `scale` y + `offset`, so that the SRF from x to y has rows that sum to 1.

    Attributes
    ----------
    scale : float
    gain, offset : Tensor (m,)
    """

    scale: float
    gain: Tensor
    offset: Tensor

    @classmethod
    def of(cls, sensor: Sensor, hsi: Tensor, guide: Tensor) -> Units:
        """From a sensor and the pixels (n, N) and (m, N') that are valid."""
        scale = max(float(hsi.max()), 1e-12)
        gain = sensor.srf.sum(1)
        # a band that the sensor model does not see at all: by its own size
        own = (guide - sensor.offset[:, None]).abs().amax(1).clamp_min(1e-12) / scale
        return cls(scale, torch.where(gain > 0, gain, own), sensor.offset)

    def guide(self, image: Tensor) -> Tensor:
        """A guide (m, H, W) in these units."""
        return (image - self.offset[:, None, None]) / (self.gain * self.scale)[:, None, None]

    @torch.no_grad()
    def sensor(self, layers: SensorLayers, given: Sensor) -> Sensor:
        """What the layers learned, in the units of the problem."""
        offset = self.offset + self.gain * self.scale * layers.offset
        srf = self.gain[:, None] * layers.srf
        return replace(given, srf=srf, offset=offset, psf=layers.psf / layers.psf.sum())


def learn_sensors(
    layers: SensorLayers, hsi: Tensor, guide: Tensor, learn: Tensor, check: Tensor, steps: int
) -> None:
    """Fit the layers to C Y = R X over a whole image; they stay as they were if held-out pixels say so.

    No network is needed for it, and it is cheap: the paper trains the sensors with all else, from nothing.

    Parameters
    ----------
    hsi : Tensor (n, h, w)
        X, in `Units`.
    guide : Tensor (m, H, W)
        Y.
    learn, check : Tensor (h, w)
        Weights of the HSI pixels to learn from and of those that judge.
    steps : int
    """
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}

    def loss() -> Tensor:
        return mean_misfit(layers.down(guide), layers.mix(hsi) + layers.offset[:, None, None], learn)

    @torch.no_grad()
    def score() -> float:
        seen = layers.mix(hsi) + layers.offset[:, None, None]
        return float(mean_misfit(layers.down(guide), seen, check))

    start = score()
    groups: list[dict[str, object]] = [
        {"params": [layers.psf_logits], "lr": PSF_RATE},
        {"params": [layers.responses], "lr": SRF_RATE},
        {"params": [layers.gain, layers.offset], "lr": GAIN_RATE},
    ]
    schedule = Schedule(steps, max(steps // 10, 1), 5)
    found = train(layers, groups, loss, score, schedule, silent, "sensors", layers.project, draws=())
    if found.best_score >= start:
        layers.load_state_dict(before)


def softmax_map(logits: Tensor) -> Tensor:
    """Softmax over all of a map (H, W)."""
    return torch.softmax(logits.flatten(), 0).view_as(logits)


def resized(psf: Tensor, side: int) -> Tensor:
    """A PSF cut or widened by zeros to `side`, of the same parity; sums to 1."""
    psf = F.pad(psf, [(side - psf.shape[0]) // 2] * 4)
    return psf / psf.sum()


def reach_hsi_px(psf: Tensor, ratio: int) -> int:
    """HSI pixels that a PSF reaches beyond its own, rounded up."""
    return -(-max(psf_padding(psf.shape[0], ratio), 0) // ratio)
