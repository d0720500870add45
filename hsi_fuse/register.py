"""Find where the HSI's pixels lie in the guide: the mapping estimated from the data term itself.

For a trial mapping the blurred guide is sampled at the HSI's pixel centres; the best linear map from the
HSI's subspace to it is found in closed form (variable projection), so neither SRF nor contrast must be known,
and what stays unexplained is minimised: over whole-pixel shifts by exhaustive search, then over an affine by
robust Gauss-Newton from coarse to fine.

Coordinates: HSI pixels and guide pixels, (column, row), corner-based (a pixel's centre is at +0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from affine import Affine
from torch import Tensor

from hsi_fuse.errors import AlignmentError
from hsi_fuse.sense import tukey


@dataclass(frozen=True)
class RegisterOptions:
    """How the mapping is searched.

    Attributes
    ----------
    search_hsi_px : int
        Largest shift tried to each side of the start, HSI pixels.
    model : str
        "affine", "translation", or "none" (trust the start).
    least_overlap : float
        Fraction of the HSI's valid pixels that must lie under the guide.
    least_explained : float
        Fraction of the guide's variance that the HSI must explain at the best shift; below, the guide is
        refused.
    iterations : int
        Gauss-Newton steps for each level.
    tie_block_hsi_px : int
        Side of the blocks whose own shift is the tie point.
    """

    search_hsi_px: int = 12
    model: str = "affine"
    least_overlap: float = 0.05
    least_explained: float = 0.15
    iterations: int = 25
    tie_block_hsi_px: int = 16


@dataclass(frozen=True)
class Registered:
    """Where the HSI lies in the guide, and how sure that is.

    Attributes
    ----------
    hsi_to_guide : Affine
        HSI pixel (column, row) -> guide pixel (column, row), corner-based.
    shift_hsi_px : tuple of float
        What was added to the start at the scene's centre: (columns, rows).
    standard_error_hsi_px : float
        Of the mapping at the scene's pixels (RMS), from the fit's covariance.
    explained : float
        Fraction of the guide's variance that the HSI explains.
    before, after : Tensor (p, 4)
        Tie points: column, row, and residual shift in columns and rows, HSI pixels; of the start, and of
        mappings fitted without the tie point's own block. The same points: near a start that is far off no
        block finds its place.
    """

    hsi_to_guide: Affine
    shift_hsi_px: tuple[float, float]
    standard_error_hsi_px: float
    explained: float
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Pair:
    """What registration sees.

    Attributes
    ----------
    low : Tensor (k, h, w)
        HSI coefficients in a noise-whitened subspace.
    low_weight : Tensor (h, w)
    guide : Tensor (m, gh, gw)
        Native guide pixels, holes filled.
    guide_weight : Tensor (gh, gw)
    start : Affine
        HSI pixel -> guide pixel.
    """

    low: Tensor
    low_weight: Tensor
    guide: Tensor
    guide_weight: Tensor
    start: Affine


def gaussian_blur(image: Tensor, sigma: tuple[float, float]) -> Tensor:
    """Gaussian blur with replicated edges, sigma along (columns, rows) in pixels: (c, H, W) -> (c, H, W)."""
    for axis, width in ((2, sigma[0]), (1, sigma[1])):
        if width < 0.05:
            continue
        reach = max(int(3.5 * width + 0.5), 1)
        x = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
        kernel = torch.exp(-0.5 * (x / width) ** 2)
        kernel = kernel / kernel.sum()
        shape = (1, 1, 1, -1) if axis == 2 else (1, 1, -1, 1)
        pad = [reach, reach, 0, 0] if axis == 2 else [0, 0, reach, reach]
        image = F.conv2d(F.pad(image[:, None], pad, mode="replicate"), kernel.view(shape))[:, 0]
    return image


def sample(image: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Cubic sampling at corner-based pixel coordinates, edges replicated: (c, H, W), (...) -> (c, ...).

    Keys' kernel with a = -1/2, which keeps ramps straight. That of `grid_sample` (a = -3/4) does not, and
    since HSI pixels mostly meet the guide at one phase, it moved the mapping by 0.02 guide pixels.
    """
    channels, height, width = image.shape
    flat = image.reshape(channels, -1)
    (left, across), (top, down) = _taps(columns - 0.5, image), _taps(rows - 0.5, image)
    out = torch.zeros(channels, *columns.shape, dtype=image.dtype, device=image.device)
    for i, by_row in enumerate(down):
        row = (top + i).clamp(0, height - 1) * width
        for j, by_column in enumerate(across):
            out += flat[:, row + (left + j).clamp(0, width - 1)] * (by_row * by_column)
    return out


def _taps(where: Tensor, like: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """First index, and weights of the four samples around array indices (...)."""
    first = where.floor()
    t = (where - first).to(like)
    weights = (
        t * (-0.5 + t * (1 - 0.5 * t)),
        1 + t * t * (-2.5 + 1.5 * t),
        t * (0.5 + t * (2 - 1.5 * t)),
        t * t * (-0.5 + 0.5 * t),
    )
    return first.long() - 1, weights


class _Matcher:
    """A pair at one blur: samples the guide under a mapping and measures what the HSI leaves unexplained."""

    def __init__(self, pair: Pair, fwhm_hsi_px: tuple[float, float]) -> None:
        """`fwhm_hsi_px` (columns, rows): blur that brings the guide to the HSI's resolution."""
        a, b, _, d, e, _ = pair.start[:6]
        # guide pixels per HSI pixel along the guide's own axes
        per_column, per_row = float(np.hypot(a, b)), float(np.hypot(d, e))
        to_sigma = 1 / 2.3548
        sigma = (fwhm_hsi_px[0] * to_sigma * per_column, fwhm_hsi_px[1] * to_sigma * per_row)
        self.pair = pair
        self.image = gaussian_blur(pair.guide, sigma)
        self.slope = torch.stack([_difference(self.image, 2), _difference(self.image, 1)])  # (2, m, gh, gw)
        # a sample counts where (nearly) its whole blur lies on guide pixels
        hole = 1 - gaussian_blur(F.pad(pair.guide_weight[None], [1, 1, 1, 1]), sigma)[0, 1:-1, 1:-1]
        edge = gaussian_blur(
            F.pad(torch.ones_like(pair.guide_weight)[None], [r := int(3.5 * max(sigma)) + 1] * 4), sigma
        )
        self.support = ((1 - hole) * edge[0, r:-r, r:-r] > 0.9).to(pair.guide)

    def at(self, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Guide (m, ...) and support (...) at guide coordinates."""
        height, width = self.support.shape
        inside = (columns > 0) & (columns < width) & (rows > 0) & (rows < height)
        nearest = self.support[rows.long().clamp(0, height - 1), columns.long().clamp(0, width - 1)]
        return sample(self.image, columns, rows), inside.to(self.image) * nearest

    def slopes(self, columns: Tensor, rows: Tensor) -> Tensor:
        """Derivatives of the guide along guide columns and rows: (2, m, ...)."""
        return torch.stack([sample(slope, columns, rows) for slope in self.slope])


def _difference(image: Tensor, axis: int) -> Tensor:
    """Central difference along an axis, one-sided at the ends."""
    return torch.gradient(image, dim=axis)[0]


def register(
    pair: Pair, fwhm_hsi_px: tuple[float, float] = (1.0, 1.0), options: RegisterOptions | None = None
) -> Registered:
    """Find the mapping from HSI pixels to guide pixels, near the pair's start.

    Parameters
    ----------
    pair : Pair
    fwhm_hsi_px : (float, float)
        The HSI's PSF along columns and rows, HSI pixels.
    options : RegisterOptions, optional

    Raises
    ------
    AlignmentError
        No overlap within the search range, or the HSI does not explain the guide anywhere.
    """
    options = options or RegisterOptions()
    if options.model not in ("affine", "translation", "none"):
        raise AlignmentError(f"align.model is {options.model!r}: choose affine, translation or none")
    fine = _Matcher(pair, fwhm_hsi_px)
    mapping = pair.start
    if options.model != "none":
        mapping = _search(_Matcher(pair, (1.5, 1.5)), options)
        for matcher, model in ((_Matcher(pair, (2.0, 2.0)), "translation"), (fine, options.model)):
            mapping, _ = _gauss_newton(matcher, mapping, model, options.iterations)
    before, after = [], []
    for keep in (0, 1):
        # tie points of one colour of a checkerboard, with a mapping fitted on the other
        parity = _checkerboard(pair.low_weight, options.tie_block_hsi_px) == keep
        other = mapping
        if options.model != "none":
            other, _ = _gauss_newton(fine, mapping, options.model, options.iterations, ~parity)
        ties = _tie_points(fine, other, options, parity)
        after.append(ties)
        before.append(_seen_from(pair.start, other, ties))
    mapping_error = _standard_error(fine, mapping, options)
    height, width = pair.low_weight.shape
    centre = (width / 2, height / 2)
    move = ~pair.start * (mapping * centre)
    return Registered(
        mapping,
        (move[0] - centre[0], move[1] - centre[1]),
        mapping_error,
        _explained(fine, mapping),
        torch.cat(before),
        torch.cat(after),
    )


def _seen_from(start: Affine, mapping: Affine, ties: Tensor) -> Tensor:
    """Tie points of a mapping as those of the start: the shift that the start would have needed."""
    places = ties[:, :2].T
    columns, rows = _apply(~start * mapping, places + ties[:, 2:].T)
    return torch.cat([places, torch.stack([columns, rows]) - places]).T


def _pixels(weight: Tensor, most: int = 160_000) -> Tensor:
    """(column, row) centres of at most `most` valid HSI pixels, evenly thinned: (2, N) double."""
    rows, columns = torch.nonzero(weight > 0, as_tuple=True)
    stride = max(len(rows) // most, 1)
    return torch.stack([columns[::stride], rows[::stride]]).double() + 0.5


def _apply(mapping: Affine, points: Tensor) -> tuple[Tensor, Tensor]:
    a, b, c, d, e, f = mapping[:6]
    return a * points[0] + b * points[1] + c, d * points[0] + e * points[1] + f


def _design(matcher: _Matcher, points: Tensor) -> Tensor:
    """[1, coefficients] at HSI pixels (2, N): (k + 1, N) double."""
    low = matcher.pair.low[:, points[1].long(), points[0].long()].double()
    return torch.cat([torch.ones_like(low[:1]), low])


def _search(matcher: _Matcher, options: RegisterOptions) -> Affine:
    """The best whole-pixel shift within the range, by exhaustive search."""
    pair, reach = matcher.pair, options.search_hsi_px
    if not bool((pair.guide_weight > 0).any()):
        raise AlignmentError(
            "the reference has no valid pixel where the HSI lies (all nodata): "
            "check its nodata value and footprint"
        )
    height, width = pair.low_weight.shape
    columns = torch.arange(-reach, width + reach, dtype=torch.float64, device=pair.low.device) + 0.5
    rows = torch.arange(-reach, height + reach, dtype=torch.float64, device=pair.low.device) + 0.5
    lattice = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))  # (2, h + 2 reach, w + 2 reach)
    seen, support = matcher.at(*_apply(pair.start, lattice))
    thin = max(int((height * width / 20_000) ** 0.5), 1)
    low = pair.low[:, ::thin, ::thin].double()
    design = torch.cat([torch.ones_like(low[:1]), low]).flatten(1)
    inside = (pair.low_weight[::thin, ::thin] > 0).double().flatten()
    needed = max(options.least_overlap * float(inside.sum()), 3.0 * len(design))
    scores = torch.full((2 * reach + 1, 2 * reach + 1), float("nan"), dtype=torch.float64)
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            window = (slice(i, i + height, thin), slice(j, j + width, thin))
            weight = inside * support[window].double().flatten()
            if float(weight.sum()) < needed:
                continue
            y = seen[(slice(None), *window)].double().flatten(1)
            scores[i, j] = _left(design, y, weight, penalise=True)
    if bool(scores.isnan().all()):
        raise AlignmentError(
            f"the reference does not overlap the HSI within {reach} HSI pixels of where its georeferencing "
            "puts it: check that both show one place, or raise align.search_hsi_px"
        )
    best = int(scores.nan_to_num(float("inf")).argmin())
    di, dj = best // (2 * reach + 1) - reach, best % (2 * reach + 1) - reach
    explained = 1 - float(torch.exp(scores.flatten()[best]))
    if explained < options.least_explained:
        raise AlignmentError(
            f"the HSI explains only {100 * explained:.0f} % of the reference's variance at the best shift "
            f"(needed: {100 * options.least_explained:.0f} %): the reference does not seem to show this place"
        )
    return pair.start * Affine.translation(dj, di)


def _left(design: Tensor, y: Tensor, weight: Tensor, penalise: bool = False) -> float:
    """Mean over bands of the log of the variance's fraction that regression leaves, freedom allowed for."""
    weighted = design * weight
    gram = weighted @ design.T
    gram = gram + 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    cross = weighted @ y.T
    count = weight.sum()
    power = (y**2 * weight).sum(1)
    rest = (power - (cross * torch.linalg.solve(gram, cross)).sum(0)).clamp_min(1e-30)
    total = (power - (y * weight).sum(1) ** 2 / count).clamp_min(1e-30)
    ratio = rest / total
    if penalise:
        ratio = ratio * count / (count - len(design)).clamp_min(1.0)
    return float(ratio.clamp(1e-12, 1).log().mean())


def _explained(matcher: _Matcher, mapping: Affine) -> float:
    """Fraction of the guide's variance that the HSI explains (geometric mean over bands of the rest)."""
    points = _pixels(matcher.pair.low_weight)
    y, support = matcher.at(*_apply(mapping, points))
    return 1 - float(np.exp(_left(_design(matcher, points), y.double(), support.double(), penalise=True)))


@dataclass(frozen=True)
class _Fit:
    """A linearised fit: normal matrix and gradient of the parameters, robust cost, all in noise units."""

    normal: Tensor
    gradient: Tensor
    cost: float


def _columns(points: Tensor, centre: Tensor, scale: float, model: str) -> Tensor:
    """How HSI coordinates move with each parameter: (p, 2, N)."""
    one, zero = torch.ones_like(points[0]), torch.zeros_like(points[0])
    moves = [torch.stack([one, zero]), torch.stack([zero, one])]
    if model == "affine":
        x, y = (points - centre[:, None]) / scale
        moves += [
            torch.stack([x, zero]),
            torch.stack([y, zero]),
            torch.stack([zero, x]),
            torch.stack([zero, y]),
        ]
    return torch.stack(moves)


def _linearise(matcher: _Matcher, mapping: Affine, points: Tensor, moves: Tensor) -> _Fit:
    """Variable projection (Kaufman's form): residual and its derivative with the linear map projected out."""
    columns, rows = _apply(mapping, points)
    y, support = matcher.at(columns, rows)
    y, weight = y.double(), support.double()
    design = _design(matcher, points)
    if float(weight.sum()) < 2 * len(design):  # slid off the guide: never better than where it came from
        size = len(moves)
        return _Fit(moves.new_zeros(size, size), moves.new_zeros(size), float("inf"))

    def project(values: Tensor, weight: Tensor) -> Tensor:
        """Take out what the HSI explains: (..., N)."""
        weighted = design * weight
        gram = weighted @ design.T
        gram = gram + 1e-9 * gram.diagonal().mean() * torch.eye(
            len(gram), dtype=gram.dtype, device=gram.device
        )
        flat = values.reshape(-1, values.shape[-1])
        return (flat - torch.linalg.solve(gram, weighted @ flat.T).T @ design).reshape(values.shape)

    for _ in range(2):
        residual = project(y, weight)
        weight = support.double() * tukey_supported(residual, support)
    sigma = ((residual**2 * weight).sum(1) / weight.sum().clamp_min(1)).sqrt().clamp_min(1e-12)
    a, b, _, d, e, _ = mapping[:6]
    guide_moves = torch.stack(
        [a * moves[:, 0] + b * moves[:, 1], d * moves[:, 0] + e * moves[:, 1]], 1
    )  # (p, 2, N)
    slope = matcher.slopes(columns, rows).double()  # (2, m, N)
    jacobian = project(torch.einsum("pcn,cmn->pmn", guide_moves, slope), weight) / sigma[:, None]
    residual = residual / sigma[:, None]
    normal = torch.einsum("pmn,n,qmn->pq", jacobian, weight, jacobian)
    gradient = torch.einsum("pmn,n,mn->p", jacobian, weight, residual)
    count = weight.sum().clamp_min(1)
    variance = ((y - (y * weight).sum(1, keepdim=True) / count) ** 2 * weight).sum(1) / count
    left = (residual**2 * weight).sum(1) * sigma**2 / count
    cost = float((left / variance.clamp_min(1e-30)).clamp_min(1e-30).log().mean())
    return _Fit(normal, gradient, cost)


def tukey_supported(residual: Tensor, support: Tensor) -> Tensor:
    """Tukey weights (N,) with the scale taken over supported samples only."""
    weight = torch.zeros_like(residual[0])
    inside = support > 0
    if bool(inside.any()):
        weight[inside] = tukey(residual[:, inside])
    return weight


def _gauss_newton(
    matcher: _Matcher, mapping: Affine, model: str, iterations: int, keep: Tensor | None = None
) -> tuple[Affine, Tensor]:
    """Levenberg-damped Gauss-Newton; returns the mapping and the parameters' covariance."""
    weight = matcher.pair.low_weight
    points = _pixels(weight if keep is None else weight * keep.to(weight))
    centre, scale = points.mean(1), max(float(points.std()), 1.0)
    moves = _columns(points, centre, scale, model)
    if points.shape[1] < 4 * len(moves) + matcher.pair.low.shape[0]:
        return mapping, torch.zeros(len(moves), len(moves), dtype=torch.float64)
    fit = _linearise(matcher, mapping, points, moves)
    damping = 1e-3
    for _ in range(iterations):
        system = fit.normal + damping * torch.diag(fit.normal.diagonal().clamp_min(1e-12))
        step = -torch.linalg.solve(system, fit.gradient)
        trial = mapping * _as_affine(step, centre, scale)
        new = _linearise(matcher, trial, points, moves)
        if new.cost < fit.cost - 1e-9:
            mapping, fit, damping = trial, new, damping / 4
            if float(step.abs().max()) < 1e-4:
                break
        else:
            damping *= 8
            if damping > 1e6:
                break
    return mapping, torch.linalg.pinv(fit.normal)


def _as_affine(p: Tensor, centre: Tensor, scale: float) -> Affine:
    """Parameters -> the affine of HSI coordinates that `_columns` linearises."""
    values = p.tolist() + [0.0] * (6 - len(p))
    tx, ty, xx, xy, yx, yy = values[0], values[1], *(v / scale for v in values[2:])
    cx, cy = centre.tolist()
    return (
        Affine.translation(cx + tx, cy + ty)
        * Affine(1 + xx, xy, 0, yx, 1 + yy, 0)
        * Affine.translation(-cx, -cy)
    )


def _standard_error(matcher: _Matcher, mapping: Affine, options: RegisterOptions) -> float:
    """RMS over the scene of the mapping's standard error, HSI pixels."""
    if options.model == "none":
        return float("nan")
    points = _pixels(matcher.pair.low_weight)
    centre, scale = points.mean(1), max(float(points.std()), 1.0)
    moves = _columns(points, centre, scale, options.model)
    fit = _linearise(matcher, mapping, points, moves)
    covariance = torch.linalg.pinv(fit.normal)
    return float(torch.einsum("pcn,pq,qcn->n", moves, covariance, moves).mean().sqrt())


def _checkerboard(weight: Tensor, block: int) -> Tensor:
    rows = torch.arange(weight.shape[0], device=weight.device)[:, None] // block
    columns = torch.arange(weight.shape[1], device=weight.device)[None] // block
    return (rows + columns) % 2


def _tie_points(
    matcher: _Matcher, mapping: Affine, options: RegisterOptions, keep: Tensor | None = None
) -> Tensor:
    """Each block's own residual shift: (p, 4) of column, row, shift in columns, shift in rows; HSI pixels.

    The linear map from HSI to guide is the whole scene's: a block only finds its shift, by Gauss-Newton.
    Blocks whose shift the data does not determine to 0.15 HSI pixels, or that diverge, give no tie point.
    """
    weight = matcher.pair.low_weight
    everywhere = _pixels(weight)
    y, support = matcher.at(*_apply(mapping, everywhere))
    if float(support.sum()) < 4 * (matcher.pair.low.shape[0] + 1):
        return torch.zeros(0, 4, dtype=torch.float64)
    design = _design(matcher, everywhere)
    robust = support.double()
    for _ in range(3):
        weighted = design * robust
        gram = weighted @ design.T
        gram = gram + 1e-9 * gram.diagonal().mean() * torch.eye(
            len(gram), dtype=gram.dtype, device=gram.device
        )
        linear = torch.linalg.solve(gram, weighted @ y.double().T).T  # (m, k + 1)
        residual = y.double() - linear @ design
        robust = support.double() * tukey_supported(residual, support)
    sigma = ((residual**2 * robust).sum(1) / robust.sum().clamp_min(1)).sqrt().clamp_min(1e-12)
    block = options.tie_block_hsi_px
    chosen = weight if keep is None else weight * keep.to(weight)
    found = []
    height, width = weight.shape
    a, b, _, d, e, _ = mapping[:6]
    for top in range(0, height, block):
        for left in range(0, width, block):
            part = torch.zeros_like(weight)
            part[top : top + block, left : left + block] = chosen[top : top + block, left : left + block]
            points = _pixels(part)
            if points.shape[1] < block * block // 2:
                continue
            wanted = linear @ _design(matcher, points)
            shift = torch.zeros(2, dtype=torch.float64)
            error, step = float("inf"), shift
            for _ in range(8):
                columns, rows = _apply(mapping * Affine.translation(float(shift[0]), float(shift[1])), points)
                seen, inside = matcher.at(columns, rows)
                if float(inside.mean()) < 0.7:
                    break
                slope = matcher.slopes(columns, rows).double()
                jacobian = (
                    torch.stack([a * slope[0] + d * slope[1], b * slope[0] + e * slope[1]]) / sigma[:, None]
                )
                difference = (seen.double() - wanted) / sigma[:, None]
                difference = difference - difference.mean(1, keepdim=True)  # local haze moves nothing
                jacobian = jacobian - jacobian.mean(2, keepdim=True)
                w = inside.double() * tukey_supported(difference, inside)
                normal = torch.einsum("pmn,n,qmn->pq", jacobian, w, jacobian)
                if float(torch.linalg.det(normal)) < 1e-6:
                    break
                step = -torch.linalg.solve(normal, torch.einsum("pmn,n,mn->p", jacobian, w, difference))
                shift = shift + step.clamp(-1, 1)
                spread = float((difference**2 * w).sum() / (w.sum() * len(sigma)).clamp_min(1))
                error = float(torch.linalg.inv(normal).diagonal().sum().sqrt()) * max(spread, 1e-12) ** 0.5
            if error < 0.15 and float(step.abs().max()) < 0.02 and float(shift.abs().max()) < 3:
                found.append(
                    [float(points[0].mean()), float(points[1].mean()), float(shift[0]), float(shift[1])]
                )
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 4)


def rescaled(pair: Pair, start: Affine) -> Pair:
    """The same pair with another start."""
    return replace(pair, start=start)
