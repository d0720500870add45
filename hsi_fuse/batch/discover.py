"""Which images a folder holds, by what the files say of themselves; no pixels are read for it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hsi_fuse.acquisition import acquired
from hsi_fuse.errors import ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.read.guide import MOST_BANDS
from hsi_fuse.read.recognise import describe
from hsi_fuse.write.table import PRODUCTS

SIGNATURES = {
    **{b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF"},
    **{b"\x89HDF": "HDF5", b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000"},
    **{b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"<VRT": "VRT", b"ENVI": "ENVI"},
}
"""How the files begin that may hold an image; ENVI's is that of its header."""
SURELY_IMAGES = ("TIFF", "ENVI")
"""Of these, one that cannot be read is a broken image; of the others it may be anything."""


@dataclass(frozen=True)
class Image:
    """An image and what is known of it without reading its pixels.

    Attributes
    ----------
    path : Path
        As `run` takes it: of ENVI the header.
    files : tuple of Path
        All files that it is made of.
    grid : Grid
    bands : int
    time : datetime or None
        When it was taken, UTC.
    """

    path: Path
    files: tuple[Path, ...]
    grid: Grid
    bands: int
    time: datetime | None = None

    @property
    def hyperspectral(self) -> bool:
        """True where it has more bands than a reference may have."""
        return self.bands > MOST_BANDS


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes
    ----------
    hsis, references : tuple of Image
    unreadable : tuple of (Path, str)
        Images that cannot be used, and why.
    left_out : tuple of (Path, str)
        Files that may be images but are none of these, and why.
    """

    hsis: tuple[Image, ...]
    references: tuple[Image, ...]
    unreadable: tuple[tuple[Path, str], ...]
    left_out: tuple[tuple[Path, str], ...]


def find_images(folder: Path, without: Path | None = None) -> Found:
    """Look for images in a folder and the folders in it.

    Hidden files and products of this program are passed over.

    Parameters
    ----------
    folder : Path
    without : Path, optional
        A folder in it that is not looked into: where products go.

    Raises
    ------
    ReadError
        It is no folder.
    """
    if not folder.is_dir():
        raise ReadError(f"{folder} is not a folder; give the folder that holds the acquisitions")
    images: list[Image] = []
    claimed: set[Path] = set()
    unreadable: list[tuple[Path, str]] = []
    left_out: list[tuple[Path, str]] = []
    # headers and virtual rasters first: what they describe is one image with them
    candidates = _candidates(folder, without)
    for path, kind in sorted(candidates, key=lambda each: (each[1] not in ("ENVI", "VRT"), each[0])):
        if path in claimed:
            continue
        if _made_here(path):
            left_out.append((path, "a product of hsi-fuse"))
            continue
        try:
            if kind == "ENVI" and not _pictures(path):
                continue
            image = look_at(path)
        except ReadError as error:
            (unreadable if kind in SURELY_IMAGES else left_out).append((path, str(error)))
            continue
        images.append(image)
        claimed.update(image.files)
    ordered = sorted(images, key=lambda image: image.path)
    return Found(
        tuple(image for image in ordered if image.hyperspectral),
        tuple(image for image in ordered if not image.hyperspectral),
        tuple(unreadable),
        tuple(left_out),
    )


def look_at(path: Path) -> Image:
    """What an image says of itself.

    Raises
    ------
    ReadError
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run tells them again, of the images that it reads
        source = describe(path)
    files = tuple(dict.fromkeys((path, *source.files)))
    return Image(path, files, source.grid, source.bands, acquired(source.tags))


def _candidates(folder: Path, without: Path | None) -> Iterator[tuple[Path, str]]:
    """Files that begin as an image does, and what they seem to be."""
    avoided = None if without is None else without.resolve()
    for home, folders, names in os.walk(folder):
        here = Path(home)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != avoided)
        for name in sorted(names):
            if name.startswith(".") or name.endswith((".part", ".aux.xml")):
                continue
            kind = _kind(here / name)
            if kind is not None:
                yield here / name, kind


def _kind(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(16).removeprefix(b"\xef\xbb\xbf").lstrip(b" \r\n\t")
    except OSError:
        return None
    kind = next((kind for begin, kind in SIGNATURES.items() if start.startswith(begin)), None)
    # ENVI begins its tables of spectra with its name too
    return None if kind == "ENVI" and path.suffix.lower() != ".hdr" else kind


def _pictures(header: Path) -> bool:
    """False where an ENVI header describes classes or spectra."""
    with header.open("rb") as file:
        kind = [line for line in file.read(1 << 16).lower().splitlines() if line.startswith(b"file type")]
    return not any(word in line for line in kind for word in (b"library", b"classification"))


def _made_here(path: Path) -> bool:
    """Whether a product of ours stands there: it has a report and its figures beside it."""
    endings = ("", *(ending for product in PRODUCTS for ending in product.endings))
    stems = [path.stem] + [path.name.removesuffix(ending) for ending in endings if path.name.endswith(ending)]
    return any(path.with_name(f"{stem}_quality.json").exists() for stem in stems)
