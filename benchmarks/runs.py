"""One run of the fusion benchmark: simulate a pair, fuse it, compare with truth, in a process of its own.

A method is a preset's list of stages. Blind: SRF, PSF and the guide's noise are learned from the pair. Given:
SRF and PSF are the true ones, as with `--srf` and `--psf`, the rest is learned. True: all of it is given. The
noise of the HSI is always estimated.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from torch import Tensor

from benchmarks.scenes import load, measured_guide
from hsi_fuse.errors import HsiFuseError
from hsi_fuse.physics import mix_bands
from hsi_fuse.preset import Preset, load_preset
from hsi_fuse.problem import Estimate, Problem, silent
from hsi_fuse.quality.metrics import ergas, psnr, psnr_global, q2n, sam_deg, ssim, uiqi
from hsi_fuse.sensors.known import KnownSensor
from hsi_fuse.sensors.sense import Sensing, sense
from hsi_fuse.simulation.simulate import ObservedPair, find_protocol, observe
from hsi_fuse.solving import run_stages
from hsi_fuse.subspace import estimate_noise, interpolate

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT: Any = multiprocessing.get_context(METHOD)  # each start method has a type of its own
MEBI = 1 << 20


@dataclass(frozen=True)
class Job:
    """What to run, in words; `sensor` is "blind", "given" or "true", "none" where the method uses none."""

    scene: str
    protocol: str
    method: str
    sensor: str
    seed: int


@dataclass(frozen=True)
class Score:
    """One run's line of the CSV. Figures are NaN where it failed."""

    scene: str
    protocol: str
    method: str
    sensor: str
    seed: int
    psnr_db: float = math.nan
    """Each band against its own peak."""
    psnr_global_db: float = math.nan
    sam_deg: float = math.nan
    ergas: float = math.nan
    ssim: float = math.nan
    uiqi: float = math.nan
    q2n: float = math.nan
    wall_s: float = math.nan
    cpu_s: float = math.nan
    """Processor seconds, of all threads."""
    peak_mb: float = math.nan
    """Largest resident memory of the run's process (MiB), python, torch and the pair included."""
    failure: str = ""


def score(job: Job) -> Score:
    """Run a job in this process; time is that of learning the sensors and of the stages."""
    made, pair, spent = solve(job)
    keep = pair.guide_valid & (pair.truth > 0).any(0)  # (H, W)
    cube, truth = made.rows(0, made.shape[1]), pair.truth
    where: dict[str, Any] = {"mask": keep, "border": pair.sensor.ratio}
    return Score(
        *(job.scene, job.protocol, job.method, job.sensor, job.seed),
        psnr_db=psnr(cube, truth, **where),
        psnr_global_db=psnr_global(cube, truth, **where),
        sam_deg=sam_deg(cube, truth, **where).mean,
        ergas=ergas(cube, truth, pair.sensor.ratio, **where),
        ssim=ssim(cube, truth, **where),
        uiqi=uiqi(cube, truth, **where),
        q2n=q2n(cube, truth, **where),
        **spent,
    )


def solve(job: Job) -> tuple[Estimate, ObservedPair, dict[str, Any]]:
    """The estimate, the pair it was made of, and what it took."""
    pair, preset = pair_of(job), load_preset(job.method)
    wall, cpu = time.perf_counter(), time.process_time()
    problem = problem_of(pair, job.sensor, job.seed, preset)
    estimate, _ = run_stages(problem, interpolate(problem), preset, silent)
    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": peak_mb()}
    return estimate, pair, spent


def pair_of(job: Job) -> ObservedPair:
    """The scene as the protocol observes it; `x3-ali` by the real ALI where the scene has one."""
    truth, wavelengths_nm = load(job.scene)
    pair = observe(truth, wavelengths_nm, find_protocol(job.protocol), job.seed)
    measured = measured_guide(job.scene)
    if job.protocol != "x3-ali" or measured is None:
        return pair
    return with_measured(pair, *measured)


def with_measured(pair: ObservedPair, guide: Tensor, srf: Tensor) -> ObservedPair:
    """The pair with a guide (m, H, W) that was measured, not simulated.

    As the true sensor serve the documented responses (m, n), each with the gain and the offset that bring the
    truth closest to the guide; what is left over counts as the guide's noise.
    """
    height, width = pair.truth.shape[1:]
    guide = guide[:, :height, :width].contiguous()
    seen = mix_bands(pair.truth, srf / srf.sum(1, keepdim=True)).flatten(1).double()  # (m, pixels)
    wanted = guide.flatten(1).double()
    mean, goal = seen.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
    gain = ((seen - mean) * (wanted - goal)).sum(1) / ((seen - mean) ** 2).sum(1)
    offset = goal[:, 0] - gain * mean[:, 0]
    noise = (wanted - gain[:, None] * seen - offset[:, None]).std(1)
    rows = gain[:, None].float() * srf / srf.sum(1, keepdim=True)
    sensor = replace(pair.sensor, srf=rows, offset=offset.float())
    return replace(pair, guide=guide, sensor=sensor, guide_noise=noise.float())


def problem_of(pair: ObservedPair, sensor: str, seed: int, preset: Preset) -> Problem:
    """What a method may see of a registered pair: all weights 1; the sensor as in `Job`."""
    hsi_weight, guide_weight = torch.ones(pair.hsi.shape[1:]), pair.guide_valid.float()
    model, guide_noise = pair.sensor, _at_least(pair.guide_noise, pair.guide)
    if sensor != "true":
        known = KnownSensor(pair.sensor.srf, psf=pair.sensor.psf) if sensor == "given" else KnownSensor()
        how = Sensing(preset.sense, known)
        sensed = sense(pair.hsi, hsi_weight, pair.guide, guide_weight, pair.sensor.ratio, how)
        model, guide_noise = sensed.sensor, _at_least(sensed.guide_noise, pair.guide)
    noise = estimate_noise(pair.hsi, hsi_weight)
    return Problem(pair.hsi, hsi_weight, pair.guide, guide_weight, model, noise, guide_noise, seed)


def _at_least(noise: Tensor, image: Tensor) -> Tensor:
    """A protocol without noise still leaves the solver a positive deviation."""
    return torch.maximum(noise, 1e-4 * image.flatten(1).std(1))


def peak_mb() -> float:
    """Largest resident memory that this process has had, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return getrusage(RUSAGE_SELF).ru_maxrss * unit / MEBI


# --- processes ---------------------------------------------------------------------------------------------


def scores_of(jobs: Sequence[Job], workers: int, threads: int) -> Iterator[Score]:
    """Run the jobs, each in a fresh process of some threads, `workers` at a time; scores in their order."""
    if METHOD == "forkserver":
        CONTEXT.set_forkserver_preload(["benchmarks.runs"])  # each process then starts with torch loaded
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda job: _in_its_own_process(job, threads), jobs)


def _in_its_own_process(job: Job, threads: int) -> Score:
    """Its peak memory is then its own, and one that is killed takes no other with it."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(sender, job, threads))
    process.start()
    sender.close()  # so that the end of the process ends the waiting
    try:
        found: Score = receiver.recv()
    except EOFError:
        process.join()
        found = _failed(job, f"its process ended with code {process.exitcode}")
    process.join()
    return found


def _work(sender: Connection, job: Job, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        found = score(job)
    except (HsiFuseError, FileNotFoundError) as e:
        found = _failed(job, f"{type(e).__name__}: {e}")
    sender.send(found)


def _failed(job: Job, why: str) -> Score:
    return Score(job.scene, job.protocol, job.method, job.sensor, job.seed, failure=why)
