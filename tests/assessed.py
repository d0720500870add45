"""A small scene whose truth is known, and the simplest fusion of it: for tests of the assessment."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from hsi_fuse.physics import blur_down, gaussian_psf, mix_bands
from hsi_fuse.problem import Estimate, Problem
from hsi_fuse.sensor import Sensor

RATIO, BANDS, MATERIALS = 4, 20, 3
WAVELENGTHS = np.linspace(420, 900, BANDS)
GOOD_REGISTRATION = {"rrmse_px": 0.1, "count": 40}


def make_scene(size: int = 128, noise: float = 0.002, seed: int = 3) -> tuple[Problem, Estimate]:
    """A problem and its truth: materials in crisp random patches, four broad guide bands."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.standard_normal((size, size)), 3) for _ in range(MATERIALS)])
    winner = fields.argmax(0)
    abundances = np.stack([gaussian_filter((winner == i).astype(float), 0.7) for i in range(MATERIALS)])
    abundances *= 0.7 + 0.3 * rng.random((size, size))
    x = np.linspace(0, 1, BANDS)
    spectra = np.stack([0.1 + 0.3 * x, 0.35 - 0.2 * x, 0.15 + 0.3 * np.exp(-(((x - 0.6) / 0.15) ** 2))], 1)
    truth = Estimate(
        torch.from_numpy(spectra).float(), torch.zeros(BANDS), torch.from_numpy(abundances).float()
    )
    centres = (470, 560, 660, 800)
    srf = np.stack([np.exp(-(((WAVELENGTHS - c) / 45) ** 2)) for c in centres])
    srf = torch.from_numpy(srf / srf.sum(1, keepdims=True)).float()
    sensor = Sensor(srf, torch.full((4,), 0.01), gaussian_psf(RATIO, 4.0), RATIO)
    cube = truth.rows(0, size)
    low = size // RATIO
    hsi = blur_down(cube, sensor.psf, RATIO)
    guide = mix_bands(cube, srf) + 0.01
    torch.manual_seed(seed)
    hsi = hsi + noise * torch.randn_like(hsi)
    guide = guide + noise * torch.randn_like(guide)
    ones = torch.ones
    problem = Problem(
        hsi, ones(low, low), guide, ones(size, size), sensor,
        torch.full((BANDS,), max(noise, 1e-6)), torch.full((4,), max(noise, 1e-6)),
    )  # fmt: skip
    return problem, truth


def regression(problem: Problem) -> Estimate:
    """The simplest fusion there is: bands regressed on the degraded guide, applied to the guide."""
    low = blur_down(problem.guide, problem.sensor.psf, problem.ratio)  # (m, h, w)
    seen = blur_down(problem.guide_weight[None], problem.sensor.psf, problem.ratio)[0]
    keep = (problem.hsi_weight > 0) & (seen > 0.99)
    design = torch.cat([low[:, keep], torch.ones(1, int(keep.sum()))]).T.double()
    weights = torch.linalg.lstsq(design, problem.hsi[:, keep].T.double()).solution.float()  # (m + 1, n)
    return Estimate(weights[:-1].T.contiguous(), weights[-1], problem.guide)
