"""Which HSI pixels of a large scene a mapping is fitted to."""

import pytest
import torch

from hsi_fuse.registration.tiles import SIDE, strips, textured


def covered(tiles, shape):
    """How often each pixel lies in a tile."""
    count = torch.zeros(shape, dtype=torch.int)
    for tile in tiles:
        count[tile] += 1
    return count


def noise(shape, seed=0):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))


def test_strips_cover_each_pixel_once():
    assert (covered(strips((50, 30), 7), (50, 30)) == 1).all()


def test_a_small_image_is_looked_at_as_a_whole():
    assert textured(noise((40, 60)), torch.ones(40, 60), 2400) == [(slice(0, 40), slice(0, 60))]


@pytest.mark.parametrize("shape", [(300, 200), (20, 1500), (70, 400)])
def test_tiles_of_a_large_image_lie_apart_and_all_over_it(shape):
    most = 12_000
    count = covered(textured(noise(shape), torch.ones(shape), most), shape)
    assert int(count.max()) == 1
    assert 0.5 * most <= int(count.sum()) <= most
    halves = count.tensor_split(2, int(shape[1] > shape[0]))
    assert min(int(half.sum()) for half in halves) > 0.4 * int(count.sum())


def test_of_a_cell_the_most_textured_tile_is_taken():
    shape = (8 * SIDE, 8 * SIDE)
    low = 0.1 * noise(shape)
    rough = torch.zeros(shape)
    for i in range(0, 8, 2):
        for j in range(0, 8, 2):
            tile = slice((i + 1) * SIDE, (i + 2) * SIDE), slice(j * SIDE, (j + 1) * SIDE)
            rough[tile] = 1
    count = covered(textured(low + rough * noise(shape, 1), torch.ones(shape), 16 * SIDE**2), shape)
    assert torch.equal(count > 0, rough > 0)


def test_texture_without_data_does_not_count():
    shape = (2 * SIDE, SIDE)
    weight = torch.ones(shape)
    weight[:SIDE] = 0
    low = noise(shape) * torch.tensor([10.0, 1.0]).repeat_interleave(SIDE)[:, None]
    assert textured(low, weight, SIDE**2) == [(slice(SIDE, 2 * SIDE), slice(0, SIDE))]
