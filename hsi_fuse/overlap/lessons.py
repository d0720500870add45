"""A translator from coarse maps to sharp ones: what it is taught, and what it makes of maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hsi_fuse.nets.translator import Critic, Sharpen, SharpenEach
from hsi_fuse.optimise import Schedule, Trained, train
from hsi_fuse.overlap.strength import alone
from hsi_fuse.overlap.texture import Ground, HeldOut, Patches, in_line
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import OnStep, Problem
from hsi_fuse.subspace import upsample

CHECKS = 10
"""Looks at the ground that judges, in a training."""
ADVERSARIAL_EVERY = 2
"""Steps from one with the critic to the next, where there are pairs: it costs more than all else."""


@dataclass(frozen=True)
class LessonSettings:
    """How a translator is trained: see `stages.fresco.Fresco`."""

    steps: int = 1000
    learning_rate: float = 2e-3
    flat: float | None = None
    width: int = 24
    patch: int = 8
    batch: int = 16
    shared: bool = True
    critic: float = 0.01
    paired: float = 1.0
    consistency: int = 12


@dataclass(frozen=True)
class Sharpener:
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
        made = torch.stack([self._each(one, k) for k, one in enumerate(maps)])
        return in_line(made, torch.zeros_like(maps), self.psf, self.ratio, self.consistency)

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
class Taught:
    """A translator at its best on the ground that judged it, and how its training went.

    The history tells how the critic scores real patches and made ones: 1 and 0 where it sees through all.
    """

    sharpener: Sharpener
    trained: Trained


@dataclass(frozen=True)
class Lessons:
    """What the ground that the guide shows has to teach.

    Attributes
    ----------
    settings : LessonSettings
    problem : Problem
    ground : Ground
    sharp : Tensor (K, H, W)
        The guide's maps on it.
    maps : Tensor (K, h, w)
        The HSI's, as the translator gets them.
    side : int
        Of patches, coarse pixels.
    """

    settings: LessonSettings
    problem: Problem
    ground: Ground
    sharp: Tensor
    maps: Tensor
    side: int

    def unseen(self, detail: Tensor) -> Tensor:
        """What of a detail (c, ratio h, ratio w) the HSI's sensor does not see."""
        ratio, nothing = self.problem.ratio, detail[:, :: self.problem.ratio, :: self.problem.ratio]
        return in_line(
            detail, torch.zeros_like(nothing), self.problem.sensor.psf, ratio, self.settings.consistency
        )

    def teach(self, where: Tensor, judged: Tensor, steps: int, seed: int, on_step: OnStep) -> Taught:
        """Train on some of the ground (H, W), bool; the state that does best on what is judged is kept."""
        given, problem = self.settings, self.problem
        ratio, psf, materials = problem.ratio, problem.sensor.psf, len(self.sharp)
        sharp = Patches(self.sharp, where, self.side * ratio, any_angle=False)
        coarse = Patches(self.maps, problem.hsi_weight > 0, self.side, any_angle=True)
        draw = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shared = Sharpen(ratio, given.width)
            translator = shared if given.shared else SharpenEach(materials, ratio, given.width)
            critic = Critic(materials, given.width).to(problem.device)
        sharpener = Sharpener(translator.to(problem.device), psf, ratio, given.consistency)
        judge = torch.optim.Adam(critic.parameters(), lr=given.learning_rate, betas=(0.5, 0.999))
        scores = {"critic_real": 0.0, "critic_made": 0.0}
        watched: list[dict[str, float]] = []
        held = HeldOut.of(self.ground, judged, ratio)
        rounds = [0]

        def loss() -> Tensor:
            chosen = torch.randint(materials, (given.batch,), generator=draw).to(problem.device)
            real = sharp(chosen, draw)
            again = sharpener.maps(blur_down(real[:, 0], psf, ratio), chosen)
            total = given.paired * ((again - real[:, 0]) ** 2).mean()
            rounds[0] += 1
            if not given.critic or (given.paired and rounds[0] % ADVERSARIAL_EVERY):
                return total
            some = chosen[: max(given.batch // 2, 1)]
            made = sharpener.maps(coarse(some, draw)[:, 0], some)[:, None]
            told = critic(real[: len(some)], some), critic(made.detach(), some)
            judge.zero_grad(set_to_none=True)
            (((told[0] - 1) ** 2).mean() + (told[1] ** 2).mean()).backward()
            judge.step()
            for name, each in zip(scores, told, strict=True):
                scores[name] = 0.9 * scores[name] + 0.1 * float(each.detach().mean())
            return total + given.critic * ((critic(made, some) - 1) ** 2).mean()

        def score() -> float:
            watched.append(dict(scores))
            made = self.ground.mixed(sharpener(self.ground.maps))
            return alone(problem, held, made).regret(problem)

        groups: list[dict[str, object]] = [
            {"params": list(translator.parameters()), "lr": given.learning_rate}
        ]
        schedule = Schedule(steps, max(steps // CHECKS, 1), patience=CHECKS, flat=given.flat)
        trained = train(translator, groups, loss, score, schedule, on_step, "fresco")
        history = tuple({**a, **b} for a, b in zip(trained.history, watched, strict=True))
        return Taught(sharpener, replace(trained, history=history))
