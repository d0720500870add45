"""Stage `fresco`: sharp texture where the guide does not reach, learned from where it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from scipy import ndimage
from torch import Tensor, nn

from hsi_fuse.errors import SolveError
from hsi_fuse.nets.translator import Critic, Sharpen, SharpenEach
from hsi_fuse.optimise import Schedule, Trained, train
from hsi_fuse.overlap.extend import coefficients_of
from hsi_fuse.overlap.texture import HeldOut, Patches, in_line, places, split
from hsi_fuse.overlap.unregistered import Unmixed, UnmixOptions, unmix_problem
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.subspace import fill_nearest, upsample

LEAST_PATCH, LEAST_PLACES = 6, 64
GAINS = tuple(0.25 * i for i in range(13))
MARGIN_DB = 0.3
CHECKS = 10
"""Looks at the ground that judges, in a training."""
ADVERSARIAL_EVERY = 2
"""Steps from one with the critic to the next, where there are pairs: it costs more than all else."""
LEAST_CHANGED = 1e-3
"""Share of the scene without a guide below which there is nothing to do."""


@dataclass(frozen=True)
class Fresco:
    """The second part of FRESCO (Song, Shrestha and Fu, arXiv 2026): a translator shared by all materials.

    The pair is unmixed (`unregistered`); one translator f learns to turn coarse abundance patches into sharp
    ones. A critic with a head for each material compares f(patches of the HSI) with patches of the guide,
    both at random angles: that the materials share f is what pins it down. Where the guide does not reach, f
    of the HSI's abundances replaces their interpolation; it fades in over an HSI pixel from where the guide
    ends. What the guide shows stays as it is.

    Deviations: f is interpolation plus a small U-Net on coarse pixels, and of what the U-Net adds only that
    is taken which the HSI's sensor cannot see. So the way back g is the sensor itself, and the paper's losses
    that tie g(f) and the patches' means to what was coarse are nothing by construction. The guide's patches,
    made coarse, serve as pairs too (`paired`); they are turned by right angles, as interpolating them would
    blur them.

    A part of the guide is held out in a first, shorter training: if f does not beat interpolation there, in
    error and in the distribution of gradients, interpolation stays. Then f learns from all of the guide. Of
    each seed's states, of the seeds, and of how much of the detail is used, that is taken which brings
    gradients nearest to the guide's on its ground while a margin over interpolation's error is left.

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
    seeds : int
        Trainings to choose from.
    shared : bool
        Whether the materials share one translator. The paper's own check is that they must.
    critic, paired : float
        Weights of the losses: the critic's (least squares), and pairs of the guide's own patches.
    consistency : int
        Steps of back-projection.
    unmix : UnmixOptions
    """

    steps: int = 1000
    learning_rate: float = 2e-3
    flat: float | None = None
    width: int = 24
    patch: int = 8
    batch: int = 16
    seeds: int = 1
    shared: bool = True
    critic: float = 0.01
    paired: float = 1.0
    consistency: int = 12
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
            learned = self._learn(problem, unmixed, on_step)
        except SolveError as error:
            return StageResult(start, {"kept": False, "reason": str(error)}, unmixed=unmixed)
        if learned.sharpener is None:
            reason = "on a part of the reference held out it does no better than interpolation"
            return StageResult(start, {**learned.verdict, "reason": reason}, unmixed=unmixed)
        maps = learned.sharpener(learned.share * unmixed.coarse / learned.scale)
        detail = learned.gain * learned.scale * maps
        found = self._fill(problem, start, unmixed.spectra, detail, open_to)
        return StageResult(found, learned.verdict, learned.history, unmixed=unmixed)

    def _fill(
        self, problem: Problem, start: Estimate, ends: Tensor, detail: Tensor, open_to: Tensor
    ) -> Estimate:
        """`start` with detail (K, H, W) of endmembers (n, K), as far as pixels are open to it (H, W)."""
        ratio, psf = problem.ratio, problem.sensor.psf
        spectra = coefficients_of(start, ends + start.mean[:, None], problem.hsi_noise)  # (k, K)
        added = torch.tensordot(spectra, detail, dims=1)
        low = coefficients_of(start, fill_nearest(problem.hsi, problem.hsi_weight), problem.hsi_noise)
        found = in_line(start.coefficients, low, psf, ratio, self.consistency, open_to)
        return replace(start, coefficients=found + open_to * added)

    def _learn(self, problem: Problem, unmixed: Unmixed, on_step: OnStep) -> _Learned:
        """The translator, and what it does on a part of the guide held out.

        Raises
        ------
        SolveError
            The guide is too small to learn from, or training diverged.
        """
        ratio, psf, seen = problem.ratio, problem.sensor.psf, problem.hsi_weight > 0
        native = problem.native.weight if problem.native is not None else problem.guide_weight
        scale, share = _scales(unmixed, native, problem.hsi_weight, psf, ratio)
        held, taught = split(native > 0, ratio)
        fitting = (
            side
            for side in range(self.patch, LEAST_PATCH - 1, -2)
            if int(places(taught, side * ratio).sum()) >= LEAST_PLACES
            and int(places(seen, side).sum()) >= LEAST_PLACES // ratio**2
        )
        side = next(fitting, 0)
        if not side or int(held.sum()) < (4 * ratio) ** 2:
            raise SolveError("the reference shows too little ground to learn its texture from")
        sharp, maps = fill_nearest(unmixed.fine / scale, native), share * unmixed.coarse / scale
        coarse = Patches(maps, seen, side, any_angle=True)

        def taught_by(where: Tensor, judged: Tensor, steps: int, seed: int) -> _Try:
            patches = Patches(sharp, where, side * ratio, any_angle=False)
            ground = HeldOut.of(problem, unmixed, judged, scale, share, self.consistency)
            return self._trained(problem, patches, coarse, ground, steps, seed, on_step)

        gate = taught_by(taught, held, max(self.steps // 2, 1), problem.seed).told
        kept = gate["psnr_gain_db"] >= 0 and gate["gradient_ratio"] < 1
        verdict: dict[str, object] = {"kept": kept, **gate}
        if not kept:
            return _Learned(None, 0.0, scale, share, verdict, ())
        seeds = range(problem.seed, problem.seed + self.seeds)
        tries = [taught_by(native > 0, native > 0, self.steps, seed) for seed in seeds]
        best = min(tries, key=lambda each: each.trained.best_score)
        gain = best.told["gain"] if gate["gain"] else 0.0
        verdict |= {"gain": gain, "best_step": best.trained.best_step}
        verdict["seeds"] = [each.trained.best_score for each in tries]
        return _Learned(best.sharpener, gain, scale, share, verdict, best.trained.history)

    def _trained(
        self,
        problem: Problem,
        sharp: Patches,
        coarse: Patches,
        ground: HeldOut,
        steps: int,
        seed: int,
        on_step: OnStep,
    ) -> _Try:
        """A translator at its best on some ground, and how its training went.

        The history tells how the critic scores real patches and made ones: 1 and 0 where it sees through all.
        """
        ratio, psf, materials = problem.ratio, problem.sensor.psf, len(sharp.maps)
        draw = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            one_for_all = Sharpen(ratio, self.width)
            translator = one_for_all if self.shared else SharpenEach(materials, ratio, self.width)
            critic = Critic(materials, self.width).to(problem.device)
        sharpener = _Sharpener(translator.to(problem.device), psf, ratio, self.consistency)
        judge = torch.optim.Adam(critic.parameters(), lr=self.learning_rate, betas=(0.5, 0.999))
        scores = {"critic_real": 0.0, "critic_made": 0.0}
        watched: list[dict[str, float]] = []
        rounds = [0]

        def loss() -> Tensor:
            chosen = torch.randint(materials, (self.batch,), generator=draw).to(problem.device)
            real = sharp(chosen, draw)
            again = sharpener.maps(blur_down(real[:, 0], psf, ratio), chosen)
            total = self.paired * ((again - real[:, 0]) ** 2).mean()
            rounds[0] += 1
            if not self.critic or (self.paired and rounds[0] % ADVERSARIAL_EVERY):
                return total
            some = chosen[: max(self.batch // 2, 1)]
            made = sharpener.maps(coarse(some, draw)[:, 0], some)[:, None]
            told = critic(real[: len(some)], some), critic(made.detach(), some)
            judge.zero_grad(set_to_none=True)
            (((told[0] - 1) ** 2).mean() + (told[1] ** 2).mean()).backward()
            judge.step()
            for name, each in zip(scores, told, strict=True):
                scores[name] = 0.9 * scores[name] + 0.1 * float(each.detach().mean())
            return total + self.critic * ((critic(made, some) - 1) ** 2).mean()

        def score() -> float:
            watched.append(dict(scores))
            return _regret(_chosen(ground, sharpener))

        groups: list[dict[str, object]] = [
            {"params": list(translator.parameters()), "lr": self.learning_rate}
        ]
        schedule = Schedule(steps, max(steps // CHECKS, 1), patience=CHECKS, flat=self.flat)
        trained = train(translator, groups, loss, score, schedule, on_step, "fresco")
        history = tuple({**a, **b} for a, b in zip(trained.history, watched, strict=True))
        return _Try(sharpener, replace(trained, history=history), _chosen(ground, sharpener))


@dataclass(frozen=True)
class _Sharpener:
    """A translator whose detail the HSI's sensor does not see."""

    translator: nn.Module
    psf: Tensor
    ratio: int
    consistency: int

    def maps(self, coarse: Tensor, materials: Tensor) -> Tensor:
        """Coarse maps (N, h, w) made sharp: (N, ratio h, ratio w)."""
        found = upsample(coarse, self.ratio) + self.translator(coarse[:, None], materials)[:, 0]
        return in_line(found, coarse, self.psf, self.ratio, self.consistency)

    @torch.no_grad()
    def __call__(self, maps: Tensor) -> Tensor:
        """(K, h, w) -> (K, ratio h, ratio w): the detail alone, the mean of what is made from all sides."""
        detail = torch.stack([self._each(one, k) for k, one in enumerate(maps)])
        return in_line(detail, torch.zeros_like(maps), self.psf, self.ratio, self.consistency)

    def _each(self, one: Tensor, material: int) -> Tensor:
        """The detail of one map (h, w), the mean of what the translator makes of it from each side."""
        seen = one.new_zeros([self.ratio * side for side in one.shape])
        number = torch.tensor([material], device=one.device)
        for turns in range(4):
            for flip in (False, True):
                other = one.rot90(turns)
                made = self.translator((other.flip(1) if flip else other)[None, None], number)[0, 0]
                seen = seen + (made.flip(1) if flip else made).rot90(-turns) / 8
        return seen


@dataclass(frozen=True)
class _Try:
    """A training: what it made, how it went, and what it does on the ground that judges it."""

    sharpener: _Sharpener
    trained: Trained
    told: dict[str, float]


@dataclass(frozen=True)
class _Learned:
    """The translator, unless the gate is shut, and what goes with it: see `HeldOut.of`."""

    sharpener: _Sharpener | None
    gain: float
    scale: Tensor
    share: Tensor
    verdict: dict[str, object]
    history: tuple[dict[str, float], ...]


def _chosen(ground: HeldOut, sharpener: _Sharpener) -> dict[str, float]:
    """How much of the detail is best on the ground held out, and what it does there."""
    detail = sharpener(ground.maps)
    return min(ground.judge(detail, GAINS), key=_regret)


def _regret(told: Mapping[str, float]) -> float:
    """Distance of the gradients, and what the error lacks to `MARGIN_DB` better than interpolation's."""
    return told["gradient_ratio"] + max(MARGIN_DB - told["psnr_gain_db"], 0.0)


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
    """0 where there is a guide, rising to 1 within an HSI pixel of it: (H, W)."""
    away = ndimage.distance_transform_edt((guide_weight <= 0).cpu().numpy())
    if not bool((guide_weight > 0).any()):
        return torch.ones_like(guide_weight)
    return torch.from_numpy(away).to(guide_weight).div(ratio).clamp(max=1)
