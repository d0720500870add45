"""When an image was taken, by what its file says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

KEY = "acquisition time"
"""The tag under which readers of products put it; ENVI headers call it so too."""
KEYS = (
    *("acquisition_time", "acquisitiondatetime", "acquisition_date_time", "datetime", "sensing_time"),
    *("datatake_start", "time_coverage_start", "product_starttime", "start_time", "starttime"),
    *("exif_datetimeoriginal", "acquisition_date", "date_acquired"),
)
"""Tags that tell it, in lower case and with underscores, the surest first; none is a time of writing."""


def acquired(tags: Mapping[str, str]) -> datetime | None:
    """When an image with these tags was taken, in UTC, which is meant too where no zone is named."""
    named = {key.lower().replace(" ", "_").replace("-", "_"): str(value) for key, value in tags.items()}
    times = (_time(named[key]) for key in KEYS if key in named)
    return next((time for time in times if time is not None), None)


def tag_of(text: str | bytes | None) -> dict[str, str]:
    """The tag for a time as a product writes it; none where that is missing or no time."""
    time = _time(text.decode("ascii", "replace") if isinstance(text, bytes) else str(text or ""))
    return {} if time is None else {KEY: time.isoformat()}


def _time(text: str) -> datetime | None:
    text = text.strip(" {}\"'\n")
    if text[4:5] == ":" == text[7:8]:  # as EXIF has it
        text = text[:10].replace(":", "-") + text[10:]
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter: a zone beyond the first or last year
        return None
