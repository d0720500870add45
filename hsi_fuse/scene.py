"""One scene as one function call: two files in, the product and all that stands beside it out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hsi_fuse.blocks import DEFAULT_MEMORY, Memory
from hsi_fuse.checkpoints import discard
from hsi_fuse.errors import GridError, PresetError
from hsi_fuse.inputs import Inputs
from hsi_fuse.pipeline import fuse
from hsi_fuse.planning import Plan, plan
from hsi_fuse.preset import Preset, describe
from hsi_fuse.problem import OnStep, silent
from hsi_fuse.raster import Raster
from hsi_fuse.read import Guide, Parts
from hsi_fuse.sensors.known import SensorWords
from hsi_fuse.write import (
    ON_REQUEST,
    CompactDtype,
    Driver,
    check_outputs,
    endings_with,
    refusal_reported,
    save,
    stored_as,
)


@dataclass(frozen=True)
class RunSettings:
    """Everything that a run may be told besides its files; the same for all scenes of a batch.

    Attributes
    ----------
    preset : Preset
    scale : int or None
        Fine pixels per HSI pixel; None: from the ground sampling distances.
    wavelengths : Path or None
        Text file with one wavelength for each HSI band, or the name of a spectrometer.
    sensors : SensorWords
        What need not be learned of the sensors.
    products : tuple of str
        Which of `write.ON_REQUEST` to write too.
    extent : "hsi", "guide" or "union"
        Whose ground the product covers.
    unaligned : bool
        Register nothing.
    compact_dtype : "float32" or "int16"
        How the compact product keeps its coefficients.
    driver : "GTiff", "ENVI" or "COG"
    creation_options : tuple of (str, str)
        Of the GDAL driver.
    nodata : float or None
        Stored value that marks no data; None: the HSI's.
    device : str
        "auto", "cpu" or "cuda".
    seed : int
    threads : int or None
        CPU threads; None: as many as the machine has.
    max_memory : int
        Bytes that a run may use; larger scenes are solved in blocks.

    Raises
    ------
    GridError, PresetError
        A value that cannot be.
    """

    preset: Preset
    scale: int | None = None
    wavelengths: Path | None = None
    sensors: SensorWords = field(default_factory=SensorWords)
    products: tuple[str, ...] = ()
    extent: str = "hsi"
    unaligned: bool = False
    compact_dtype: CompactDtype = "float32"
    driver: Driver = "GTiff"
    creation_options: tuple[tuple[str, str], ...] = ()
    nodata: float | None = None
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    max_memory: int = DEFAULT_MEMORY

    def __post_init__(self) -> None:
        if self.scale is not None and self.scale < 1:
            raise GridError(f"--scale must be a whole number of at least 1, got {self.scale}")
        if self.threads is not None and self.threads < 1:
            raise PresetError(f"--threads must be a whole number of at least 1, got {self.threads}")
        unknown = [name for name in self.products if name not in ON_REQUEST]
        if unknown:
            raise PresetError(f"unknown product {unknown[0]!r}; valid: {', '.join(ON_REQUEST)}")

    def to_dict(self) -> dict[str, Any]:
        """All of it, every setting of the preset included; JSON-ready."""
        preset = {key: value for key, value in describe(self.preset).items() if key != "description"}
        return {
            "preset": preset,
            "scale": self.scale,
            "wavelengths": None if self.wavelengths is None else str(self.wavelengths),
            "sensors": {key: value and str(value) for key, value in asdict(self.sensors).items()},
            "products": list(self.products),
            "extent": self.extent,
            "unaligned": self.unaligned,
            "compact_dtype": self.compact_dtype,
            "driver": self.driver,
            "creation_options": dict(self.creation_options),
            "nodata": self.nodata,
            "device": self.device,
            "seed": self.seed,
            "threads": self.threads,
            "max_memory": self.max_memory,
        }


@dataclass(frozen=True)
class Job:
    """One scene to be run.

    Attributes
    ----------
    hsi, reference : Path
    output : Path
        The product; the side products take its stem.
    settings : RunSettings
    displacement : Path or None
        A displacement file to follow instead of searching the mapping.
    overwrite : bool
        Whether outputs that exist are replaced.
    parts : Parts
        Which parts of the inputs take part.
    checkpoints : Path or None
        Folder for the states of the trainings; they are removed once the product stands.
    """

    hsi: Path
    reference: Path
    output: Path
    settings: RunSettings
    displacement: Path | None = None
    overwrite: bool = False
    parts: Parts = field(default_factory=Parts)
    checkpoints: Path | None = None

    @property
    def inputs(self) -> Inputs:
        """What it is made of."""
        how = self.settings
        return Inputs(self.hsi, self.reference, self.parts, how.sensors, how.wavelengths, self.displacement)


def run_scene(job: Job, on_step: OnStep = silent) -> list[Path]:
    """Fuse one scene and write what comes of it.

    Parameters
    ----------
    job : Job
    on_step : callable
        Progress.

    Returns
    -------
    list of Path
        The files, the product first.

    Raises
    ------
    HsiFuseError
        Of any kind. Nothing is left behind then but, after a RefusedError, a report of what was tried.
    """
    how = job.settings
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    image, guide = _opened(job)
    with refusal_reported(job.output, job.overwrite):
        result = fuse(
            image,
            guide,
            how.preset,
            scale=how.scale,
            known=how.sensors.known(image, guide.bands),
            displacement=job.displacement,
            extent=how.extent,
            unaligned=how.unaligned,
            uncertainty="uncertainty" in how.products,
            device=how.device,
            seed=how.seed,
            memory=Memory(how.max_memory, job.output.parent, spread="uncertainty" in how.products),
            checkpoints=job.checkpoints,
            on_step=on_step,
        )
        written = save(
            result,
            job.output,
            products=how.products,
            driver=how.driver,
            creation_options=dict(how.creation_options),
            overwrite=job.overwrite,
            nodata=how.nodata,
            compact_dtype=how.compact_dtype,
            inputs=job.inputs,
            on_step=on_step,
        )
    if job.checkpoints is not None:
        discard(job.checkpoints)
    return written


def plan_scene(job: Job) -> Plan:
    """What `run_scene` would do, by the same checks.

    Raises
    ------
    HsiFuseError
    """
    image, guide = _opened(job)
    return plan(image, guide, job.settings.scale, job.settings.sensors.known(image, guide.bands))


def _opened(job: Job) -> tuple[Raster, Guide]:
    """The two inputs, once it is sure that what comes of them can be kept."""
    how = job.settings
    check_outputs(job.output, how.driver, job.overwrite, endings_with(how.products))
    image, guide = job.parts.of(job.hsi, job.reference, how.wavelengths)
    stored_as(image.encoding, how.nodata)
    return image, guide
