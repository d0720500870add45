"""Masks and boxes: which part of an image takes part."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine

from hsi_fuse import cli
from hsi_fuse.errors import GridError, HsiFuseWarning, ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.read import open_guide, open_mask, read_hsi
from hsi_fuse.read.mask import parse_mask

UTM = "EPSG:32632"
PLACE = Affine(30, 0, 5e5, 0, -30, 5e6)
TURNED = Affine.translation(5e5, 5e6) * Affine.rotation(25) * Affine.scale(30, -30)


def write(path, values, transform=PLACE, crs=UTM, **more):
    values = values if values.ndim == 3 else values[None]
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, crs=crs, transform=transform, **more) as file:
        file.write(values)
    return path


def image(path, transform=PLACE, crs=UTM, shape=(20, 24)):
    return write(path, np.random.default_rng(0).random((4, *shape)).astype("f4") + 0.1, transform, crs)


@pytest.mark.parametrize(
    ("text", "path", "ranges"),
    [
        ("m.tif", "m.tif", ()),
        ("m.tif:3", "m.tif", ((3, 3),)),
        ("SCL.jp2:3,8-10", "SCL.jp2", ((3, 3), (8, 10))),
        ("m.tif:-1,0.5-2", "m.tif", ((-1, -1), (0.5, 2))),
        ("m.tif:-9--2", "m.tif", ((-9, -2),)),
        ("C:/data/m.tif", "C:/data/m.tif", ()),
        ("C:/data/m.tif:7", "C:/data/m.tif", ((7, 7),)),
        ("odd:name", "odd:name", ()),
    ],
)
def test_mask_options_are_a_file_and_perhaps_values(text, path, ranges):
    found = parse_mask(text)
    assert (str(found[0]), found[1]) == (path, ranges)


def test_a_mask_on_the_same_grid_takes_out_its_pixels(tmp_path):
    classes = np.random.default_rng(1).integers(0, 5, (20, 24)).astype("u1")
    path = write(tmp_path / "m.tif", classes)
    hsi = image(tmp_path / "h.tif")
    for ranges, expected in (((), classes != 0), (((2, 3),), (classes == 2) | (classes == 3))):
        with pytest.warns(HsiFuseWarning, match="no wavelengths"):
            raster = read_hsi(hsi, mask=open_mask(path, ranges))
        np.testing.assert_array_equal(raster.valid, ~expected)


@pytest.mark.parametrize("transform", [PLACE, TURNED])
@pytest.mark.parametrize("finer", [1 / 3, 2, 5])
def test_a_mask_on_another_grid_takes_out_every_pixel_it_touches(tmp_path, transform, finer):
    """One excluding pixel of a mask that is coarser or finer than the image, turned or not."""
    grid = Grid(None, transform, 24, 20)
    over = transform * Affine.translation(-3, -3) * Affine.scale(1 / finer)
    classes = np.zeros((int(27 * finer), int(30 * finer)), "u1")
    column, row = (round(k) for k in ~over * (transform * (11.3, 7.4)))
    classes[row, column] = 1
    mask = open_mask(write(tmp_path / "m.tif", classes, over))
    excluded = mask.excluded(
        Grid(rasterio.crs.CRS.from_string(UTM), *list(vars(grid).values())[1:]), (0, 0, 20, 24)
    )
    rows, columns = np.nonzero(excluded)
    x, y = ~transform * (over * (column + 0.5, row + 0.5))
    assert abs(columns.mean() + 0.5 - x) <= 0.5 + 1e-6
    assert abs(rows.mean() + 0.5 - y) <= 0.5 + 1e-6
    assert len(rows) == (9 if finer < 1 else 1)


def test_a_mask_in_another_crs_lies_on_the_same_ground(tmp_path):
    hsi = Grid(rasterio.crs.CRS.from_string(UTM), PLACE, 24, 20)
    degrees = Affine(1e-4, 0, 8.99, 0, -1e-4, 45.16)
    flags = np.ones((300, 300), "u1")
    mask = open_mask(write(tmp_path / "m.tif", flags, degrees, "EPSG:4326"))
    excluded = mask.excluded(hsi, (0, 0, 20, 24))
    x, y = hsi.to_pixels_of(mask.grid, *(a + 0.5 for a in np.meshgrid(np.arange(24), np.arange(20))))
    np.testing.assert_array_equal(excluded, (x > 0) & (x < 300) & (y > 0) & (y < 300))
    assert excluded.mean() > 0


def test_nodata_of_a_mask_excludes_nothing_unless_asked(tmp_path):
    classes = np.full((20, 24), 255, "u1")
    classes[0] = 1
    path = write(tmp_path / "m.tif", classes, nodata=255)
    grid = Grid(rasterio.crs.CRS.from_string(UTM), PLACE, 24, 20)
    assert open_mask(path).excluded(grid, (0, 0, 20, 24)).sum() == 24
    assert open_mask(path, ((255, 255),)).excluded(grid, (0, 0, 20, 24)).sum() == 19 * 24


def test_without_georeferencing_mask_and_image_must_have_one_size(tmp_path):
    plain = Affine.identity()
    guide_path = write(tmp_path / "g.tif", np.ones((3, 20, 24), "u1"), plain, None)
    classes = np.zeros((20, 24), "u1")
    classes[5, 6] = 1
    guide = open_guide(guide_path, open_mask(write(tmp_path / "m.tif", classes, plain, None)))
    assert np.argwhere(~guide.read(3, 4, 10, 10).valid).tolist() == [[2, 2]]
    other = open_guide(guide_path, open_mask(write(tmp_path / "n.tif", classes[1:], plain, None)))
    with pytest.raises(ReadError, match=r"n\.tif of 19 x 24 .* image of 20 x 24"):
        other.read(0, 0, 5, 5)


def test_masks_that_are_none_or_lie_elsewhere_are_told(tmp_path):
    with pytest.raises(ReadError, match="does not exist"):
        open_mask(tmp_path / "m.tif")
    with pytest.raises(ReadError, match="4 bands"):
        open_mask(image(tmp_path / "h.tif"))
    far = Affine(30, 0, 7e5, 0, -30, 5e6)
    mask = open_mask(write(tmp_path / "m.tif", np.ones((5, 5), "u1"), far))
    with pytest.warns(HsiFuseWarning, match="lies elsewhere"):
        excluded = mask.excluded(Grid(mask.grid.crs, PLACE, 24, 20), (0, 0, 20, 24))
    assert not excluded.any()
    everything = open_mask(write(tmp_path / "all.tif", np.ones((20, 24), "u1")))
    with (
        pytest.warns(HsiFuseWarning, match="no wavelengths"),
        pytest.raises(ReadError, match=r"nodata .* or masked"),
    ):
        read_hsi(image(tmp_path / "h.tif"), mask=everything)


@pytest.mark.parametrize("transform", [PLACE, TURNED])
def test_a_box_gives_whole_pixels_that_cover_it(tmp_path, transform):
    path = image(tmp_path / "h.tif", transform)
    corners = [transform * at for at in ((5, 4), (11, 4), (5, 9), (11, 9))]
    xs, ys = zip(*corners, strict=True)
    with pytest.warns(HsiFuseWarning, match="no wavelengths"):
        whole, part = read_hsi(path), read_hsi(path, bounds=(min(xs), min(ys), max(xs), max(ys)))
    column, row = (round(k) for k in ~whole.grid.transform * (part.grid.transform * (0, 0)))
    height, width = part.grid.shape
    np.testing.assert_array_equal(part.values, whole.values[:, row : row + height, column : column + width])
    if transform is PLACE:
        assert (row, column, height, width) == (4, 5, 5, 6)
    else:
        assert row <= 4 <= 9 <= row + height
        assert column <= 5 <= 11 <= column + width


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0, 0, 10, 10), "meet no pixel: the image covers"),
        ((5e5, 5e6, 4e5, 5e6 - 9), "no box"),
        ((5e5, 5e6, 5e5 + 99, 5e6 - 99), "top below their bottom"),
        ((float("nan"), 0, 1, 1), "no box"),
    ],
)
def test_boxes_that_make_no_sense_are_refused(tmp_path, bounds, message):
    with pytest.raises(GridError, match=message):
        Grid(rasterio.crs.CRS.from_string(UTM), PLACE, 24, 20).covering(bounds)


def test_info_understands_one_file_its_part_and_its_mask(tmp_path, pair, capsys):
    with rasterio.open(pair.hsi.with_suffix(".img")) as file:
        left, top = file.bounds.left, file.bounds.top
        classes = np.zeros((1, file.height, file.width), "u1")
        classes[:, :2] = 4
        mask = write(tmp_path / "m.tif", classes, file.transform, file.crs)
    box = f"{left},{top - 4 * 8},{left + 4 * 10},{top}"
    arguments = ["info", str(pair.hsi), "--json", f"--bbox={box}", "--hsi-mask", f"{mask}:4"]
    assert cli.main(arguments) == 0
    facts = json.loads(capsys.readouterr().out)["HSI"]
    assert facts["size"] == "10 x 8 pixels"
    assert facts["valid pixels"] == "75.0 %"
    assert cli.main(["info", str(pair.ref), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reference"]["bands"] == 4


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", ""])
def test_a_box_is_four_numbers(pair, box, capsys):
    assert cli.main(["info", str(pair.hsi), f"--bbox={box}"]) == 2
    assert "is not four numbers" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "align", "info"])
def test_commands_hand_box_and_masks_on(tmp_path, pair, monkeypatch, command):
    """What is read by the options reaches the work: caught here before it starts."""
    with rasterio.open(pair.hsi.with_suffix(".img")) as file:
        shape, transform, crs, top = (file.height, file.width), file.transform, file.crs, file.bounds.top
        box = f"{file.bounds.left},{file.bounds.bottom},{file.bounds.right},{top - 4 * 4}"
    classes = np.zeros(shape, "u1")
    classes[6, 7] = 9
    path = write(tmp_path / "m.tif", classes, transform, crs)
    caught = []
    homes = {"run": "scene.fuse", "align": "registered.register_guide", "info": "pipeline.plan"}

    def catch(hsi, guide, *others, **more):
        caught.append((hsi, guide))
        raise GridError("enough")

    monkeypatch.setattr(f"hsi_fuse.{homes[command]}", catch)
    monkeypatch.chdir(tmp_path)
    files = [str(pair.hsi), str(pair.ref), "-q"]
    options = [f"--bbox={box}", "--hsi-mask", str(path), "--guide-mask", f"{path}:8-10"]
    assert cli.main([command, *files, *options]) == 3
    hsi, guide = caught[0]
    assert hsi.grid.shape == (shape[0] - 4, shape[1])
    assert np.argwhere(~hsi.valid).tolist() == [[2, 7]]
    left_out = np.argwhere(~guide.read(0, 0, guide.grid.height, guide.grid.width).valid)
    x, y = hsi.grid.to_pixels_of(guide.grid, np.array([7, 8]), np.array([2, 3]))
    assert len(left_out) == 16
    np.testing.assert_allclose(left_out.mean(0) + 0.5, [y.mean(), x.mean()], atol=0.51)
