"""The benchmark that spoils a reference: what it changes, and that its picture has every place."""

import torch
from synthetic import observed, scene

from benchmarks.wrong_patch import ENLARGED, PLACES, RIM_PX, SIDE_PX, picture, spoiled, window


def test_a_cloud_is_opaque_and_two_pieces_change_places():
    pair = observed(3, truth=scene(144, 160))
    wrong = spoiled(pair)
    one, other = (window(pair.guide.shape, PLACES[name], 0) for name in ("moved object", "its former place"))
    assert torch.equal(wrong.guide[:, *one], pair.guide[:, *other])
    assert torch.equal(wrong.guide[:, *other], pair.guide[:, *one])
    row, column = (round(share * size) for share, size in zip(PLACES["cloud"], (144, 160), strict=True))
    assert torch.allclose(wrong.guide[:, row, column], 0.9 * pair.guide.amax((1, 2)), rtol=1e-3)
    changed = (wrong.guide != pair.guide).any(0).float().mean()
    assert 0.05 < float(changed) < 0.2
    elsewhere = window(pair.guide.shape, PLACES["elsewhere"], 0)
    assert torch.allclose(wrong.guide[:, *elsewhere], pair.guide[:, *elsewhere], atol=1e-3)


def test_the_picture_has_a_row_for_each_place():
    images = [torch.rand(3, 144, 160) for _ in range(5)]
    side = SIDE_PX + 2 * RIM_PX + 2
    assert picture(images, torch.Size((9, 144, 160))).size == (5 * side * ENLARGED, 4 * side * ENLARGED)
