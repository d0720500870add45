"""The linear system of a MAP estimate, and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.physics import Blur, blur_of

CACHE_PIXELS = 1 << 18
"""Of one channel, that stay in a processor's cache while they are worked on."""
DOT_VALUES = 1 << 16
"""Values of one product in float32."""


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, int]:
    """Preconditioned conjugate gradients for a symmetric positive definite operator, from zero.

    Returns the solution and the number of iterations; stops when the root mean square of the residual falls
    below `tolerance`, measured in the preconditioner's norm. Where the operator is the precision of a
    distribution, that is about the error in its standard deviations, whatever was known at the start. Where
    the system is stiffer than its precision bears, rounding can bring that norm below zero, and that ends it
    too, however far it has come: `solve.LOOSEST` keeps a guess's prior from it.

    Raises
    ------
    SolveError
        The iteration produced numbers that are not finite.
    """
    x = torch.zeros_like(right)
    residual = right.clone()
    z = precondition(residual)
    direction = z.clone()
    rz, goal = _dot(residual, z), tolerance**2 * right.numel()
    step = 0
    while step < iterations and not float(rz) <= goal:
        step += 1
        image = operator(direction)
        alpha = float(rz / _dot(direction, image))
        x.add_(direction, alpha=alpha)
        residual.sub_(image, alpha=alpha)
        z = precondition(residual)
        rz, before = _dot(residual, z), rz
        if float(rz) != float(rz):
            raise SolveError(f"conjugate gradients broke down at iteration {step}: the values are not finite")
        torch.add(z, direction, alpha=float(rz / before), out=direction)
    return x, step


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner product, summed in float64 from parts short enough for float32."""
    parts = zip(*(torch.split(each.flatten(), DOT_VALUES) for each in (one, other)), strict=True)
    return torch.stack([torch.dot(a, b) for a, b in parts]).double().sum()


def times(matrix: Tensor, image: Tensor) -> Tensor:
    """A matrix (a, k) times each pixel of an image (k, H, W)."""
    return torch.tensordot(matrix, image, dims=1)


def cached(image: Tensor) -> tuple[Tensor, ...]:
    """Channels of (k, H, W) that fit into a processor's cache together: views of (some, H, W)."""
    return torch.split(image, max(CACHE_PIXELS // image[0].numel(), 1))


def degree(down: Tensor, across: Tensor) -> Tensor:
    """The sum of each pixel's bonds (H, W)."""
    degree = F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    return degree + F.pad(across, (1, 0)) + F.pad(across, (0, 1))


@dataclass(frozen=True)
class System:
    """The normal equations of `solve.solve_map`, a symmetric positive definite matrix, without the matrix.

    The unknowns are B in A = C B, where the columns of C, of which there may be fewer than rows, make the
    prior's covariance the identity and the guide's curvature diagonal:

        C' (D B)' T (D B) C + curvature weight + damp + smooth L

    Prior and guide then act on each channel by itself, and only the HSI's term couples them, at the HSI's
    pixels. Channels are taken a few at a time, so that they stay in the processor's cache.

    Attributes
    ----------
    psf, ratio
        As in `physics.blur_down`.
    trust : Tensor (k, h, w)
        Inverse variance T of each HSI coefficient.
    change : Tensor (k, r)
        C.
    curvature : Tensor (r,)
        The guide's, in that basis.
    weight : Tensor (H, W)
        The guide's.
    held : Tensor (H, W)
        Diagonal of damp + smooth L.
    down : Tensor (H - 1, W)
    across : Tensor (H, W - 1)
        The bonds in smooth L.
    """

    psf: Tensor
    ratio: int
    trust: Tensor
    change: Tensor
    curvature: Tensor
    weight: Tensor
    held: Tensor
    down: Tensor
    across: Tensor

    @cached_property
    def blur(self) -> Blur:
        """D B."""
        height, width = self.trust.shape[1:]
        return blur_of(self.psf, self.ratio, (height, width), self.trust)

    def __call__(self, image: Tensor) -> Tensor:
        """The matrix times (r, H, W)."""
        low = torch.cat([self.blur.down(part) for part in cached(image)])
        low = times(self.change.T, self.trust * times(self.change, low))
        out = torch.empty_like(image)
        parts, count = cached(image), len(cached(image)[0])
        for to, part, coarse, curvature in zip(
            cached(out), parts, torch.split(low, count), torch.split(self.curvature, count), strict=True
        ):
            torch.mul(part, self.held, out=to)
            to[:, 1:].addcmul_(part[:, :-1], self.down, value=-1)
            to[:, :-1].addcmul_(part[:, 1:], self.down, value=-1)
            to[:, :, 1:].addcmul_(part[:, :, :-1], self.across, value=-1)
            to[:, :, :-1].addcmul_(part[:, :, 1:], self.across, value=-1)
            for i, value in enumerate(curvature.tolist()):
                if value > 0:
                    to[i].addcmul_(part[i], self.weight, value=value)
            self.blur.up(coarse, onto=to)
        return out
