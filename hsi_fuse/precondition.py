"""An approximate inverse of the MAP estimate's system, so that a dozen iterations solve it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hsi_fuse.sparse import SparseBlur, sparse_blur
from hsi_fuse.system import System


@dataclass(frozen=True)
class Preconditioner:
    """The inverse of a system much like `System`, whose parts are each the same everywhere.

        M = d + C' H' H C

    d has one number for each channel (prior and guide), H is D B with a symmetric PSF that is separable, C
    has the mean trust in it. By Woodbury's identity

        M^-1 = 1/d - 1/d C' H' (1 + (C 1/d C') (x) H H')^-1 H C 1/d

    and what is to be inverted lives on the HSI's pixels, where the cosine transform (DCT-II: edges are
    mirrored) makes H H' diagonal and the eigenvectors of C 1/d C' the rest. M is positive definite whatever
    the system is. Against the system's diagonal alone, which knows nothing of how the HSI ties pixels
    together, it takes a fifth of the iterations (docs/lab-notes.md).

    Attributes
    ----------
    psf, ratio
        The PSF of H.
    scale : Tensor (r,)
        1 / d.
    to_low : Tensor (r, r)
        From channels, over d, to the eigenvectors, all that are not 0.
    shrink : Tensor (h, w, r)
        The inverse in the middle, in cosines.
    rows, columns : Tensor (h, h), (w, w)
        The orthonormal cosine transforms.
    """

    psf: Tensor
    ratio: int
    scale: Tensor
    to_low: Tensor
    shrink: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, system: System) -> Preconditioner:
        """For a system of r channels and h x w HSI pixels."""
        trust, ratio = system.trust, system.ratio
        inside = (trust > 0).sum((1, 2)).clamp_min(1)
        change = (trust.sum((1, 2)) / inside).sqrt()[:, None] * system.change
        scale = 1 / (system.held.mean() + system.curvature.clamp_min(0) * system.weight.mean())
        values, vectors = torch.linalg.eigh(((change * scale) @ change.T).double())
        values, vectors = values[-change.shape[1] :], vectors[:, -change.shape[1] :]
        left, singular, right = torch.linalg.svd(system.psf.double())
        taps = [_even(vector) * singular[0].sqrt() for vector in (left[:, 0], right[0])]
        transforms = [_cosines(size).to(trust) for size in trust.shape[1:]]
        rows, columns = (
            _response(part, ratio, size) for part, size in zip(taps, trust.shape[1:], strict=True)
        )
        seen = rows[:, None, None] * columns[:, None] * values.clamp_min(0)
        return cls(
            torch.outer(*taps).to(system.psf),
            ratio,
            scale,
            vectors.T.to(trust) @ change,
            (1 / (1 + seen)).to(trust),
            *transforms,
        )

    @cached_property
    def blur(self) -> SparseBlur:
        """H, but for the trust."""
        height, width, _ = self.shrink.shape
        return sparse_blur(self.psf, self.ratio, (height, width), self.shrink)

    def __call__(self, residual: Tensor, out: Tensor | None = None) -> Tensor:
        """M^-1 times (H W, r), written to `out` where that is given."""
        out = torch.mul(residual, self.scale, out=out)
        low = (self.blur.down(out) @ self.to_low.T).view_as(self.shrink)
        low = _turned(_turned(low, self.rows, self.columns) * self.shrink, self.rows.T, self.columns.T)
        self.blur.add_up(low.flatten(0, 1) @ (-self.scale * self.to_low), out)
        return out


def _turned(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Both axes of an image (h, w, r) in other bases: matrices (h, h) and (w, w)."""
    return columns @ (rows @ image.flatten(1)).view_as(image)


def _even(taps: Tensor) -> Tensor:
    """The symmetric part of taps (p,), the sum positive."""
    even = (taps + taps.flip(0)) / 2
    return even * torch.sign(even.sum())


def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II as a matrix (size, size)."""
    at = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * at[:, None] * (at + 0.5)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves


def _response(taps: Tensor, ratio: int, size: int) -> Tensor:
    """Eigenvalues (size,) of H H' along an axis of so many HSI pixels, in the order of the cosines."""
    far = (len(taps) - 1) // ratio
    at = torch.arange(size, dtype=torch.float64, device=taps.device)
    total = taps.square().sum().expand(size).clone()
    for lag in range(1, far + 1):
        product = (taps[lag * ratio :] * taps[: -lag * ratio]).sum()
        total += 2 * product * torch.cos(math.pi / size * at * lag)
    return total.clamp_min(0)
