"""The network of stage `coupled`: what a colour of the guide is made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_ILLUMINATION = 0.5
"""Largest logarithm of the illumination scale to either side."""


class UnmixingNetwork(nn.Module):
    """Guide pixel -> abundances, illumination and a signed residual -> coefficients of the scene's subspace.

    coefficients = zero + illumination (sum_j abundance_j endmember_j - zero) + residual, where `zero` are the
    coefficients of the all-zero spectrum, so that illumination scales spectra and not their deviation
    from the mean. Abundances are a softmax: non-negative, sum to one.

    Parameters
    ----------
    bands : int
        Guide bands m.
    endmembers : Tensor (K, k)
        Where they start, in coefficients.
    zero : Tensor (k,)
    spread : Tensor (k,)
        Typical size of each coefficient; scales the residual.
    hidden : int
        Width of the three hidden layers.
    """

    def __init__(self, bands: int, endmembers: Tensor, zero: Tensor, spread: Tensor, hidden: int) -> None:
        super().__init__()
        count, size = endmembers.shape
        self.trunk = nn.ModuleList(nn.Linear(width, hidden) for width in (bands, hidden, hidden))
        self.material = nn.Linear(hidden, count + 1)
        self.residual = nn.Linear(hidden, size)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)
        self.endmembers = nn.Parameter(endmembers.clone())
        self.register_buffer("zero", zero[:, None])
        self.register_buffer("spread", spread[:, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Coefficients (k, N) of guide pixels (m, N)."""
        for layer in self.trunk:
            pixels = F.leaky_relu_(_affine(layer, pixels), 0.2)
        logits = _affine(self.material, pixels)
        illumination = torch.exp(LOG_ILLUMINATION * torch.tanh(logits[-1:]))
        zero = self.get_buffer("zero")
        material = self.endmembers.T @ torch.softmax(logits[:-1], 0) - zero
        return zero + illumination * material + self.get_buffer("spread") * _affine(self.residual, pixels)


def _affine(layer: nn.Module, columns: Tensor) -> Tensor:
    """A linear layer on columns, as images have them: no copy of the pixels."""
    assert isinstance(layer, nn.Linear)
    return torch.addmm(layer.bias[:, None], layer.weight, columns)
