"""Orthogonal steps for weight matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ROUNDS = 5
QUINTIC = 3.4445, -4.7750, 2.0315
"""Of Jordan (2024): steep at zero, so that few rounds do; singular values end between about 0.7 and 1.2."""
AS_ADAM = 0.2
"""Root mean square of the entries of Adam's steps (Liu et al. 2025), for which learning rates are meant."""


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonal matrix nearest to the momentum of each weight matrix.

    No direction in it then waits for the others (Jordan 2024); a step is as long as Adam would make it (Liu
    et al. 2025). Without weight decay.

    Why not `torch.optim.Muon`, which does the same: it takes one matrix at a time, in bfloat16, which most
    processors do not calculate with. For the 64 x 64 matrices here that was a sixth of the training.

    Parameters
    ----------
    groups : parameters or groups of them
        Matrices.
    lr : float
    momentum : float
        A schedule may change it.
    """

    def __init__(self, groups: Iterable[Any], lr: float = 1e-3, momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for shape, weights in alike.items():
                ahead = torch.stack([self._ahead(weight, group["momentum"]) for weight in weights])
                length = AS_ADAM * max(shape) ** 0.5
                for weight, turn in zip(weights, orthogonal(ahead), strict=True):
                    weight.sub_(turn, alpha=group["lr"] * length)

    def _ahead(self, weight: Tensor, momentum: float) -> Tensor:
        """The mean of a weight's gradients as it will be after one more step like this (Nesterov)."""
        assert weight.grad is not None
        state = self.state[weight]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(weight)
        mean: Tensor = state["mean"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(mean, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the orthogonal matrix nearest to each of (b, m, n): singular values between about 0.7 and 1.2.

    Newton's and Schulz's iteration for the polar factor, with `QUINTIC` in place of the cubic.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    linear, cubic, quintic = QUINTIC
    x = matrices / matrices.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x
