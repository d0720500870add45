"""Quality indices of one image against another: pure, masked, float64 inside.

Every function takes `estimate` and `truth` (bands, H, W), an optional bool `mask` (H, W) of the pixels that
count and a `border` of pixels to drop at each edge. Nothing is resampled and nothing is clipped. A figure
that cannot be formed (no valid pixel, a band without signal) is NaN, and means over bands leave NaN out.

Conventions, because they differ from package to package:

- PSNR: mean over bands of 10 log10(peak_b^2 / MSE_b), peak_b the band's maximum in the truth.
- SAM in degrees; a pixel whose spectrum is zero in either image has no angle (NaN).
- ERGAS = (100 / ratio) sqrt(mean_b (RMSE_b / mean_b)^2), Wald 2000; `ratio` = fine per coarse pixel.
- bias = mean(estimate - truth).
- UIQI and Q2n over blocks that do not overlap, 32 pixels wide (the image's short side where that is less);
  a block counts with as many pixels as are valid in it, and not at all where fewer than half are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hsi_fuse.quality.windowed import (
    BLOCK,
    band_mean,
    high_pass,
    low_pass,
    noise_passed,
    pixels_of,
    positive,
    q2n,
    reach_of,
    ssim,
    uiqi,
    valid,
)
from hsi_fuse.threads import at_once

__all__ = [
    "BLOCK",
    "Angles",
    "Moments",
    "band_mean",
    "bias",
    "correlation",
    "ergas",
    "high_pass",
    "high_pass_correlation",
    "low_pass",
    "moments",
    "noise_passed",
    "positive",
    "psnr",
    "psnr_global",
    "q2n",
    "reach_of",
    "rmse",
    "sam_deg",
    "ssim",
    "uiqi",
    "worst_share",
]

PIECE = 1 << 16
"""Pixels of which a float64 copy is made at a time: it stays in the processor's cache."""


RIDGE = 1e-4
"""Share of the bands' variance below which a combination of them shows nothing."""


@dataclass(frozen=True)
class Moments:
    """Per-band statistics over the valid pixels, each (bands,) float64; variances divide by the count."""

    count: int
    mean_estimate: Tensor
    mean_truth: Tensor
    var_estimate: Tensor
    var_truth: Tensor
    covariance: Tensor
    mse: Tensor
    peak: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Moments]) -> Moments:
        """Of all pixels of parts of an image, by those of the parts (Chan, Golub and LeVeque 1983)."""
        some = [part for part in parts if part.count] or list(parts[:1])
        counts = torch.tensor([part.count for part in some], dtype=torch.float64)
        shares = (counts / counts.sum()).to(some[0].mse.device)[:, None]

        def mean(name: str) -> Tensor:
            return torch.stack([getattr(part, name) for part in some]).mul_(shares).sum(0)

        level, wanted = mean("mean_estimate"), mean("mean_truth")
        off = torch.stack([part.mean_estimate - level for part in some])
        away = torch.stack([part.mean_truth - wanted for part in some])
        return cls(
            sum(part.count for part in some),
            level,
            wanted,
            mean("var_estimate") + (shares * off**2).sum(0),
            mean("var_truth") + (shares * away**2).sum(0),
            mean("covariance") + (shares * off * away).sum(0),
            mean("mse"),
            torch.stack([part.peak for part in some]).amax(0),
        )

    @property
    def rmse(self) -> Tensor:
        """Root mean square error."""
        return self.mse.sqrt()

    @property
    def bias(self) -> Tensor:
        """Mean of estimate minus truth."""
        return self.mean_estimate - self.mean_truth

    @property
    def relative_bias(self) -> Tensor:
        """Bias over the truth's mean; NaN where that is not positive."""
        return self.bias / positive(self.mean_truth)

    @property
    def correlation(self) -> Tensor:
        """Pearson's coefficient; NaN where either band is constant."""
        return self.covariance / positive(self.var_estimate * self.var_truth).sqrt()

    @property
    def r2(self) -> Tensor:
        """Share of the truth's variance explained, 1 - MSE / var(truth); may be negative."""
        return 1 - self.mse / positive(self.var_truth)

    @property
    def slope(self) -> Tensor:
        """Of the regression of the estimate on the truth: above 1 where contrast is raised."""
        return self.covariance / positive(self.var_truth)

    def missed(self, noise: Tensor) -> Tensor:
        """Share of each band's variance that is missed beyond the truth's own noise, (bands,)."""
        return (self.mse - noise.double() ** 2).clamp_min(0) / positive(self.var_truth)

    @property
    def psnr_bands(self) -> Tensor:
        """10 log10(peak_b^2 / MSE_b); infinite where exact, NaN where the peak is not positive."""
        return 10 * torch.log10(positive(self.peak) ** 2 / self.mse)

    @property
    def psnr(self) -> float:
        """Mean of `psnr_bands`."""
        return band_mean(self.psnr_bands)

    @property
    def psnr_global(self) -> float:
        """10 log10(peak^2 / MSE) with one peak and one MSE for all bands: up to 15 dB above `psnr`."""
        if not self.count:
            return math.nan
        return float(10 * torch.log10(positive(self.peak.max()) ** 2 / self.mse.mean()))

    def ergas(self, ratio: float) -> float:
        """ERGAS (Wald 2000); bands whose mean is not positive are left out."""
        return 100 / ratio * math.sqrt(band_mean((self.rmse / positive(self.mean_truth)) ** 2))


def moments(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0) -> Moments:
    """All that the pixel-wise indices need, in one pass over the bands."""
    keep = valid(truth, mask, border)
    count = int(keep.sum())
    pixels = pixels_of(keep)

    def of(both: tuple[Tensor, Tensor]) -> Tensor:
        e, t = (torch.split(pixels(band), PIECE) for band in both)
        if not count:
            return torch.full((7,), math.nan, dtype=torch.float64, device=keep.device)
        sums = [torch.stack([a.double().sum(), b.double().sum()]) for a, b in zip(e, t, strict=True)]
        means = torch.stack(sums).sum(0) / count
        products = means.new_zeros(4)
        for one, other in zip(e, t, strict=True):
            a, b = one.to(torch.float64, copy=True), other.to(torch.float64, copy=True)
            off = a - b
            a -= means[0]
            b -= means[1]
            products += torch.stack([x @ y for x, y in ((a, a), (b, b), (a, b), (off, off))])
        peak = torch.stack([b.max() for b in t]).max().double()
        return torch.cat([means, products / count, peak[None]])

    return Moments(count, *torch.stack(at_once(of, zip(estimate, truth, strict=True)), 1))


def psnr(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0) -> float:
    """Mean over bands of the peak signal-to-noise ratio in dB, each band against its own peak."""
    return moments(estimate, truth, mask, border).psnr


def psnr_global(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB with one peak and one MSE for the whole cube."""
    return moments(estimate, truth, mask, border).psnr_global


def rmse(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0) -> Tensor:
    """Root mean square error of each band, (bands,)."""
    return moments(estimate, truth, mask, border).rmse


def bias(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0) -> Tensor:
    """Mean of estimate minus truth of each band, (bands,)."""
    return moments(estimate, truth, mask, border).bias


def correlation(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0) -> Tensor:
    """Pearson's correlation coefficient of each band, (bands,)."""
    return moments(estimate, truth, mask, border).correlation


def ergas(
    estimate: Tensor, truth: Tensor, ratio: float, mask: Tensor | None = None, border: int = 0
) -> float:
    """Relative dimensionless global error (Wald 2000), 100 / ratio in front."""
    return moments(estimate, truth, mask, border).ergas(ratio)


@dataclass(frozen=True)
class Angles:
    """Spectral angles in degrees: the map (H, W), NaN where there is none, and its figures."""

    map: Tensor
    mean: float
    median: float
    p95: float

    @classmethod
    def of(cls, angles: Tensor) -> Angles:
        """The figures of a map."""
        found = angles[angles.isfinite()]
        if not found.numel():
            return cls(angles, math.nan, math.nan, math.nan)
        ordered = found.sort().values
        return cls(angles, float(found.mean()), _quantile(ordered, 0.5), _quantile(ordered, 0.95))

    def within(self, mask: Tensor) -> Angles:
        """Those of a mask (H, W)."""
        return Angles.of(torch.where(mask, self.map, math.nan))


def sam_deg(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, border: int = 0) -> Angles:
    """Spectral angle between both spectra of each pixel.

    As 2 atan2(|u - v|, |u + v|) of the unit vectors: arccos of a dot product loses all digits near 0
    (Kahan). Both squares add up to 4. Spectra of length zero have no angle.
    """
    angle = torch.full(truth.shape[1:], math.nan, dtype=torch.float64, device=truth.device)

    def measure(row: int) -> None:  # row by row: no float64 copy of the cube
        u, v = (x[:, row].to(torch.float64, copy=True) for x in (estimate, truth))  # (n, W)
        one, other = (positive(torch.linalg.vecdot(x, x, dim=0)).sqrt() for x in (u, v))
        apart = u.sub_(v.mul_(one / other))
        square = torch.linalg.vecdot(apart, apart, dim=0) / one**2
        angle[row] = torch.rad2deg(2 * torch.atan2(square.sqrt(), (4 - square).clamp_min(0).sqrt()))

    at_once(measure, range(truth.shape[1]))
    angle[~valid(truth, mask, border)] = math.nan
    return Angles.of(angle)


def high_pass_correlation(
    estimate: Tensor, truth: Tensor, sigma: float, mask: Tensor | None = None, border: int = 0
) -> Tensor:
    """Correlation of the high-passes of each band, (bands,)."""
    return correlation(high_pass(estimate, sigma, mask), high_pass(truth, sigma, mask), mask, border)


def worst_share(part: Tensor, whole: Tensor) -> float:
    """Largest v' part v / v' whole v over all linear combinations v of bands; at least 0.

    Bands of a reference are much alike. What a wrong colour leaves is little of any band, and much of the
    combination of bands that shows that colour: of the generalised eigenvalues the largest.

    Parameters
    ----------
    part, whole : Tensor (m, m), float64
        Covariances between the bands. Combinations with less than `RIDGE` of the bands' variance count for
        less: there is nothing in them.
    """
    if not bool((part + whole).isfinite().all()):
        return math.nan
    scale = whole.diagonal().clamp_min(1e-30).rsqrt()
    scale = scale[:, None] * scale
    root = torch.linalg.cholesky(whole * scale + RIDGE * torch.eye(len(whole)).to(whole))
    half = torch.linalg.solve_triangular(root, part * scale, upper=False)
    both = torch.linalg.solve_triangular(root, half.T, upper=False)
    return max(0.0, float(torch.linalg.eigvalsh((both + both.T) / 2)[-1]))


def _quantile(ordered: Tensor, q: float) -> float:
    """Linear quantile of sorted values (torch.quantile refuses more than 2^24 of them)."""
    position = q * (ordered.numel() - 1)
    low = int(position)
    high = min(low + 1, ordered.numel() - 1)
    return float(ordered[low] + (position - low) * (ordered[high] - ordered[low]))
