"""Stage `fresco`: sharp texture where the guide does not reach, learned from where it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from hsi_fuse.errors import SolveError
from hsi_fuse.nets.translator import Critic, Sharpen, Soften
from hsi_fuse.optimise import Schedule, Trained, train
from hsi_fuse.overlap.extend import coefficients_of
from hsi_fuse.overlap.unregistered import Unmixed, UnmixOptions, unmix_problem
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.subspace import fill_nearest, upsample

LEAST_PATCH, LEAST_PLACES = 6, 64
GAINS = (0.0, 0.5, 0.75, 1.0, 1.25)
MARGIN_DB = 0.3
LEAST_CHANGED = 1e-3
"""Share of the scene without a guide below which there is nothing to do."""


@dataclass(frozen=True)
class Fresco:
    """The second part of FRESCO (Song, Shrestha and Fu, arXiv 2026): a translator shared by all materials.

    The pair is unmixed (`unregistered`); one translator f learns to turn coarse abundance patches into sharp
    ones. A critic with a head for each material compares f(patches of the HSI) with patches of the guide,
    both at random angles: that the materials share f is what pins it down. Where the guide does not reach, f
    of the HSI's abundances replaces their interpolation, made consistent with the HSI; it fades in over an
    HSI pixel from where the guide ends. What the guide shows stays as it is.

    Deviations: f is interpolation plus a small U-Net on coarse pixels; the guide's patches, blurred by the
    PSF, serve as pairs too (`paired`); the way back g is one kernel; training keeps the state that does best
    on a part of the guide held out, and the result is used only if there it has no greater error than
    interpolation and is nearer to the truth in the distribution of its gradients.

    Attributes
    ----------
    steps : int
    learning_rate : float
    width : int
        Channels of the translator and of the critic.
    patch : int
        Side of the coarse patches; less where the guide's ground is narrower.
    batch : int
        Patches in a step.
    critic, inverse, mean, paired : float
        Weights of the losses: the critic's (least squares), g after f and f after g, the patch means, and
        pairs of the guide's own patches.
    consistency : int
        Steps of back-projection that bring the result in line with the HSI.
    unmix : UnmixOptions
    """

    steps: int = 400
    learning_rate: float = 1e-3
    width: int = 24
    patch: int = 12
    batch: int = 16
    critic: float = 1.0
    inverse: float = 10.0
    mean: float = 15.0
    paired: float = 3.0
    consistency: int = 6
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
        native = problem.native.weight if problem.native is not None else problem.guide_weight
        try:
            learned = self._learn(problem, unmixed, native, on_step)
        except SolveError as error:
            return StageResult(start, {"kept": False, "reason": str(error)}, unmixed=unmixed)
        sharpen, trained, gate = learned
        products = {"endmembers": unmixed.spectra, "abundances": unmixed.fine}
        kept = gate["psnr_gain_db"] >= 0 and gate["gradient_ratio"] < 1
        verdict: dict[str, object] = {"kept": kept, "best_step": trained.best_step, **gate}
        if not kept:
            verdict["reason"] = "on a part of the reference held out it does no better than interpolation"
            return StageResult(start, verdict, trained.history, products, unmixed=unmixed)
        found = self._fill(problem, start, unmixed, sharpen, open_to)
        return StageResult(found, verdict, trained.history, products, unmixed=unmixed)

    def _fill(
        self, problem: Problem, start: Estimate, unmixed: Unmixed, sharpen: _Sharpener, open_to: Tensor
    ) -> Estimate:
        """`start` with the translator's detail, as far as pixels are open to it (H, W)."""
        ratio, psf, scale = problem.ratio, problem.sensor.psf, _scale(unmixed)
        coarse = unmixed.coarse / scale
        detail = scale * (sharpen(coarse) - upsample(coarse, ratio))  # (K, H, W)
        spectra = coefficients_of(start, unmixed.spectra + start.mean[:, None], problem.hsi_noise)  # (k, K)
        found = start.coefficients + open_to * torch.tensordot(spectra, detail, dims=1)
        low = coefficients_of(start, fill_nearest(problem.hsi, problem.hsi_weight), problem.hsi_noise)
        for _ in range(self.consistency):
            found = found + open_to * upsample(low - blur_down(found, psf, ratio), ratio)
        return replace(start, coefficients=found)

    def _learn(
        self, problem: Problem, unmixed: Unmixed, native: Tensor, on_step: OnStep
    ) -> tuple[_Sharpener, Trained, dict[str, float]]:
        """The translator, how its training went, and what it does on the part of the guide held out.

        Raises
        ------
        SolveError
            The guide is too small to learn from, or training diverged.
        """
        ratio, psf = problem.ratio, problem.sensor.psf
        scale, valid = _scale(unmixed), native > 0
        sharp, coarse = fill_nearest(unmixed.fine / scale, native), unmixed.coarse / scale
        held, taught = _split(valid, ratio)
        fitting = (
            side
            for side in range(self.patch, LEAST_PATCH - 1, -2)
            if int(_places(taught, side * ratio).sum()) >= LEAST_PLACES
            and int(_places(problem.hsi_weight > 0, side).sum()) >= LEAST_PLACES // ratio**2
        )
        side = next(fitting, 0)
        if not side or int(held.sum()) < (4 * ratio) ** 2:
            raise SolveError("the reference shows too little ground to learn its texture from")
        draw = torch.Generator().manual_seed(problem.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(problem.seed)
            translator = Sharpen(ratio, self.width).to(problem.device)
            back = Soften(psf, ratio).to(problem.device)
            critic = Critic(len(sharp), self.width).to(problem.device)
        judge = torch.optim.Adam(critic.parameters(), lr=self.learning_rate, betas=(0.5, 0.999))
        guide_patches = _Patches(sharp, taught, side * ratio)
        hsi_patches = _Patches(coarse, problem.hsi_weight > 0, side)

        def loss() -> Tensor:
            chosen = torch.randint(len(sharp), (self.batch,), generator=draw).to(sharp.device)
            real, low = guide_patches(chosen, draw), hsi_patches(chosen, draw)
            made = translator(low)
            judge.zero_grad(set_to_none=True)
            told = critic(real, chosen), critic(made.detach(), chosen)
            (((told[0] - 1) ** 2).mean() + (told[1] ** 2).mean()).backward()
            judge.step()
            seen = blur_down(real[:, 0], psf, ratio)[:, None]
            again = translator(seen)
            total = self.critic * ((critic(made, chosen) - 1) ** 2).mean()
            total = total + self.inverse * (
                (back(made) - low).abs().mean() + (back(real) - seen).abs().mean()
            )
            total = total + self.mean * (made.mean((2, 3)) - low.mean((2, 3))).abs().mean()
            return total + self.paired * (again - real).abs().mean()

        inner = _Held(unmixed, held, psf, ratio)
        sharpen = _Sharpener(translator, psf, ratio, 1.0, self.consistency)

        def score() -> float:
            return _regret(inner.judge(sharpen))

        groups: list[dict[str, object]] = [
            {"params": [*translator.parameters(), *back.parameters()], "lr": self.learning_rate}
        ]
        schedule = Schedule(self.steps, check_every=max(min(50, self.steps // 4), 1), patience=8)
        both = nn.ModuleList([translator, back])
        trained = train(both, groups, loss, score, schedule, on_step, "fresco")
        told = [(inner.judge(replace(sharpen, gain=gain)), gain) for gain in GAINS]
        gate, gain = min(told, key=lambda each: _regret(each[0]))
        return replace(sharpen, gain=gain), trained, {**gate, "gain": gain}


@dataclass(frozen=True)
class _Sharpener:
    """A translator's detail, `gain` times, on interpolation, in line with what was coarse."""

    translator: Sharpen
    psf: Tensor
    ratio: int
    gain: float
    consistency: int

    @torch.no_grad()
    def __call__(self, maps: Tensor) -> Tensor:
        """(K, h, w) -> (K, ratio h, ratio w). Convolutions see overlapping patches of it anyhow."""
        plain = upsample(maps, self.ratio)
        seen = [self._turned(maps, turns, flip) for turns in range(4) for flip in (False, True)]
        detail = torch.stack(seen).mean(0) - plain
        found = plain + self.gain * (detail - _grid_pattern(detail, maps, self.ratio))
        for _ in range(self.consistency):
            found = found + upsample(maps - blur_down(found, self.psf, self.ratio), self.ratio)
        return found

    def _turned(self, maps: Tensor, turns: int, flip: bool) -> Tensor:
        """What the translator makes of the maps seen from another side."""
        other = maps.rot90(turns, (1, 2))
        made = self.translator((other.flip(2) if flip else other)[:, None])[:, 0]
        return (made.flip(2) if flip else made).rot90(-turns, (1, 2))


def _grid_pattern(detail: Tensor, maps: Tensor, ratio: int) -> Tensor:
    """What of a detail (K, H, W) follows from the place within an HSI pixel and the HSI's value alone.

    A line for each place and material; no scene has such a pattern, but the eye and gradients see it.
    """
    count, height, width = maps.shape
    phases = (
        detail.reshape(count, height, ratio, width, ratio).permute(0, 2, 4, 1, 3).flatten(3)
    )  # (K, s, s, N)
    value = maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True)  # (K, N)
    power = value.square().sum(1).clamp_min(1e-12)
    slope = torch.einsum("kabn,kn->kab", phases, value) / power[:, None, None]
    pattern = phases.mean(3, keepdim=True) + slope[..., None] * value[:, None, None]
    fine = pattern.reshape(count, ratio, ratio, height, width).permute(0, 3, 1, 4, 2)
    return fine.reshape(detail.shape)


def _regret(told: Mapping[str, float]) -> float:
    """Distance of the gradients, and what the error lacks to `MARGIN_DB` better than interpolation's."""
    return told["gradient_ratio"] + max(MARGIN_DB - told["psnr_gain_db"], 0.0)


def _scale(unmixed: Unmixed) -> Tensor:
    """By what abundances are divided, so that every material counts alike: (K, 1, 1)."""
    return unmixed.fine.flatten(1).std(1).clamp_min(1e-3)[:, None, None]


class _Held:
    """The part of the guide held out: blurred, sharpened again, and compared in spectra."""

    def __init__(self, unmixed: Unmixed, held: Tensor, psf: Tensor, ratio: int) -> None:
        (rows, columns), scale = _box(held, ratio), _scale(unmixed)
        self.truth, self.ratio = (unmixed.fine / scale)[:, rows, columns], ratio
        self.low = blur_down(self.truth, psf, ratio)
        self.spectra = unmixed.spectra * scale[:, 0, 0]
        clear = _eroded(held[rows, columns], ratio)  # its rim knows too little of what is around
        self.where = clear if bool(clear.any()) else held[rows, columns]

    def judge(self, sharpen: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """`psnr_gain_db` over interpolation, and the distance of gradients over interpolation's."""
        gram = self.spectra.T @ self.spectra
        truth, errors, gradients = self.truth, [], []
        for maps in (sharpen(self.low), upsample(self.low, self.ratio)):
            off = (maps - truth)[:, self.where]
            errors.append(float(((gram @ off) * off).sum()))
            gradients.append(gradient_distance(maps, truth, self.where))
        return {
            "psnr_gain_db": 10 * math.log10(max(errors[1], 1e-30) / max(errors[0], 1e-30)),
            "gradient_ratio": gradients[0] / max(gradients[1], 1e-30),
        }


def gradient_distance(image: Tensor, truth: Tensor, where: Tensor) -> float:
    """Distance of the distributions of gradient magnitudes, mean over channels, in the truth's mean.

    Wasserstein's first distance of the magnitudes of (c, H, W) over the pixels `where` (H, W), bool.
    """
    levels = torch.linspace(0, 1, 201, dtype=torch.float64, device=image.device)
    told = []
    for each in (image, truth):
        down, across = torch.gradient(each.double(), dim=(1, 2))
        told.append(torch.quantile(torch.hypot(down, across)[:, where], levels, dim=1))
    return float(((told[0] - told[1]).abs().mean(0) / told[1].mean(0).clamp_min(1e-30)).mean())


class _Patches:
    """Square patches of maps (K, H, W) at random places and angles, mirrored at random."""

    def __init__(self, maps: Tensor, valid: Tensor, size: int) -> None:
        self.maps, self.size = maps, size
        self.places = torch.nonzero(_places(valid, size)).cpu()

    def __call__(self, chosen: Tensor, draw: torch.Generator) -> Tensor:
        """One patch of each chosen map: (N, 1, size, size)."""
        count = len(chosen)
        at = self.places[torch.randint(len(self.places), (count,), generator=draw)].double()
        angle = 2 * math.pi * torch.rand(count, generator=draw, dtype=torch.float64)
        flip = 2.0 * torch.randint(2, (count,), generator=draw) - 1
        height, width = self.maps.shape[1:]
        steps = torch.arange(self.size, dtype=torch.float64) - (self.size - 1) / 2
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        cos, sin = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
        columns = at[:, 1, None, None] + flip[:, None, None] * (cos * x - sin * y)
        rows = at[:, 0, None, None] + sin * x + cos * y
        grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
        maps = self.maps[chosen][:, None]
        return F.grid_sample(
            maps, grid.to(maps), mode="bicubic", padding_mode="reflection", align_corners=False
        )


def _beyond(guide_weight: Tensor, ratio: int) -> Tensor:
    """0 where there is a guide, rising to 1 within an HSI pixel of it: (H, W)."""
    away = ndimage.distance_transform_edt((guide_weight <= 0).cpu().numpy())
    if not bool((guide_weight > 0).any()):
        return torch.ones_like(guide_weight)
    return torch.from_numpy(away).to(guide_weight).div(ratio).clamp(max=1)


def _places(valid: Tensor, size: int) -> Tensor:
    """Pixels of (H, W), bool, around which a patch is valid; of one that is turned all but its corners."""
    return _eroded(valid, size // 2)


def _eroded(valid: Tensor, reach: int) -> Tensor:
    """Pixels of (H, W), bool, whose surroundings are all true and within the image."""
    padded = F.pad(valid.float()[None, None], [reach] * 4)
    return -F.max_pool2d(-padded, 2 * reach + 1, stride=1)[0, 0] > 0


def _split(valid: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """A quarter of the valid pixels (H, W), along the longer side, held out; and the rest."""
    axis = int(valid.shape[1] > valid.shape[0])
    count = valid.sum(1 - axis).cumsum(0)
    border = int((count < 0.75 * count[-1]).sum()) // ratio * ratio
    held = torch.zeros_like(valid)
    held.narrow(axis, border, valid.shape[axis] - border).fill_(True)
    return held & valid, valid & ~held


def _box(held: Tensor, ratio: int) -> tuple[slice, slice]:
    """Whole HSI pixels around the pixels held out."""
    spans = []
    for axis in (1, 0):
        line = torch.nonzero(held.any(axis))[:, 0]
        first = int(line.min())
        spans.append(slice(first, first + (int(line.max()) + 1 - first) // ratio * ratio))
    return spans[0], spans[1]
