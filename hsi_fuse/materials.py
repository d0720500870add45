"""What a product is made of: endmembers, and how much of each is in every pixel.

The finished product is unmixed, whatever method made it, and in its factors: the cube is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.problem import Estimate

SAMPLED_PIXELS = 4000
"""From which the endmembers are learned; all pixels are unmixed."""
WITHIN_NOISE = 0.25
"""Share of the HSI's noise variance that the endmembers' hull may miss. The simplex then misses more."""
DARKNESS = 1e-3
"""How much a black pixel is held to a sum of one, over the endmembers' size: it could be anything."""


@dataclass(frozen=True)
class MaterialOptions:
    """How a product is unmixed.

    Attributes
    ----------
    endmembers : int
        How many. 0: as many as reproduce the product within the HSI's noise.
    containment : float
        What pixels outside the simplex of the endmembers weigh against its volume. Small: outliers are left
        outside; large: every pixel is reproduced, and endmembers are purer than any pixel.
    positive : float
        What negative values of the endmembers' spectra weigh.
    steps : int
    """

    endmembers: int = 0
    containment: float = 300.0
    positive: float = 1.0
    steps: int = 400

    def __post_init__(self) -> None:
        if self.endmembers == 1 or self.endmembers < 0:
            raise ValueError(f"endmembers must be 0 (estimated) or at least 2, got {self.endmembers}")


@dataclass(frozen=True)
class Materials:
    """Endmembers of an estimate; its abundances are worked out row by row.

    product(pixel) = illumination(pixel) x sum_j abundance_j(pixel) endmember_j, within the HSI's noise where
    the number of endmembers was estimated. Abundances are not negative and sum to one (a black pixel's to 0).

    Attributes
    ----------
    endmembers : Tensor (n, K), float32
        HSI units.
    estimate : Estimate
    noise : Tensor (n,)
        Standard deviation of the HSI's noise.
    misfit : float
        RMS of what they leave of the product, over the noise.
    """

    endmembers: Tensor
    estimate: Estimate
    noise: Tensor
    misfit: float

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Abundances (K, stop - start, W) and illumination (stop - start, W) of rows of the product."""
        block = self.estimate.coefficients[:, start:stop]
        shares = _shares(*self._reduced(block.flatten(1)))
        light = shares.sum(0)
        shape = block.shape[1:]
        return (shares / light.clamp_min(1e-12)).reshape(-1, *shape).float(), light.reshape(shape).float()

    @cached_property
    def _frame(self) -> tuple[Tensor, Tensor]:
        """Orthonormal directions (n, k + 1) in noise units that hold the product, its factors in them."""
        factors = torch.cat([self.estimate.basis, self.estimate.mean[:, None]], 1).double()
        directions, inside = torch.linalg.qr(factors / self.noise.double()[:, None])
        return directions, inside

    def _reduced(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Endmembers (k + 1, K) and pixels (k + 1, N) in that frame; distances are those in the cube."""
        directions, inside = self._frame
        ones = torch.ones_like(coefficients[:1])
        pixels = inside @ torch.cat([coefficients, ones]).double()
        return directions.T @ (self.endmembers.double() / self.noise.double()[:, None]), pixels


def materials_of(
    estimate: Estimate, valid: Tensor, noise: Tensor, options: MaterialOptions, seed: int = 0
) -> Materials:
    """Unmix an estimate.

    The endmembers are the corners of the smallest simplex around the pixels: -log|det| of the map from
    spectra to abundances is minimised against hinges on negative abundances (SISAL, Bioucas-Dias, WHISPERS
    2009). It starts at the pixels that successive projection finds (Araujo et al., 2001). Deviations:
    gradient descent on the map itself, with its columns held to sum to one; another hinge on negative
    spectra; illumination is free in the end, so that abundances are shares of a cone and not of the simplex.
    The simplex is fitted without that freedom: in perspective, dark materials such as water are all noise
    (docs/lab-notes.md).

    Parameters
    ----------
    estimate : Estimate
    valid : Tensor (H, W), bool
        Pixels with data.
    noise : Tensor (n,)
        Standard deviation of the HSI's noise, HSI units.
    options : MaterialOptions
    seed : int
        Of the pixels that are drawn.

    Raises
    ------
    SolveError
        Fewer pixels with data, or dimensions that differ, than endmembers are asked for.
    """
    where = valid.flatten().nonzero()[:, 0]
    draw = torch.Generator().manual_seed(seed)
    few = where[torch.randperm(len(where), generator=draw)[:SAMPLED_PIXELS].to(where.device)]
    pixels = estimate.coefficients.flatten(1)[:, few]  # (k, N)
    spectra = (estimate.basis @ pixels + estimate.mean[:, None]).double()  # (n, N)
    mean = spectra.mean(1, keepdim=True)
    directions = torch.linalg.eigh((spectra - mean) @ (spectra - mean).T).eigenvectors.flip(1)
    most = min(estimate.basis.shape[1] + 1, len(spectra), len(few))
    count = options.endmembers or _count(spectra - mean, directions, noise.double(), most)
    if not 2 <= count <= most:
        raise SolveError(
            f"{count} endmembers: the product has {estimate.basis.shape[1]} dimensions and {len(where)} "
            f"pixels, which is enough for at most {most}; ask for fewer (materials.endmembers)"
        )
    corners = _least_simplex(spectra, mean, directions[:, : count - 1], options)
    found = Materials(corners.float(), estimate, noise, 0.0)
    corners, reduced = found._reduced(pixels)
    left = reduced - corners @ _shares(corners, reduced)
    misfit = float((left.square().sum(0).mean() / len(spectra)).sqrt())
    return Materials(found.endmembers, estimate, noise, misfit)


def _count(centred: Tensor, directions: Tensor, noise: Tensor, most: int) -> int:
    """The least number of endmembers whose affine hull misses `WITHIN_NOISE` of the noise variance."""
    rest = centred / noise[:, None]
    for count in range(2, most):
        axis = directions[:, count - 2]
        rest = rest - (axis / noise)[:, None] * (axis @ centred)
        if float(rest.square().mean()) <= WITHIN_NOISE:
            return count
    return most


def _least_simplex(spectra: Tensor, mean: Tensor, axes: Tensor, options: MaterialOptions) -> Tensor:
    """Corners (n, K) of the smallest simplex around spectra (n, N), in the hull of K - 1 axes (n, K - 1)."""
    count = axes.shape[1] + 1
    flat = axes.T @ (spectra - mean)  # (K - 1, N)
    ones = torch.ones_like(flat[:1])
    start = torch.cat([flat, ones])[:, _extreme(flat)]  # (K, K)
    corners = axes @ start[:-1] + mean
    shares = torch.linalg.solve(start, torch.cat([flat, ones]))  # barycentric: affine maps change nothing
    size = corners.abs().mean()
    turn = torch.eye(count, dtype=spectra.dtype, device=spectra.device).requires_grad_()
    one = torch.ones_like(turn[0])
    adam = torch.optim.Adam([turn], lr=0.02)

    def summing() -> Tensor:
        """The map from the first abundances to better ones, that sum to one as well."""
        return turn - (turn.sum(0) - one) / count

    for _ in range(options.steps):
        adam.zero_grad()
        better = summing()
        outside = F.relu(-(better @ shares)).mean() * count
        negative = F.relu(-(corners @ torch.linalg.inv(better))).mean() * count / size
        volume = -torch.linalg.slogdet(better).logabsdet
        (volume + options.containment * outside + options.positive * negative).backward()
        adam.step()
    return corners @ torch.linalg.inv(summing().detach())


def _extreme(flat: Tensor) -> list[int]:
    """Indices of K pixels (K - 1, N) that span most: successive projection, with a constant coordinate."""
    far = flat.square().sum(0).max().sqrt().clamp_min(1e-30)
    rest = torch.cat([flat, far.expand(1, flat.shape[1])])
    chosen = []
    for _ in range(len(rest)):
        chosen.append(int(rest.square().sum(0).argmax()))
        axis = F.normalize(rest[:, chosen[-1]], dim=0)
        rest = rest - axis[:, None] * (axis @ rest)
    return chosen


def _shares(corners: Tensor, pixels: Tensor, sweeps: int = 200) -> Tensor:
    """Non-negative least squares (K, N) of pixels (d, N) in corners (d, K), coordinate by coordinate."""
    weak = DARKNESS * corners.norm(dim=0).mean()
    gram, target = corners.T @ corners + weak**2, corners.T @ pixels + weak**2
    shares = torch.full_like(target, 1 / len(target))
    for _ in range(sweeps):
        before = shares.clone()
        for j in range(len(shares)):
            shares[j] = (shares[j] + (target[j] - gram[j] @ shares) / gram[j, j]).clamp_min(0)
        if float((shares - before).abs().max()) < 1e-5:
            break
    return shares
