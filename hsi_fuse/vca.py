"""Vertex component analysis: the pixels whose spectra are the corners of a scene."""

from __future__ import annotations

import torch
from torch import Tensor


def vertices(spectra: Tensor, count: int, seed: int) -> Tensor:
    """Indices of the pixels nearest to being pure.

    VCA, Nascimento and Bioucas-Dias, TGRS 2005: again and again a random direction is drawn, what the
    vertices found so far span is taken out of it, and the pixel that lies furthest along it is the next.
    Deviation: always in the affine hull's `count` - 1 principal directions plus a constant one (the paper's
    way for noisy scenes), never in the projective plane.

    Parameters
    ----------
    spectra : Tensor (n, N)
    count : int
        Capped at n and N.
    seed : int

    Returns
    -------
    Tensor (count,), int64
    """
    count = min(count, *spectra.shape)
    centred = spectra.double().cpu()
    centred = centred - centred.mean(1, keepdim=True)
    directions = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, len(centred) - count + 1 :]
    points = directions.T @ centred  # (count - 1, N)
    height = points.square().sum(0).max().sqrt().clamp_min(1e-30)
    points = torch.cat([points, height.expand(1, points.shape[1])])
    draw = torch.Generator().manual_seed(seed)
    found: list[int] = []
    for _ in range(count):
        direction = torch.randn(count, generator=draw, dtype=points.dtype)
        if found:
            known = torch.linalg.qr(points[:, found]).Q
            direction = direction - known @ (known.T @ direction)
        found.append(int((direction @ points).abs().argmax()))
    return torch.tensor(found, device=spectra.device)
