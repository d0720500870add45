"""Operators on images whose channels come last: the same as `physics` has, and their adjoints."""

import pytest
import torch

from hsi_fuse.physics import blur_down, blur_down_adjoint, gaussian_psf
from hsi_fuse.sparse import five_point, sparse_blur


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 3, 4, 12, 20])
@pytest.mark.parametrize("shape", [(1, 3), (7, 5), (40, 33)])
def test_blur_is_that_of_bands_first(size, shape):
    """Of a PSF that is no product of two profiles, smaller and larger than the HSI's pixel."""
    ratio = 3 if size % 2 else 4
    psf = random(size, size, seed=size).abs()
    if size > ratio * (1 + 2 * min(shape)):
        pytest.skip("such a PSF cannot be mirrored")
    channels = 5
    image, low = (
        random(channels, ratio * shape[0], ratio * shape[1], seed=1),
        random(channels, *shape, seed=2),
    )
    blur = sparse_blur(psf, ratio, shape, image)
    assert torch.allclose(
        blur.down(image.flatten(1).T), blur_down(image, psf, ratio).flatten(1).T, atol=1e-12
    )
    onto = random(image[0].numel(), channels, seed=3)
    expected = onto + blur_down_adjoint(low, psf, ratio).flatten(1).T
    blur.add_up(low.flatten(1).T, onto)
    assert torch.allclose(onto, expected, atol=1e-12)


def test_blur_and_its_adjoint_pass_the_dot_test():
    ratio, shape = 4, (9, 6)
    blur = sparse_blur(gaussian_psf(ratio, 3.0, 6.0, 0.6).double(), ratio, shape, random(1))
    image, low = random(16 * 54, 7, seed=1), random(54, 7, seed=2)
    up = torch.zeros_like(image)
    blur.add_up(low, up)
    assert float((blur.down(image) * low).sum()) == pytest.approx(float((image * up).sum()), rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (6, 7)])
def test_a_stencil_ties_a_pixel_to_its_neighbours_and_to_no_other(shape):
    height, width = shape
    centre, down, across = (
        random(*shape),
        random(height - 1, width, seed=1),
        random(height, width - 1, seed=2),
    )
    dense = torch.zeros(height, width, height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            dense[i, j, i, j] = centre[i, j]
            if i:
                dense[i, j, i - 1, j] = dense[i - 1, j, i, j] = down[i - 1, j]
            if j:
                dense[i, j, i, j - 1] = dense[i, j - 1, i, j] = across[i, j - 1]
    size = height * width
    assert torch.equal(five_point(centre, down, across).to_dense(), dense.view(size, size))
