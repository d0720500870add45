"""Wavelengths, however a file writes them -> nanometres."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hsi_fuse.errors import ReadError
from hsi_fuse.read.source import Numbers, Spectrum, brief, warn
from hsi_fuse.read.store import Flags
from hsi_fuse.sensors.nominal import hsi_bands, sensor_names

_NM_PER_UNIT = {
    **dict.fromkeys(("nanometers", "nanometer", "nanometres", "nanometre", "nm"), 1.0),
    **dict.fromkeys(("micrometers", "micrometer", "micrometres", "micrometre"), 1e3),
    **dict.fromkeys(("microns", "micron", "um", "µm", "μm"), 1e3),
}
SPAN = re.compile(
    r"([0-9]+(?:\.[0-9]*)?)\s*(?:-|\u2013|to|\.\.)\s*([0-9]+(?:\.[0-9]*)?)\s*("
    + "|".join(sorted(_NM_PER_UNIT, key=len, reverse=True))
    + r")\b",
    re.I,
)
_UNKNOWN = ("", "unknown", "none", "undefined")
# Imaging spectrometers see from the near ultraviolet to the thermal infrared.
SHORTEST_NM, LONGEST_NM = 100.0, 30_000.0


def numbers(texts: Sequence[str], field: str, where: Path | str, count: int | None = None) -> Numbers:
    """Parse a field's entries, or say which one is no number.

    Raises
    ------
    ReadError
        If an entry is not a number, or there are not `count` of them.
    """
    if count is not None and len(texts) != count:
        raise ReadError(
            f"{where}: {field} has {len(texts)} entries for {count} bands; write one entry for each band"
        )
    out = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            out[i] = float(text)
        except ValueError:
            raise ReadError(
                f"{where}: entry {i + 1} of {field} is {brief(text)}, not a number; correct the header"
            ) from None
    return out


def to_nm(values: Numbers, unit: str | None, where: Path | str) -> tuple[Numbers | None, float]:
    """Wavelengths in nm and the factor that made them so, to be used for the FWHM too.

    The unit is inferred, with a warning, where it is missing, unknown, or contradicts the numbers; values
    that fit no unit are dropped with a warning.

    Parameters
    ----------
    values : ndarray (band,)
    unit : str or None
        As the file writes it.
    """
    declared = (unit or "").strip().lower()
    factor = _NM_PER_UNIT.get(declared)
    if factor is None and declared not in _UNKNOWN:
        warn(
            f"{where}: wavelength unit {brief(unit or '')} is not nanometres or micrometres; "
            "wavelengths are not used"
        )
        return None, 1.0
    if factor is not None and _plausible(values * factor):
        return values * factor, factor
    counted = len(values) > 1 and bool(np.all(np.diff(values) == 1)) and values[0] in (0, 1)  # band numbers
    for factor, name in ((1.0, "nanometres"), (1e3, "micrometres")):
        if not counted and _plausible(values * factor):
            said = brief(unit or "") if declared else "missing"
            warn(f"{where}: the wavelength unit is {said}; values {_span(values)} are taken as {name}")
            return values * factor, factor
    warn(f"{where}: wavelengths {_span(values)} fit neither nanometres nor micrometres; they are not used")
    return None, 1.0


def spans_of(names: Sequence[str]) -> tuple[Numbers, Numbers] | None:
    """Centres and widths (nm) of bands that are named by their edges: "450-520 nm", "0.45 to 0.52 um".

    None unless every name holds one such span, the lower edge first.
    """
    found = [SPAN.findall(name) for name in names]
    if not found or any(len(spans) != 1 for spans in found):
        return None
    lower, upper = (
        np.array([float(span[edge]) * _NM_PER_UNIT[span[2].lower()] for (span,) in found]) for edge in (0, 1)
    )
    if not (_plausible(lower) and _plausible(upper) and np.all(upper > lower)):
        return None
    return (lower + upper) / 2, upper - lower


def spectrum_of(
    wavelengths: Numbers | None, fwhm: Numbers | None, unit: str | None, good: Flags | None, where: Path | str
) -> Spectrum:
    """What a file says of its bands, in nm as far as it makes sense; FWHM are in the wavelengths' unit."""
    if wavelengths is None:
        return Spectrum(flagged_good=good)
    wavelengths_nm, factor = to_nm(wavelengths, unit, where)
    if wavelengths_nm is None or fwhm is None:
        return Spectrum(wavelengths_nm, None, good)
    return Spectrum(wavelengths_nm, fwhm_to_nm(fwhm, factor, where), good)


def fwhm_to_nm(values: Numbers, factor: float, where: Path | str) -> Numbers | None:
    """Band widths in nm; None with a warning where they make no sense (they default to the band spacing)."""
    if np.all(np.isfinite(values)) and np.all(values > 0) and np.all(values * factor < 2000):
        return values * factor
    warn(f"{where}: fwhm {_span(values)} makes no sense as band widths; it is not used")
    return None


def read_wavelength_file(path: str | Path, bands: int) -> tuple[Numbers, Numbers | None]:
    """Wavelengths and, from a second column, FWHM from a text file; or those of a spectrometer that ships.

    One band a line, in file order; columns separated by comma, semicolon or blanks; `#` starts a comment;
    a first line of names may say the unit ("nm", "um") and which columns are wavelength and fwhm.

    Parameters
    ----------
    path : path
        Or the name of a spectrometer, such as "prisma" (`nominal.sensor_names("hsi")`).
    bands : int
        Number of bands expected.

    Returns
    -------
    wavelengths_nm : ndarray (band,)
    fwhm_nm : ndarray (band,) or None

    Raises
    ------
    ReadError
        If the file cannot be read, has another number of lines, or holds something else than wavelengths.
    """
    path = Path(path)
    if str(path) in sensor_names("hsi") and not path.exists():
        centres, widths = hsi_bands(str(path))
        if len(centres) != bands:
            raise ReadError(
                f"sensor {path} has {len(centres)} bands and the file {bands}: give its wavelengths as a file"
            )
        return centres, widths
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError(f"cannot read the wavelength file {path}: {error}") from error
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    rows = [[cell for cell in re.split(r"[,;\s]+", line) if cell] for line in lines if line]
    names = [cell.lower() for cell in rows.pop(0)] if rows and not _is_number(rows[0][0]) else []
    if len(rows) != bands:
        raise ReadError(f"{path} has {len(rows)} wavelengths for {bands} bands; write one line for each band")
    first, second = _columns(names, min(map(len, rows)))
    values = numbers([row[first] for row in rows], "the wavelength column", path)
    found, factor = to_nm(values, _unit_in(names), path)
    if found is None:
        raise ReadError(f"{path}: wavelengths {_span(values)} fit neither nanometres nor micrometres")
    if second is None:
        return found, None
    return found, fwhm_to_nm(numbers([row[second] for row in rows], "the fwhm column", path), factor, path)


def _columns(names: list[str], width: int) -> tuple[int, int | None]:
    named = [i for i, n in enumerate(names) if n.startswith(("wavelength", "center", "centre"))]
    widths = [i for i, n in enumerate(names) if n.startswith("fwhm")]
    first = named[0] if named and named[0] < width else 0
    if names:
        return first, widths[0] if widths and widths[0] < width else None
    return first, 1 if width > 1 else None


def _unit_in(names: list[str]) -> str | None:
    words = re.split(r"[^a-zµμ]+", " ".join(names))
    return next((word for word in words if word in _NM_PER_UNIT), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plausible(values_nm: Numbers) -> bool:
    return bool(
        np.all(np.isfinite(values_nm)) and np.all((values_nm >= SHORTEST_NM) & (values_nm <= LONGEST_NM))
    )


def _span(values: Numbers) -> str:
    return f"{np.min(values):g}..{np.max(values):g}"
