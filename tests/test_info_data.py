"""`info` of every ENVI file and GeoTIFF among the real scenes, against numbers known from elsewhere."""

from __future__ import annotations

import json

import pytest

from hsi_fuse.cli import main

CAVE = {
    "size": "512 x 512 pixels",
    "bands": "31, 31 of them good",
    "wavelengths": "400-700 nm",
    "CRS": "none",
    "units": "uint16, value = stored x 1.5259e-05 + 0, nodata None",
    "pixel": "not georeferenced",
}
AVIRIS_NG = {
    "size": "10 x 10 pixels",
    "bands": "432, 373 of them good",
    "wavelengths": "346-2505 nm",
    "bad bands": "1-7, 201-217, 287-321",
}
HYSU = {
    "size": "123 x 86 pixels",
    "pixel": "0.7 m",
    "CRS": "EPSG:32632",
    "bands": "135, 135 of them good",
    "bounds": "669639.6, 5328045.8, 669725.7, 5328106",
    "wavelengths": "417-903 nm",
    "valid pixels": "100.0 %",
    "units": "int16, value = stored x 0.0001 + 0, nodata 15000.0",
}
HSI = {
    **{
        f"cave_{each}/{each}_ms.tif": CAVE
        for each in ("balloons", "chart_and_stuffed_toy", "oil_painting", "superballs")
    },
    "envi_small/ang20140912t192359_corr_v1c_img_2580-2590_540-550.hdr": {
        **AVIRIS_NG,
        "pixel": "3.1 m",
        "CRS": "EPSG:32613",
    },
    "envi_small/ang20150420t182808_corr_v1e_img_4200-4210_70-80.hdr": {
        **AVIRIS_NG,
        "pixel": "1.1 m",
        "CRS": "EPSG:32612",
    },
    "envi_small/ang20150422t163638_corr_v1e_img_4000-4010_550-560.hdr": {
        **AVIRIS_NG,
        "pixel": "2.7 m",
        "CRS": "EPSG:32612",
    },
    "envi_small/emit20250324t221005_jpl_unmix_ex.hdr": {
        "size": "10 x 10 pixels",
        "bands": "285, 244 of them good",
        "wavelengths": "381-2493 nm",
        "CRS": "none",
        "units": "float32, value = stored x 1 + 0, nodata -9999.0",
        "bad bands": "128-142, 188-213",
    },
    "dlr_hysu_hyspex_3k/DLR_HySU_HS_full.hdr": HYSU,
    "dlr_hysu_hyspex_3k/DLR_HySU_HS_full.tif": HYSU,
    "enmap_potsdam_south/enmap_potsdam_south.tif": {
        "size": "128 x 128 pixels",
        "pixel": "30 m",
        "CRS": "EPSG:32633",
        "bands": "224, 218 of them good",
        "wavelengths": "418-2446 nm, not in order (detectors overlap?)",
        "bad bands": "130-135",
        "units": "int16, value = stored x 0.0001 + 0, nodata -32768.0",
        "valid pixels": "75.0 %",
    },
    "neon_harv_strip/harv_hsi.tif": {
        "size": "10 x 27 pixels",
        "pixel": "1 m",
        "CRS": "none",
        "bounds": "726499, 4699046, 726509, 4699073",
        "bands": "369, 369 of them good",
        "wavelengths": "unknown",
    },
}
REFERENCES = {
    "dlr_hysu_hyspex_3k/DLR_HySU_3K.tiff": {
        "size": "488 x 427 pixels",
        "pixel": "0.1311 m",
        "CRS": "EPSG:32632",
        "bands": 3,
        "units": "uint8",
    },
    "neon_harv_strip/harv_rgb.tif": {
        "size": "100 x 270 pixels",
        "pixel": "0.1 m",
        "CRS": "EPSG:32618",
        "bands": 3,
        "units": "uint8",
    },
}
REFUSED = {
    "dlr_hysu_hyspex_3k/DLR_HySU_HS_library.hdr": "spectral library",
    "dlr_hysu_hyspex_3k/DLR_HySU_SVC.hdr": "spectral library",
    "dlr_hysu_hyspex_3k/redMetal.hdr": "class image",
    "envi_small/ang20150420t182808_corr_v1e_img_class_4200-4210_70-80.hdr": "class image",
    "usgs_splib07_aviris95/s07_AV95_envi.hdr": "spectral library",
}
pytestmark = pytest.mark.data


def test_every_raster_of_the_data_is_known_here(data_dir):
    found = {str(p.relative_to(data_dir)) for s in ("hdr", "tif", "tiff") for p in data_dir.rglob(f"*.{s}")}
    assert found == {*HSI, *REFERENCES, *REFUSED}


@pytest.mark.parametrize("name", [*HSI, *REFERENCES])
def test_info_tells_the_right_numbers(data_dir, capsys, name):
    assert main(["info", str(data_dir / name), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    kind, expected = ("HSI", HSI[name]) if name in HSI else ("reference", REFERENCES[name])
    assert {key: facts[kind][key] for key in expected} == expected


def test_a_missing_crs_is_taken_from_the_reference_and_told(data_dir, capsys):
    strip = data_dir / "neon_harv_strip"
    assert main(["info", str(strip / "harv_hsi.tif"), str(strip / "harv_rgb.tif"), "--json"]) == 0
    told, said = capsys.readouterr()
    facts = json.loads(told)
    assert "the HSI names no CRS: that of the reference is assumed" in said
    assert (facts["HSI"]["CRS"], facts["product"]["CRS"]) == ("none", "EPSG:32618")
    assert facts["ratio"] == 10
    assert facts["overlap"].startswith("100 %")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_by_name(data_dir, capsys, name):
    assert main(["info", str(data_dir / name)]) == 3
    assert REFUSED[name] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["redMetal.hdr", "redMetal"])
def test_a_class_image_can_be_a_mask(data_dir, capsys, name):
    folder = data_dir / "dlr_hysu_hyspex_3k"
    command = ["info", str(folder / "DLR_HySU_HS_full.hdr"), "--json", "--hsi-mask", f"{folder / name}:1"]
    assert main(command) == 0
    valid = json.loads(capsys.readouterr().out)["HSI"]["valid pixels"]
    assert valid == f"{100 * (1 - 67 / (123 * 86)):.1f} %"  # its header: RedMetal, 67 points
