"""The forward model's operators: adjoints, centring, units."""

import numpy as np
import pytest
import torch

from hsi_fuse.physics import (
    blur_down,
    blur_down_adjoint,
    blur_of,
    gaussian_psf,
    mix_bands,
    mix_bands_adjoint,
)

SHAPES = [(4, 10), (4, 4), (3, 9), (4, 2), (1, 5), (2, 6), (5, 3)]


def _random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("ratio", "size"), SHAPES)
def test_blur_and_its_adjoint_pass_the_dot_test(ratio, size):
    psf = _random(size, size).abs()
    fine, coarse = _random(3, 8 * ratio, 5 * ratio, seed=1), _random(3, 8, 5, seed=2)
    left = (blur_down(fine, psf, ratio) * coarse).sum()
    right = (fine * blur_down_adjoint(coarse, psf, ratio)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-12)


def test_an_adjoint_is_added_to_what_is_given():
    psf, image, there = gaussian_psf(4, 5.0, 3.0, 0.4).double(), _random(2, 7, 9), _random(2, 28, 36, seed=1)
    onto = there.clone()
    assert blur_of(psf, 4, (7, 9), image).up(image, onto=onto) is onto
    assert torch.allclose(onto, there + blur_down_adjoint(image, psf, 4))


def test_band_mixing_and_its_adjoint_pass_the_dot_test():
    srf, cube, image = _random(3, 7), _random(7, 5, 6, seed=1), _random(3, 5, 6, seed=2)
    assert float((mix_bands(cube, srf) * image).sum()) == pytest.approx(
        float((cube * mix_bands_adjoint(image, srf)).sum()), rel=1e-12
    )


def test_blur_of_a_learned_psf_is_the_same_and_has_its_gradient():
    psf, cube = _random(10, 10).abs(), _random(2, 136, 140, seed=1)  # more than one strip of either axis
    learned = psf.clone().requires_grad_()
    seen = blur_down(cube, learned, 4)
    assert torch.allclose(blur_down(cube, psf, 4), seen, atol=1e-10)
    seen.sum().backward()
    assert float(learned.grad.abs().min()) > 0


def test_blur_matches_a_plain_loop_with_mirrored_edges():
    ratio, size = 4, 10
    psf, cube = _random(size, size).abs(), _random(1, 12, 16, seed=3)
    reach = (size - ratio) // 2
    padded = np.pad(cube[0].numpy(), reach, mode="symmetric")
    wanted = [
        [(padded[i : i + size, j : j + size] * psf.numpy()).sum() for j in range(0, 16, ratio)]
        for i in range(0, 12, ratio)
    ]
    assert torch.allclose(blur_down(cube, psf, ratio)[0], torch.tensor(np.array(wanted)))


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_a_centred_psf_keeps_a_ramp_where_it_is(ratio):
    ramp = torch.arange(20 * ratio, dtype=torch.float64).repeat(20 * ratio, 1)[None]
    seen = blur_down(ramp, gaussian_psf(ratio, 1.0 * ratio).double(), ratio)
    centres = torch.arange(20, dtype=torch.float64) * ratio + (ratio - 1) / 2
    assert torch.allclose(seen[0, 10, 4:-4], centres[4:-4], atol=1e-5)


def test_a_rotated_gaussian_has_the_widths_asked_for():
    psf = gaussian_psf(4, 8.0, 4.0, size=40).double()
    offsets = torch.arange(40, dtype=torch.float64) - 19.5
    rows = (psf.sum(1) * offsets**2).sum().sqrt() * 2.3548
    columns = (psf.sum(0) * offsets**2).sum().sqrt() * 2.3548
    assert float(rows) == pytest.approx(8.0, rel=0.01)
    assert float(columns) == pytest.approx(4.0, rel=0.01)
    turned = gaussian_psf(4, 8.0, 4.0, angle=np.pi / 2, size=40).double()
    assert torch.allclose(turned, psf.T, atol=1e-6)


def test_size_and_ratio_of_unlike_parity_are_refused():
    with pytest.raises(ValueError, match="even"):
        blur_down(torch.zeros(1, 8, 8), torch.ones(3, 3) / 9, 4)
