"""Stage `fresco`: sharp texture where the guide does not reach, learned from where it does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import torch
from scipy import ndimage
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.overlap.extend import coefficients_of
from hsi_fuse.overlap.lessons import Lessons, LessonSettings, Sharpener, Taught
from hsi_fuse.overlap.strength import Strength, alone, with_examples
from hsi_fuse.overlap.texture import Ground, HeldOut, in_line, places
from hsi_fuse.overlap.unregistered import Unmixed, UnmixOptions, unmix_problem
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.subspace import fill_nearest

LEAST_PATCH, LEAST_PLACES = 6, 64
CROSS_SHARE = 4
"""By how much shorter than the last training those are that only tell how much of it to use."""
LEAST_CHANGED = 1e-3
"""Share of the scene without a guide below which there is nothing to do."""


@dataclass(frozen=True)
class Fresco(LessonSettings):
    """The second part of FRESCO (Song, Shrestha and Fu, arXiv 2026): a translator shared by all materials.

    The pair is unmixed (`unregistered`); one translator f learns to turn coarse abundance patches into sharp
    ones. A critic with a head for each material compares f(patches of the HSI) with patches of the guide,
    both at random angles: that the materials share f is what pins it down. Where the guide does not reach, f
    of the HSI's abundances replaces their interpolation; it fades in over half an HSI pixel from where the
    guide ends. What the guide shows stays as it is.

    Deviations: f is interpolation plus a small U-Net on coarse pixels, and of what the U-Net adds only that
    is taken which the HSI's sensor cannot see. So the way back g is the sensor itself, and the paper's losses
    that tie g(f) and the patches' means to what was coarse are nothing by construction. The guide's patches,
    made coarse, serve as pairs too (`paired`); they are turned by right angles, as interpolating them would
    blur them.

    What f misses on the guide's ground is carried over by example (`Examples`): most of the detail that the
    sensor cannot see does not follow from the coarse maps, and a mean over what it may be has no texture.

    How much of f and of the examples is used, short trainings tell, each on three quarters of the guide's
    ground: on the fourth its detail stands for what f does where it was taught nothing, and the fourth's
    examples come from the others. That share is taken which brings gradients nearest to the guide's while the
    error is not above interpolation's (`Strength`); if none beats interpolation in both, interpolation
    stays. Then f learns from all of the guide; of a seed's states, and of the seeds, the same rule chooses.

    Attributes
    ----------
    steps : int
    learning_rate : float
    flat : float, optional
        Fraction of the steps at the full rate, which then falls in a line; none: it rises and falls.
    width : int
        Channels of the translator and of the critic.
    patch : int
        Side of the coarse patches; less where the guide's ground is narrower.
    batch : int
        Patches in a step.
    shared : bool
        Whether the materials share one translator. The paper's own check is that they must.
    critic, paired : float
        Weights of the losses: the critic's (least squares), and pairs of the guide's own patches.
    consistency : int
        Steps of back-projection.
    seeds : int
        Trainings to choose from.
    examples : bool
        Whether what f misses is filled by example.
    unmix : UnmixOptions
    """

    seeds: int = 1
    examples: bool = True
    unmix: UnmixOptions = field(default_factory=UnmixOptions)

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Fill what `start` has without a guide."""
        result = self._refined(problem, start, on_step)
        on_step("fresco", self.steps, self.steps, 0.0)
        return result

    def _refined(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        open_to = _beyond(problem.guide_weight, problem.ratio)
        if problem.native is None and not bool((problem.guide_weight > 0).any()):
            return StageResult(start, {"kept": False, "reason": "there is no reference to learn from"})
        if float(open_to.mean()) < LEAST_CHANGED:
            return StageResult(start, {"kept": False, "reason": "the reference covers all of the scene"})
        unmixed = unmix_problem(problem, self.unmix, on_step)
        try:
            lessons = self._lessons(problem, start, unmixed)
            made = self._untaught(lessons, on_step)
            found = self._strength(lessons, made)
            verdict: dict[str, object] = {"kept": found.helps, **asdict(found)}
            if not found.helps:
                reason = "on a part of the reference held out it does no better than interpolation"
                return StageResult(start, {**verdict, "reason": reason}, unmixed=unmixed)
            tries = self._taught(lessons, on_step)
        except SolveError as error:
            return StageResult(start, {"kept": False, "reason": str(error)}, unmixed=unmixed)
        best = min(tries, key=lambda each: each.trained.best_score)
        verdict |= {"best_step": best.trained.best_step, "seeds": [each.trained.best_score for each in tries]}
        detail = self._detail(start, lessons, best.sharpener, found, made)
        filled = self._fill(problem, start, detail, open_to)
        return StageResult(filled, verdict, best.trained.history, unmixed=unmixed)

    def _lessons(self, problem: Problem, start: Estimate, unmixed: Unmixed) -> Lessons:
        """What the guide's ground teaches.

        Raises
        ------
        SolveError
            It is too small.
        """
        ratio, seen = problem.ratio, problem.hsi_weight > 0
        native = problem.native.weight if problem.native is not None else problem.guide_weight
        scale, share = _scales(unmixed, native, problem.hsi_weight, problem.sensor.psf, ratio)
        ground = Ground.of(problem, start, unmixed, scale, share, self.consistency)
        height, width = ground.valid.shape
        sharp = fill_nearest(unmixed.fine / scale, native)[:, :height, :width]
        fitting = (
            side
            for side in range(self.patch, LEAST_PATCH - 1, -2)
            if all(int(places(taught, side * ratio).sum()) >= LEAST_PLACES for taught in _rests(ground))
            and int(places(seen, side).sum()) >= LEAST_PLACES // ratio**2
        )
        side = next(fitting, 0)
        if not side:
            raise SolveError("the reference shows too little ground to learn its texture from")
        return Lessons(self, problem, ground, sharp, share * unmixed.coarse / scale, side)

    def _untaught(self, lessons: Lessons, on_step: OnStep) -> Tensor:
        """What translators make of the ground (k, H, W), each of the part that it was not taught."""
        ground, problem = lessons.ground, lessons.problem
        steps, made = max(self.steps // CROSS_SHARE, 1), torch.zeros_like(ground.detail)
        for number, (part, rest) in enumerate(zip(ground.quarters(), _rests(ground), strict=True)):
            taught = lessons.teach(rest, part, steps, problem.seed + number, on_step)
            made = torch.where(part, ground.mixed(taught.sharpener(ground.maps)), made)
        return made

    def _strength(self, lessons: Lessons, made: Tensor) -> Strength:
        """How much of the translator's detail and of examples is best on the ground."""
        problem, ground = lessons.problem, lessons.ground
        if self.examples:
            return with_examples(problem, ground, made, lessons.unseen)
        return alone(problem, HeldOut.of(ground, ground.valid, problem.ratio), made)

    def _taught(self, lessons: Lessons, on_step: OnStep) -> list[Taught]:
        """By seed, of all the ground."""
        everywhere, first = lessons.ground.valid, lessons.problem.seed
        seeds = range(first, first + self.seeds)
        return [lessons.teach(everywhere, everywhere, self.steps, seed, on_step) for seed in seeds]

    def _detail(
        self, start: Estimate, lessons: Lessons, sharpener: Sharpener, found: Strength, made: Tensor
    ) -> Tensor:
        """What the HSI's maps and image suggest, (k, H, W) in the basis of `start`."""
        problem, ground = lessons.problem, lessons.ground
        detail = found.gain * ground.mixed(sharpener(lessons.maps))
        if found.examples:
            missed = ground.detail - found.gain * made
            hsi = fill_nearest(problem.hsi, problem.hsi_weight)
            coarse = coefficients_of(ground.sharp, hsi, problem.hsi_noise)
            pasted = ground.examples(missed, problem.ratio, None, problem.seed).pasted(coarse)
            detail = detail + found.examples * lessons.unseen(pasted)
        spectra = ground.sharp.basis + start.mean[:, None]
        return torch.tensordot(coefficients_of(start, spectra, problem.hsi_noise), detail, dims=1)

    def _fill(self, problem: Problem, start: Estimate, detail: Tensor, open_to: Tensor) -> Estimate:
        """`start` with a detail (k, H, W), as far as pixels are open to it (H, W)."""
        low = coefficients_of(start, fill_nearest(problem.hsi, problem.hsi_weight), problem.hsi_noise)
        psf, ratio = problem.sensor.psf, problem.ratio
        found = in_line(start.coefficients, low, psf, ratio, self.consistency, open_to)
        return replace(start, coefficients=found + open_to * detail)


def _rests(ground: Ground) -> list[Tensor]:
    """The ground without each of its parts, (H, W) bool each."""
    return [ground.valid & ~part for part in ground.quarters()]


def _scales(
    unmixed: Unmixed, native: Tensor, hsi_weight: Tensor, psf: Tensor, ratio: int
) -> tuple[Tensor, Tensor]:
    """By what abundances are divided so that materials count alike, and the share of the HSI's: (K, 1, 1).

    Where the HSI's map varies more than the guide's, made coarse, it holds what the translator never saw:
    what the guide cannot tell from other materials, and noise. Then less of it is made sharp.
    """
    height, width = (size // ratio * ratio for size in native.shape)
    whole = blur_down((native[:height, :width] > 0).to(psf)[None], psf, ratio)[0] > 0.99
    seen = blur_down(unmixed.fine[:, :height, :width], psf, ratio)
    guide, hsi = (
        maps[:, where].std(1) if int(where.sum()) > 1 else maps.flatten(1).std(1)
        for maps, where in ((seen, whole), (unmixed.coarse, hsi_weight > 0))
    )
    scale = unmixed.fine.flatten(1).std(1).clamp_min(1e-3)
    return scale[:, None, None], (guide / hsi.clamp_min(1e-9)).clamp(max=1)[:, None, None]


def _beyond(guide_weight: Tensor, ratio: int) -> Tensor:
    """0 where there is a guide, rising to 1 within half an HSI pixel of it: (H, W)."""
    away = ndimage.distance_transform_edt((guide_weight <= 0).cpu().numpy())
    if not bool((guide_weight > 0).any()):
        return torch.ones_like(guide_weight)
    return torch.from_numpy(away).to(guide_weight).div(ratio / 2).clamp(max=1)
