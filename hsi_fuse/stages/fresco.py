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
from hsi_fuse.overlap.texture import Ground, HeldOut, Patches, in_line, places, split
from hsi_fuse.overlap.unregistered import Unmixed, UnmixOptions, unmix_problem
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.subspace import fill_nearest, upsample

LEAST_PATCH, LEAST_PLACES = 6, 64
GAINS = tuple(0.25 * i for i in range(13))
"""Of the translator's detail alone, in training."""
SHARES = (0.0, 0.5, 1.0)
"""Of it, where examples fill what it misses."""
EXAMPLES = tuple(0.1 * i for i in range(13))
"""How much of the examples' detail."""
MARGIN_DB = 0.2
UNPLACED_MARGIN_DB = 0.5
"""The same where nothing is registered: there the ground that judges is what was taught, made coarse."""
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

    What f misses on the guide's ground is carried over by example (`Examples`): most of the detail that the
    sensor cannot see does not follow from the coarse maps, and a mean over what it may be has no texture.

    A part of the guide is held out in a first, shorter training: if the whole does not beat interpolation
    there, in error and in the distribution of gradients, interpolation stays. Then f learns from all of the
    guide. Of each seed's states, of the seeds, and of how much of f and of the examples is used, that is
    taken which brings gradients nearest to the guide's on its ground while a margin over interpolation's
    error is left; there a quarter of the ground takes its examples from the others.

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
    examples : bool
        Whether what f misses is filled by example.
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
    examples: bool = True
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
            learned = self._learn(problem, start, unmixed, on_step)
        except SolveError as error:
            return StageResult(start, {"kept": False, "reason": str(error)}, unmixed=unmixed)
        if not learned.verdict["kept"]:
            reason = "on a part of the reference held out it does no better than interpolation"
            return StageResult(start, {**learned.verdict, "reason": reason}, unmixed=unmixed)
        found = self._fill(problem, start, self._detail(problem, start, unmixed, learned), open_to)
        return StageResult(found, learned.verdict, learned.history, unmixed=unmixed)

    def _detail(self, problem: Problem, start: Estimate, unmixed: Unmixed, learned: _Learned) -> Tensor:
        """What the HSI's maps and image suggest, (k, H, W) in the basis of `start`."""
        ground, sharpener = learned.ground, learned.sharpener
        detail = learned.gain * ground.mixed(sharpener(learned.share * unmixed.coarse / learned.scale))
        if learned.amount:
            missed = ground.detail - learned.gain * ground.mixed(sharpener(ground.maps))
            examples = ground.examples(missed, problem.ratio, None, problem.seed)
            hsi = fill_nearest(problem.hsi, problem.hsi_weight)
            pasted = examples.pasted(coefficients_of(ground.sharp, hsi, problem.hsi_noise))
            detail = detail + learned.amount * sharpener.unseen(pasted)
        spectra = ground.sharp.basis + start.mean[:, None]
        return torch.tensordot(coefficients_of(start, spectra, problem.hsi_noise), detail, dims=1)

    def _fill(self, problem: Problem, start: Estimate, detail: Tensor, open_to: Tensor) -> Estimate:
        """`start` with a detail (k, H, W), as far as pixels are open to it (H, W)."""
        low = coefficients_of(start, fill_nearest(problem.hsi, problem.hsi_weight), problem.hsi_noise)
        psf, ratio = problem.sensor.psf, problem.ratio
        found = in_line(start.coefficients, low, psf, ratio, self.consistency, open_to)
        return replace(start, coefficients=found + open_to * detail)

    def _learn(self, problem: Problem, start: Estimate, unmixed: Unmixed, on_step: OnStep) -> _Learned:
        """The translator, how much of it and of examples is used, and what it does on ground held out.

        Raises
        ------
        SolveError
            The guide is too small to learn from, or training diverged.
        """
        ratio, psf, seen = problem.ratio, problem.sensor.psf, problem.hsi_weight > 0
        native = problem.native.weight if problem.native is not None else problem.guide_weight
        scale, share = _scales(unmixed, native, problem.hsi_weight, psf, ratio)
        height, width = (side // ratio * ratio for side in native.shape)
        held, taught = split(native[:height, :width] > 0, ratio)
        fitting = (
            side
            for side in range(self.patch, LEAST_PATCH - 1, -2)
            if int(places(taught, side * ratio).sum()) >= LEAST_PLACES
            and int(places(seen, side).sum()) >= LEAST_PLACES // ratio**2
        )
        side = next(fitting, 0)
        if not side or int(held.sum()) < (4 * ratio) ** 2:
            raise SolveError("the reference shows too little ground to learn its texture from")
        ground = Ground.of(problem, start, unmixed, scale, share, self.consistency)
        sharp = fill_nearest(unmixed.fine / scale, native)[:, :height, :width]
        coarse = Patches(share * unmixed.coarse / scale, seen, side, any_angle=True)

        def taught_by(where: Tensor, judged: list[Tensor], steps: int, seed: int) -> _Try:
            patches = Patches(sharp, where, side * ratio, any_angle=False)
            return self._trained(problem, patches, coarse, ground, judged, steps, seed, on_step)

        gate = taught_by(taught, [held], max(self.steps // 2, 1), problem.seed)
        kept = gate.told["psnr_gain_db"] >= 0 and gate.told["gradient_ratio"] < 1
        verdict: dict[str, object] = {"kept": kept, **gate.told}
        if not kept:
            return _Learned(gate.sharpener, ground, 0.0, 0.0, scale, share, verdict, ())
        seeds = range(problem.seed, problem.seed + self.seeds)
        tries = [taught_by(ground.valid, ground.quarters(), self.steps, seed) for seed in seeds]
        best = min(tries, key=lambda each: each.score)
        chosen = {name: best.told[name] for name in ("gain", "examples")}
        verdict |= {**chosen, "best_step": best.trained.best_step, "seeds": [each.score for each in tries]}
        return _Learned(
            best.sharpener,
            ground,
            chosen["gain"],
            chosen["examples"],
            scale,
            share,
            verdict,
            best.trained.history,
        )

    def _chosen(
        self, problem: Problem, ground: Ground, held: HeldOut, parts: list[Tensor], sharpener: _Sharpener
    ) -> dict[str, float]:
        """How much of the translator and of examples is best on some ground, and what that does there.

        Each of the parts (H, W), bool, of which the ground consists, takes its examples from the rest.
        """
        made = ground.mixed(sharpener(ground.maps))
        tried, details = [], []
        for gain in SHARES if self.examples else GAINS:
            pasted = torch.zeros_like(made)
            for part in parts if self.examples else ():
                examples = ground.examples(ground.detail - gain * made, problem.ratio, part, problem.seed)
                pasted = torch.where(part, examples.pasted(ground.coarse), pasted)
            pasted = sharpener.unseen(pasted)
            for amount in EXAMPLES if self.examples else (0.0,):
                tried.append({"gain": gain, "examples": amount})
                details.append(gain * made + amount * pasted)
        told = [{**a, **b} for a, b in zip(tried, held.judge(details), strict=True)]
        return min(told, key=lambda each: _regret(each, _margin(problem)))

    def _trained(
        self,
        problem: Problem,
        sharp: Patches,
        coarse: Patches,
        ground: Ground,
        parts: list[Tensor],
        steps: int,
        seed: int,
        on_step: OnStep,
    ) -> _Try:
        """A translator at its best on the parts (H, W), bool, of the ground, and how its training went.

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
        judged = torch.stack(parts).any(0)
        held = HeldOut.of(ground, judged, ratio)
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
            made = ground.mixed(sharpener(ground.maps))
            told = held.judge(gain * made for gain in GAINS)
            return min(_regret(each, _margin(problem)) for each in told)

        groups: list[dict[str, object]] = [
            {"params": list(translator.parameters()), "lr": self.learning_rate}
        ]
        schedule = Schedule(steps, max(steps // CHECKS, 1), patience=CHECKS, flat=self.flat)
        trained = train(translator, groups, loss, score, schedule, on_step, "fresco")
        history = tuple({**a, **b} for a, b in zip(trained.history, watched, strict=True))
        told = self._chosen(problem, ground, held, parts, sharpener)
        return _Try(sharpener, replace(trained, history=history), told, _regret(told, _margin(problem)))


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
        return self.unseen(torch.stack([self._each(one, k) for k, one in enumerate(maps)]))

    def unseen(self, detail: Tensor) -> Tensor:
        """What of a detail (c, ratio h, ratio w) the HSI's sensor does not see."""
        nothing = detail.new_zeros(len(detail), *(side // self.ratio for side in detail.shape[1:]))
        return in_line(detail, nothing, self.psf, self.ratio, self.consistency)

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
    """A training: what it made, how it went, what it does on the ground that judges it, and its regret."""

    sharpener: _Sharpener
    trained: Trained
    told: dict[str, float]
    score: float


@dataclass(frozen=True)
class _Learned:
    """The translator, the ground it learned from, and how much of it and of examples is used.

    `scale` and `share`: see `Ground.of`.
    """

    sharpener: _Sharpener
    ground: Ground
    gain: float
    amount: float
    scale: Tensor
    share: Tensor
    verdict: dict[str, object]
    history: tuple[dict[str, float], ...]


def _regret(told: Mapping[str, float], margin_db: float) -> float:
    """Distance of the gradients, and what the error lacks to a margin better than interpolation's."""
    return told["gradient_ratio"] + max(margin_db - told["psnr_gain_db"], 0.0)


def _margin(problem: Problem) -> float:
    return MARGIN_DB if problem.native is None else UNPLACED_MARGIN_DB


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
