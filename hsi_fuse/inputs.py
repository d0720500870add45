"""What a result is made of, as its provenance tells it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hsi_fuse.read import Parts
from hsi_fuse.record import files_of, fingerprints
from hsi_fuse.sensors.known import SensorWords


@dataclass(frozen=True)
class Inputs:
    """The files of a pair, what of them took part, and what was known beforehand.

    Attributes
    ----------
    hsi, reference : Path
    parts : Parts
        The box, and the masks.
    sensors : SensorWords
    wavelengths : Path or None
        Text file, or the name of a spectrometer.
    displacement : Path or None
        The file that was followed.
    """

    hsi: Path
    reference: Path
    parts: Parts = field(default_factory=Parts)
    sensors: SensorWords = field(default_factory=SensorWords)
    wavelengths: Path | None = None
    displacement: Path | None = None

    def provenance(self) -> dict[str, Any]:
        """All of it, every file with its size and SHA-256; JSON-ready."""
        said = (*self.parts.files, *self.sensors.files.values(), self.wavelengths, self.displacement)
        files = [*files_of(self.hsi), *files_of(self.reference)]
        files += [path for path in said if path is not None and path.is_file()]
        known = {**asdict(self.sensors), "wavelengths": self.wavelengths}
        return {
            "inputs": fingerprints(files),
            "parts": self.parts.to_dict(),
            "known": {name: None if value is None else str(value) for name, value in known.items()},
        }
