"""The linear system of a MAP estimate, and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.sparse import SparseBlur, five_point, product, sparse_blur

DOT_VALUES = 1 << 16
"""Values of one product in float32."""


def conjugate_gradients(
    operator: Callable[[Tensor, Tensor], object],
    right: Tensor,
    precondition: Callable[[Tensor, Tensor], object],
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, int]:
    """Preconditioned conjugate gradients for a symmetric positive definite operator, from zero.

    Operator and preconditioner take an image and one that they write their answer to: new memory for each
    would take a fifth of the time. `right` is used up.

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
    residual, image, z = right, torch.empty_like(right), torch.empty_like(right)
    precondition(residual, z)
    direction = z.clone()
    rz, goal = _dot(residual, z), tolerance**2 * right.numel()
    step = 0
    while step < iterations and not float(rz) <= goal:
        step += 1
        operator(direction, image)
        alpha = float(rz / _dot(direction, image))
        x.add_(direction, alpha=alpha)
        residual.sub_(image, alpha=alpha)
        precondition(residual, z)
        rz, before = _dot(residual, z), rz
        if float(rz) != float(rz):
            raise SolveError(f"conjugate gradients broke down at iteration {step}: the values are not finite")
        torch.add(z, direction, alpha=float(rz / before), out=direction)
    return x, step


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner product, summed in float64 from parts short enough for float32."""
    parts = zip(*(torch.split(each.flatten(), DOT_VALUES) for each in (one, other)), strict=True)
    return torch.stack([torch.dot(a, b) for a, b in parts]).double().sum()


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
    pixels. Images are (H W, r), channels last (`sparse`).

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
    def blur(self) -> SparseBlur:
        """D B."""
        height, width = self.trust.shape[1:]
        return sparse_blur(self.psf, self.ratio, (height, width), self.trust)

    @cached_property
    def prior(self) -> Tensor:
        """damp + smooth L, sparse (H W, H W)."""
        return five_point(self.held, -self.down, -self.across)

    @cached_property
    def bend(self) -> Tensor:
        """curvature weight, from the first channel on that the guide says something of: (H W, some)."""
        silent = int((self.curvature <= 0).long().cumprod(0).sum())
        return torch.outer(self.weight.flatten(), self.curvature[silent:].clamp_min(0))

    def __call__(self, image: Tensor, out: Tensor | None = None) -> Tensor:
        """The matrix times (H W, r), written to `out` where that is given."""
        out = product(self.prior, image, out)
        bent = slice(image.shape[1] - self.bend.shape[1], None)
        out[:, bent].addcmul_(image[:, bent], self.bend)
        low = self.blur.down(image) @ self.change.T  # (h w, k)
        self.blur.add_up((low * self.trust.flatten(1).T) @ self.change, out)
        return out
