"""What a folder holds and which reference belongs to which image: headers only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform
from test_read_products import TAKEN, dlr_product

from hsi_fuse.batch.discover import find_images
from hsi_fuse.batch.pairing import pair_up, read_pairs
from hsi_fuse.batch.plan import plan_batch
from hsi_fuse.errors import PresetError, ReadError
from hsi_fuse.preset import load_preset
from hsi_fuse.scene import RunSettings

EAST, NORTH = 500_000.0, 5_300_000.0
WriteImage = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteImage:
    """A function that writes an image of zeros: an HSI of 20 m and 40 pixels, or a finer reference."""

    def make(
        name: str,
        bands: int = 3,
        east: float = EAST,
        pixels: int = 160,
        gsd: float = 5.0,
        crs: str | None = "EPSG:32632",
        **tags: str,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = {"width": pixels, "height": pixels, "count": bands, "dtype": "uint8"}
        place = {} if crs is None else {"crs": crs, "transform": from_origin(east, NORTH, gsd, gsd)}
        with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
            file.write(np.zeros((bands, pixels, pixels), np.uint8))
            file.update_tags(**tags)
        return path

    return make


def hsi(write: WriteImage, name: str, **how: object) -> Path:
    return write(name, **{"bands": 20, "pixels": 40, "gsd": 20.0, **how})


def pairs(folder: Path, pattern: str | None = None) -> dict[str, str | None]:
    found = find_images(folder)
    pairings = pair_up(found.hsis, found.references, folder, pattern)
    return {p.hsi.path.name: p.reference and p.reference.path.name for p in pairings}


# --- discovery ---------------------------------------------------------------------------------------------


def test_images_are_told_apart_by_their_bands(tmp_path, write):
    hsi(write, "deep/down/a.tif")
    write("b.tif", bands=13)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "table.tif.csv").write_text("1,2")
    found = find_images(tmp_path)
    assert [image.path.name for image in found.hsis] == ["a.tif"]
    assert [image.path.name for image in found.references] == ["b.tif"]
    assert not found.unreadable
    assert not found.left_out


def test_an_envi_pair_is_one_image_named_by_its_header(pair):
    found = find_images(pair.hsi.parent)
    assert [image.path for image in found.hsis] == [pair.hsi]
    assert set(found.hsis[0].files) == {pair.hsi, pair.hsi.with_suffix(".img")}
    assert [image.path for image in found.references] == [pair.ref]


def test_a_virtual_raster_is_one_image_with_the_files_that_it_names(tmp_path, write):
    named = write("a.tif"), write("deep/b.tif")
    source = "<SimpleSource><SourceFilename relativeToVRT='1'>{}</SourceFilename></SimpleSource>"
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{k}'>{source.format(name)}</VRTRasterBand>"
        for k, name in enumerate(("a.tif", "deep/b.tif", "/dev/zero"), 1)  # the last is no plain file
    )
    both = tmp_path / "both.vrt"
    both.write_text(f"<VRTDataset rasterXSize='160' rasterYSize='160'>{bands}</VRTDataset>")
    found = find_images(tmp_path)
    assert [image.path for image in found.references] == [both]
    assert set(found.references[0].files) == {both, *named}


def test_what_lies_beside_an_image_and_tells_of_it_is_part_of_it(tmp_path, write):
    """The XML of EnMAP: with other gains in it the image is another one."""
    image, xml, _ = dlr_product(tmp_path, "enmap")
    found = find_images(tmp_path)
    assert [each.path for each in found.references] == [image]
    assert set(found.references[0].files) == {image, xml}
    assert found.references[0].time == TAKEN


def test_a_broken_image_is_told_and_not_passed_over(tmp_path, pair):
    pair.hsi.with_suffix(".img").write_bytes(b"cut off")
    pair.ref.write_bytes(pair.ref.read_bytes()[:20])
    found = find_images(tmp_path)
    assert {path.name for path, _ in found.unreadable} == {"scene.hdr", "camera.tif"}
    assert any("promises" in why for _, why in found.unreadable)


def test_libraries_classes_and_hidden_files_are_no_scenes(tmp_path, write):
    for kind in ("ENVI Spectral Library", "ENVI Classification"):
        (tmp_path / f"{kind[-5:]}.hdr").write_text(f"ENVI\nfile type = {kind}\nsamples = 3\n")
    (tmp_path / "spectra.txt").write_text("ENVI ASCII Plot File\nColumn 1: Wavelength\n")
    write(".hidden.tif")
    found = find_images(tmp_path)
    assert (found.hsis, found.references, found.unreadable) == ((), (), ())


def test_products_and_the_output_folder_are_not_looked_at(tmp_path, write):
    hsi(write, "sharp.tif")
    write("sharp_rgb.tif")
    (tmp_path / "sharp_quality.json").write_text("{}")
    hsi(write, "out/x.tif")
    found = find_images(tmp_path, without=tmp_path / "out")
    assert (found.hsis, found.references) == ((), ())
    assert {path.name for path, _ in found.left_out} == {"sharp.tif", "sharp_rgb.tif"}


# --- pairing -----------------------------------------------------------------------------------------------


def test_the_reference_that_covers_most_is_taken_across_coordinate_systems(tmp_path, write):
    hsi(write, "h.tif")
    (x,), (y,) = transform("EPSG:32632", "EPSG:32633", [EAST], [NORTH])
    whole = tmp_path / "whole.tif"
    with rasterio.open(
        whole, "w", driver="GTiff", width=300, height=300, count=3, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(x - 300, y + 300, 5, 5),
    ):  # fmt: skip
        pass
    write("half.tif", east=EAST + 400)
    write("elsewhere.tif", east=EAST + 50_000)
    found = find_images(tmp_path)
    (pairing,) = pair_up(found.hsis, found.references, tmp_path)
    assert pairing.reference is not None
    assert pairing.reference.path.name == "whole.tif"
    assert pairing.why == "covers 100 %"
    assert [match.reference.path.name for match in pairing.alternatives] == ["half.tif"]
    assert pairing.alternatives[0].overlap == pytest.approx(0.5, abs=0.05)


def test_of_references_of_one_place_the_nearest_in_time_is_taken(tmp_path, write):
    hsi(write, "h.tif", **{"acquisition time": "2020-06-04T10:00:00Z"})
    write("p.tif", **{"acquisition time": "2019-06-04T10:00:00Z"})
    write("q.tif", **{"acquisition time": "2020-06-01T10:00:00Z"})
    write("r.tif")
    assert pairs(tmp_path) == {"h.tif": "q.tif"}


def test_of_references_of_one_place_the_one_named_alike_is_taken(tmp_path, write):
    for site in ("north", "south"):
        hsi(write, f"{site}/flight_hsi.tif")
        write(f"{site}/flight_rgb.tif")
    found = find_images(tmp_path)
    for pairing in pair_up(found.hsis, found.references, tmp_path):
        assert pairing.reference is not None
        assert pairing.reference.path.parent == pairing.hsi.path.parent
        assert f"named {pairing.hsi.path.parent.name}" in pairing.why


def test_a_choice_between_equals_is_told(tmp_path, write):
    hsi(write, "h.tif")
    write("p.tif")
    write("q.tif")
    found = find_images(tmp_path)
    assert "q.tif is as likely" in pair_up(found.hsis, found.references, tmp_path)[0].why


def test_without_georeferencing_names_decide(tmp_path, write):
    for number in (1, 2):
        hsi(write, f"h{number}.tif", crs=None)
        write(f"c-{number}.tif", crs=None)
    assert pairs(tmp_path) == {"h1.tif": "c-1.tif", "h2.tif": "c-2.tif"}


def test_a_pattern_says_what_must_agree(tmp_path, write):
    for letter in "ab":
        hsi(write, f"h{letter}.tif", crs=None)
        write(f"c{letter}.tif", crs=None)
    assert set(pairs(tmp_path).values()) == {None}
    assert pairs(tmp_path, r"(.)\.tif") == {"ha.tif": "ca.tif", "hb.tif": "cb.tif"}


def test_the_only_two_images_belong_together(tmp_path, write):
    hsi(write, "h.tif", crs=None)
    write("camera.tif", crs=None)
    assert pairs(tmp_path) == {"h.tif": "camera.tif"}


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ({"name": "c.tif", "gsd": 20.0, "pixels": 40}, "finer"),
        ({"name": "c.tif", "east": EAST + 9000}, "no reference covers it"),
        (None, "holds no reference"),
    ],
)
def test_an_image_without_a_reference_is_told_why(tmp_path, write, reference, why):
    hsi(write, "h.tif")
    if reference is not None:
        write(**reference)
    found = find_images(tmp_path)
    (pairing,) = pair_up(found.hsis, found.references, tmp_path)
    assert pairing.reference is None
    assert why in pairing.why


@pytest.mark.parametrize("pattern", ["(", "no group"])
def test_a_useless_pattern_is_refused(tmp_path, write, pattern):
    hsi(write, "h.tif")
    write("c.tif")
    with pytest.raises(PresetError, match="--match"):
        pairs(tmp_path, pattern)


def test_pairs_can_be_written_down(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("hsi,reference,note\na/h.hdr,b/c.tif,fine\n")
    assert read_pairs(table, tmp_path) == ((tmp_path / "a/h.hdr", tmp_path / "b/c.tif"),)


@pytest.mark.parametrize("text", ["", "hsi,reference\n", "hsi,guide\na,b\n", "hsi,reference\na,\n"])
def test_a_useless_table_of_pairs_is_refused(tmp_path, text):
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    with pytest.raises(ReadError, match=r"pairs\.csv"):
        read_pairs(table, tmp_path)


# --- the plan ----------------------------------------------------------------------------------------------


def test_every_scene_has_a_name_of_its_own(tmp_path, write):
    for name in ("a/h.tif", "a_h.tif", "b/h.tif"):
        hsi(write, name)
    write("c.tif")
    plan = plan_batch(tmp_path, tmp_path / "out", RunSettings(load_preset("draft")))
    names = [task.name for task in plan.tasks]
    assert len(set(names)) == 3
    assert "b_h" in names


def test_a_plan_tells_scale_size_and_memory_and_whom_it_leaves(tmp_path, write):
    hsi(write, "h.tif")
    hsi(write, "far.tif", east=EAST + 90_000)
    write("c.tif")
    write("idle.tif", east=EAST - 90_000)
    plan = plan_batch(tmp_path, tmp_path / "out", RunSettings(load_preset("draft")))
    (task,) = plan.tasks
    assert task.scale == 4
    assert 1e8 < task.memory_bytes < 2e9
    assert [p.hsi.path.name for p in plan.unpaired] == ["far.tif"]
    assert [image.path.name for image in plan.idle] == ["idle.tif"]


def test_a_folder_without_a_pair_is_an_error(tmp_path, write):
    hsi(write, "h.tif")
    with pytest.raises(ReadError, match="1 hyperspectral images, 0 references"):
        plan_batch(tmp_path, tmp_path / "out", RunSettings(load_preset("draft")))
    with pytest.raises(ReadError, match="not a folder"):
        plan_batch(tmp_path / "nowhere", tmp_path / "out", RunSettings(load_preset("draft")))
