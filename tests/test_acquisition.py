"""When an image was taken: by the tags of any file, and by those of products."""

from datetime import UTC, datetime

import pytest

from hsi_fuse.acquisition import KEY, acquired, tag_of

NOON = datetime(2022, 7, 24, 10, 45, 26, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tags", "time"),
    [
        ({"acquisition time": "2022-07-24T10:45:26.0Z"}, NOON),
        ({"Acquisition Time": "2022-07-24T12:45:26+02:00"}, NOON),
        ({"acquisition time": "{2022-07-24 10:45:26}"}, NOON),
        ({"EXIF_DateTimeOriginal": "2022:07:24 10:45:26"}, NOON),
        ({"time_coverage_start": "2022-07-24T10:45:26+0000"}, NOON),
        ({"acquisition date": "2022-07-24", "acquisition time": "noon"}, datetime(2022, 7, 24, tzinfo=UTC)),
        ({"acquisition date": "2022-07-24", "acquisition time": "2022-07-24T10:45:26"}, NOON),
        ({"TIFFTAG_DATETIME": "2022:07:24 10:45:26"}, None),  # when the file was written
        ({"acquisition time": "in July"}, None),
        ({"acquisition time": "0001-01-01T00:00:00+05:00"}, None),
        ({}, None),
    ],
)
def test_the_surest_tag_that_holds_a_time_counts(tags, time):
    assert acquired(tags) == time


@pytest.mark.parametrize("text", ["2022-07-24T10:45:26.000000Z", b"2022-07-24T10:45:26"])
def test_what_a_product_says_is_found_again_under_its_tag(text):
    assert acquired(tag_of(text)) == NOON


@pytest.mark.parametrize("text", [None, "", b"\xff", "soon"])
def test_what_is_no_time_makes_no_tag(text):
    assert KEY not in tag_of(text)
