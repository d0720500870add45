"""What the assessment finds out by itself, whatever the aligner, the sensors' fit and the stages claim.

Everything here asks the images: does the reference show what the input shows, through these responses and
this blur, at this place; does the product lie on the input, is it noisier, is a part of it too bright?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.blocks import sample
from hsi_fuse.physics import blur_down, gaussian_psf
from hsi_fuse.problem import Cube, Problem
from hsi_fuse.quality.metrics import worst_share
from hsi_fuse.registration.robust import tukey
from hsi_fuse.sensors.sense import supported
from hsi_fuse.sensors.srf_fit import freest_srf
from hsi_fuse.subspace import Subspace, estimate_noise, fill_nearest, fit_subspace

DIMENSIONS, PIXELS_PER_DIMENSION = 10, 16
MOST_PIXELS = 40_000
"""HSI pixels that a regression takes; more say nothing more."""
ENOUGH_PIXELS = 4096
"""HSI pixels under the reference with which tiles of a scene stand for all of it."""
MOST_DETAIL = 1 << 18
"""HSI pixels whose detail is compared."""
ROBUST_ROUNDS = 3
WIDTHS = (0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.45, 1.8, 2.5)
"""Trial widths of the PSF, in those of the PSF that was used."""
SHIFT_ROUNDS = 4
NOISE_PIXELS = 20_000
NOTHING = 3e-4
"""Share of the variance of a combination of reference bands that a model may miss whatever the noise."""
CLEAR = 10.0
LAPLACIAN_NOISE = 1.25
"""Variance of the Laplacian of white noise of variance 1."""
BESIDE, TRIFLE, EXCUSED = 3, 3e-4, 0.05
"""Of a band that stands out: neighbours to either side, and shares of its variance; see `standing_out`."""
CHANCE = 5.0
"""Deviations that the largest of some thousand gains may have by chance."""
PART = 7
"""Side of a part of the scene whose brightness is compared, HSI pixels."""


def scene_subspace(problem: Problem) -> Subspace:
    """The input's subspace that all checks look into."""
    return fit_subspace(problem.hsi, problem.hsi_weight, problem.hsi_noise, DIMENSIONS)


def check_sensors(problem: Problem, subspace: Subspace) -> dict[str, Any]:
    """Reference against input at the input's resolution: place, responses, blur, position.

    The blurred reference is regressed on the input's subspace, robustly, and compared with what the sensor
    model says; of a large scene in tiles from all over it (`blocks.sample`). `unexplained` (share of the
    reference's variance that no linear combination of the input's bands explains), `response_excess` (share
    that the learned responses leave beyond the input's noise and what the best non-negative ones leave,
    fitted within its subspace), `response_misfit` (the same in the combination of reference bands that shows
    it best, over what the best ones leave and `NOTHING` of the variance), `blur_excess` (how many times less
    a Gaussian of another width would leave unexplained, minus 1) and `blur_factor` (its width in that of the
    PSF), `shift_px` (columns, rows: where the reference lies further right and down than the input, fine
    pixels).
    """
    psf, ratio, sensor = problem.sensor.psf, problem.ratio, problem.sensor
    # tiles of a large scene say as much, and all of its reference blurred and moved takes gigabytes
    for part in (sample(problem), problem):
        support = supported(part.guide_weight, part.hsi_weight, psf, ratio)
        count = int(support.sum())
        if count >= ENOUGH_PIXELS:
            problem = part
            break
    if count < 4 * PIXELS_PER_DIMENSION:
        return {"assessable": False, "reason": f"only {count} input pixels lie fully under the reference"}
    subspace = replace(subspace, basis=subspace.basis[:, : count // PIXELS_PER_DIMENSION])
    support = thinned(support, MOST_PIXELS)
    low = subspace.project(problem.hsi[:, support]).double()  # (k, N)
    design = torch.cat([torch.ones_like(low[:1]), low])
    guide = fill_nearest(problem.guide, problem.guide_weight)
    seen = blur_down(guide, psf, ratio)[:, support].double()  # (m, N)
    residual, weight = _regressed(design, seen)
    whole = _second(seen - (seen * weight).sum(1, keepdim=True) / weight.sum(), weight)  # (m, m)
    unexplained = _second(residual, weight)
    variance = whole.diagonal()
    left = unexplained.diagonal() / variance
    model = torch.tensordot(sensor.srf, problem.hsi[:, support], 1).double() + sensor.offset.double()[:, None]
    # of all bands: a true response need not be at its best within the subspace; their noise is not its fault
    noise = (sensor.srf.double() * problem.hsi_noise.double().square()) @ sensor.srf.double().T
    best = _second(seen - _freest(subspace, low, seen, weight), weight)
    excess = _second(seen - model, weight) - noise - best
    blur_excess, blur_factor = _blur(problem, guide, design, support)
    return {
        "assessable": True,
        "pixels": count,
        "unexplained": left,
        "response_excess": (excess.diagonal() / variance).clamp_min(0),
        "response_misfit": worst_share(excess, best + NOTHING * whole),
        "blur_excess": blur_excess,
        "blur_factor": blur_factor,
        "shift_px": _shift(problem, guide, design, support),
    }


def check_contrast(problem: Problem, low: Tensor, subspace: Subspace) -> float | None:
    """Contrast of a degraded product (n, h, w) over the input's, in detail of the input's own pixels.

    Slope, without constant, of the product's Laplacian on the input's in the noise-whitened subspace, under
    the reference: 1 where both agree, less where the product is too soft, more where it was sharpened, in
    bands that the reference sees or not. None where the input's detail is less than `CLEAR` times its noise,
    which would soften any product, or where fewer than `PIXELS_PER_DIMENSION` pixels have neighbours.
    """
    covered = supported(problem.guide_weight, problem.hsi_weight, problem.sensor.psf, problem.ratio)
    inner = thinned(_interior(covered), MOST_DETAIL)
    if int(inner.sum()) < PIXELS_PER_DIMENSION:
        return None
    ours, theirs = (_laplacian(_around(subspace, image, inner)) for image in (low, problem.hsi))
    if float(theirs.square().mean()) < CLEAR * LAPLACIAN_NOISE:
        return None
    return float((ours * theirs).sum() / theirs.square().sum())


def check_position(problem: Problem, low: Tensor, subspace: Subspace) -> list[float] | None:
    """Where a degraded product (n, h, w) lies right of and below the input: (columns, rows), fine px.

    One linear step in the noise-whitened subspace; None where fewer than `PIXELS_PER_DIMENSION` input pixels
    have neighbours.
    """
    inner = thinned(_interior(problem.hsi_weight > 0), MOST_DETAIL)
    if int(inner.sum()) < PIXELS_PER_DIMENSION:
        return None
    here, above, below, left, right = _around(subspace, low, inner)
    steps = torch.stack([(right - left).flatten() / 2, (below - above).flatten() / 2])
    wanted = (_at(subspace, problem.hsi, inner) - here).flatten()
    return [problem.ratio * float(v) for v in _least_squares(steps, wanted)]


def check_noise(problem: Problem, cube: Cube) -> float:
    """Median over bands of the product's noise over the input's.

    Noise is what a band's neighbours in the spectrum do not predict (`estimate_noise`), in strips of rows
    spread over the scene.
    """
    ratio = problem.ratio
    _, height, width = cube.shape
    valid = (problem.hsi_weight > 0).repeat_interleave(ratio, 1)  # (h, W)
    strips = np.unique(np.linspace(0, height - 1, max(1, min(height, NOISE_PIXELS // width))).astype(int))
    mask = valid[strips // ratio]
    if int(mask.sum()) < 4 * DIMENSIONS:
        return math.nan
    rows = torch.cat(list(cube.parts((row, row + 1) for row in strips.tolist())), 1)
    noise = estimate_noise(rows, mask.float())
    return float((noise / problem.hsi_noise).median())


def standing_out(missed: Tensor, noise: Tensor) -> Tensor:
    """What each band (n,) misses over what it may miss; both as shares of the band's variance.

    Bands are so much alike that one in another's place may miss little of its variance, yet much more than
    the bands beside it. A band may miss its noise, `TRIFLE`, and as much as its `BESIDE` neighbours to either
    side (their median), but on their account at most `EXCUSED`.
    """
    known = missed.nan_to_num(0.0)
    padded = F.pad(known[None, None], (BESIDE, BESIDE), mode="replicate")[0, 0]
    around = padded.unfold(0, 2 * BESIDE + 1, 1)  # (n, 2 BESIDE + 1), itself in the middle
    beside = torch.cat([around[:, :BESIDE], around[:, BESIDE + 1 :]], 1).quantile(0.5, 1)
    return missed / (noise + TRIFLE + beside.clamp_max(EXCUSED))


def part_gain(error: Tensor, light: Tensor) -> float:
    """How much too bright or too dark a part of the scene is beyond chance, as a share: at least 0.

    Of an error map (H, W; NaN without data) and the brightness `light` (H, W). A part is a square of `PART`
    pixels, or of the whole shorter side, with data in half of it at least. Its gain is the regression of
    the error on the brightness, so that bright pixels say most; what they leave says what chance is.
    """
    side = min(PART, *error.shape)
    data = error.isfinite()
    e, b = error.nan_to_num(0.0).double(), torch.where(data, light, 0.0).double()

    def summed(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[None], side, stride=1)[0] * side**2

    count, power, common = summed(data.double()), summed(b * b), summed(e * b)
    enough = (count >= side**2 / 2) & (power > 0) & (count > 1)
    if not bool(enough.any()):
        return 0.0
    count, power, common, whole = (part[enough] for part in (count, power, common, summed(e * e)))
    left = (whole - common.square() / power).clamp_min(0) / (count - 1)
    return max(float((common.abs() / power - CHANCE * (left / power).sqrt()).amax()), 0.0)


def seam_ratio(error: Tensor) -> float | None:
    """The largest gradient across a line of an error map (H, W; NaN without data) over the lines beside it.

    Mean absolute differences across each row's and column's rim, over the median of those within `BESIDE`
    lines: near 1 where no blocks show. A straight edge of the scene may show too, so that no light hangs on
    it. None where fewer than `PART` lines have data in a quarter of their pixels.
    """
    ratios = []
    for image in (error, error.T):
        across = (image[1:] - image[:-1]).abs().double()
        across = across[across.isfinite().sum(1) >= max(across.shape[1] // 4, 1)]
        if len(across) < PART:
            continue
        gradient = across.nanmean(1)
        padded = F.pad(gradient[None, None], (BESIDE, BESIDE), mode="reflect")[0, 0]
        around = padded.unfold(0, 2 * BESIDE + 1, 1)  # (lines, 2 BESIDE + 1)
        ratios.append(float((gradient / around.median(1).values.clamp_min(1e-30)).max()))
    return max(ratios, default=None)


def brightness_error(low: Tensor, problem: Problem) -> Tensor:
    """Relative error of brightness (h, w): the degraded product minus the input."""
    return brightness(low, problem) - brightness(problem.hsi, problem)


def brightness(image: Tensor, problem: Problem) -> Tensor:
    """An image (n, h, w) along the input's mean spectrum, (h, w): 1 is the mean."""
    level = problem.mean_spectrum
    axis = level / level.square().sum().clamp_min(1e-30)
    along = torch.zeros_like(image[0])
    for band, share in zip(image, axis.tolist(), strict=True):  # as a product of matrices it takes a copy
        along.add_(band, alpha=share)
    return along


def _wide(fwhm: tuple[float, float], factor: float) -> tuple[float, float]:
    return max(factor * fwhm[0], 0.3), max(factor * fwhm[1], 0.3)


def _regressed(design: Tensor, seen: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Residual (m, N) of `seen` on `design` (p, N) and its weights (N,); robust where none are given."""
    rounds = 1 if weight is not None else ROBUST_ROUNDS + 1
    current = torch.ones_like(design[0]) if weight is None else weight
    for i in range(rounds):
        weighted = design * current
        gram = weighted @ design.T
        gram = gram + 1e-10 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
        residual = seen - torch.linalg.solve(gram, weighted @ seen.T).T @ design
        if i + 1 < rounds:
            current = tukey(residual)
    return residual, current


def _freest(subspace: Subspace, low: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
    """What the best non-negative responses see of coefficients (k, N), fitted to `seen` (m, N): (m, N)."""
    srf, offset = freest_srf(subspace, *(part.cpu().numpy() for part in (low, seen, weight)))
    mixed = torch.from_numpy(srf).to(low)
    return (mixed @ subspace.basis.double()) @ low + (
        mixed @ subspace.mean.double() + torch.from_numpy(offset).to(low)
    )[:, None]


def _second(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted second moments (m, m) of (m, N)."""
    return (values * weight) @ values.T / weight.sum()


def _at(subspace: Subspace, image: Tensor, mask: Tensor, down: int = 0, across: int = 0) -> Tensor:
    """Coefficients of an image (n, h, w) so many pixels off those of a mask (h, w): (k, N), float64."""
    rows, columns = torch.nonzero(mask, as_tuple=True)
    return subspace.project(image[:, rows + down, columns + across]).double()


def _around(subspace: Subspace, image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """`_at` the pixels of a mask, above, below, to the left and to the right of them."""
    return tuple(_at(subspace, image, mask, *off) for off in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)))


def _laplacian(around: Sequence[Tensor]) -> Tensor:
    """Each pixel minus the mean of its four neighbours."""
    here, *beside = around
    return here - sum(beside) / 4


def _mean_square(values: Tensor, weight: Tensor) -> Tensor:
    return ((values.square() * weight).sum(1) / weight.sum()).clamp_min(1e-30)


def _blur(problem: Problem, guide: Tensor, design: Tensor, support: Tensor) -> tuple[float, float]:
    """How many times less a Gaussian of another width leaves unexplained, minus 1; its width in the PSF's.

    An outlier is what no width explains. Under a wrong one these are the edges, which show the width: all are
    compared with the weights of the width that explains half of the pixels best.
    """
    psf, ratio = problem.sensor.psf, problem.ratio
    factors, blurred = [1.0], [psf]
    for factor in WIDTHS:
        trial = gaussian_psf(ratio, *_wide(problem.sensor.psf_fwhm, factor)).to(psf)
        if factor != 1 and 2 * (len(trial) - ratio) <= min(guide.shape[1:]):
            factors.append(factor)
            blurred.append(trial)
    seen = [blur_down(guide, trial, ratio)[:, support].double() for trial in blurred]
    robust = [_regressed(design, each) for each in seen]
    weight = min(robust, key=lambda found: float(found[0].abs().median(1).values.log().sum()))[1]
    left = [float(_mean_square(_regressed(design, each, weight)[0], weight).log().mean()) for each in seen]
    best = int(np.argmin(left))
    return math.exp(left[0] - left[best]) - 1, factors[best]


def _shift(problem: Problem, guide: Tensor, design: Tensor, support: Tensor) -> list[float]:
    """The one shift (columns, rows) of the reference that the regression asks for, Gauss-Newton."""
    psf, ratio = problem.sensor.psf, problem.ratio
    total, moved = [0.0, 0.0], guide
    for _ in range(SHIFT_ROUNDS):
        down, across = _slopes(moved)
        seen, right, below = (
            blur_down(image, psf, ratio)[:, support].double() for image in (moved, across, down)
        )
        residual, weight = _regressed(design, seen)
        scale = (weight / _mean_square(residual, weight)[:, None]).sqrt()
        free = [_regressed(design, slope, weight)[0] * scale for slope in (right, below)]
        step = _least_squares(torch.stack([f.flatten() for f in free]), -(residual * scale).flatten())
        step = step.clamp(-ratio, ratio)
        total = [t + float(s) for t, s in zip(total, step, strict=True)]
        if max(abs(t) for t in total) > 4 * ratio or float(step.abs().max()) < 0.02:
            break
        moved = _moved(guide, *total)
    return total


def _moved(image: Tensor, columns: float, rows: float) -> Tensor:
    """The image (m, H, W) sampled that far right and down, bicubic."""
    height, width = image.shape[1:]
    y = (torch.arange(height).to(image) + 0.5 + rows) * 2 / height - 1
    x = (torch.arange(width).to(image) + 0.5 + columns) * 2 / width - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
    return F.grid_sample(image[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]


def _slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of (c, H, W) downwards and to the right; 0 at the rim."""
    down, across = torch.zeros_like(image), torch.zeros_like(image)
    down[:, 1:-1] = (image[:, 2:] - image[:, :-2]) / 2
    across[:, :, 1:-1] = (image[:, :, 2:] - image[:, :, :-2]) / 2
    return down, across


def _interior(mask: Tensor) -> Tensor:
    """Pixels (h, w) whose four neighbours are valid too."""
    inner = torch.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[2:, 1:-1] & mask[:-2, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2]
    return inner


def _least_squares(columns: Tensor, wanted: Tensor) -> Tensor:
    """(2, N), (N,) -> (2,)."""
    gram = columns @ columns.T
    gram = gram + 1e-12 * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(2).to(gram)
    return torch.linalg.solve(gram, columns @ wanted)


def thinned(mask: Tensor, most: int) -> Tensor:
    """The mask with every so manieth of its pixels only."""
    step = max(1, int(mask.sum()) // most)
    if step == 1:
        return mask
    places = torch.nonzero(mask.flatten())[::step, 0]
    thin = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    thin[places] = True
    return thin.view(mask.shape)


__all__ = [
    "brightness",
    "brightness_error",
    "check_contrast",
    "check_noise",
    "check_position",
    "check_sensors",
    "part_gain",
    "scene_subspace",
    "seam_ratio",
    "standing_out",
    "thinned",
]
