"""Stage `cucanet`: CUCaNet, coupled unmixing autoencoders with cross-attention that learn the sensors too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hsi_fuse.classical import keep_guided
from hsi_fuse.nets.coupled_training import CoupledTraining
from hsi_fuse.optimise import Trained
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.solve import MapOptions, anchor, reconcile, solve_map
from hsi_fuse.stages.map import within
from hsi_fuse.subspace import fill_nearest, problem_subspace, upsample


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses, each a mean over valid pixels (and bands, or materials).

    A sum of N values under the weight w is their mean under w N. The paper (equations 11 to 15) sums and does
    not print its weights; the public code has 10 for each misfit of an image and 0.01 for sum-to-one and
    sparsity. (It has 10000 for the sensors', a mean: as much as 13 on the sum of CAVE's 768 values.) Divided
    by what the guide's misfit gets, 10 m H W, the means have these weights: 1 for a guide's misfit,
    n / (m s^2) for an HSI's, 1 / s^2 for the sensors', 0.001 / m for sum-to-one and 0.001 K / m for sparsity.
    Preset `cucanet-paper` has their values on CAVE at x32. Deviation: there the HSI's abundances count as
    much as the guide's, not 1 / s^2 of it.

    Attributes
    ----------
    hsi_itself, guide_itself : float
        What the autoencoders make of their own image (equation 11).
    hsi, guide : float
        The fused cube, seen by either sensor (equation 14).
    sensors : float
        The guide seen by the HSI's sensor against the HSI seen by the guide's (equation 14).
    sum_to_one, sparsity : float
        Of the abundances (equations 12 and 13).
    """

    hsi_itself: float = 1.0
    guide_itself: float = 1.0
    hsi: float = 1.0
    guide: float = 1.0
    sensors: float = 1.0
    sum_to_one: float = 0.1
    sparsity: float = 0.001


@dataclass(frozen=True)
class Cucanet(MapOptions):
    """CUCaNet: Yao, Hong, Chanussot, Meng, Zhu and Xu, ECCV 2020; unsupervised, on this scene alone.

    Two autoencoders unmix HSI and guide; Z is what the HSI's decoder makes of the guide's abundances. PSF and
    SRF are learned with them, and cross-attention lets each encoder see what the other found
    (`CoupledAutoencoders`, `SensorLayers`). All losses are L1.

    Deviations, each with the paper's way behind a switch where it is a matter of taste (preset
    `cucanet-paper` throws them all): decoders start at the HSI's vertices, and the sensors at the problem's
    (`warm`); spectral attention is local (`attention_reach`); the PSF may be wider than an HSI pixel
    (`disjoint`); widths, kernels, number of endmembers and rate are smaller (fields); training takes crops
    (`crop_px`) and stops on held-out HSI pixels (`held_out`); the learned sensor is kept only if it explains
    the held-out pixels better than the problem's; and the data have the last word (`solve`): Z is the
    prior's mean in `solve_map`.

    Attributes
    ----------
    steps : int
        Most training steps.
    sensor_steps : int
        Steps in which the sensors are learned by themselves before, with `warm` and `consistency`.
    learning_rate : float
        Of the HSI's encoder and the decoders; the guide's encoder has half of it, and so has the last
        convolution of both where attended features stand beside the plain ones (not so in the paper);
        attention, gains and offsets have a fifth.
    sensor_rate : float
        Of PSF and SRF. Adam moves a parameter by about its rate a step: from nothing both have to come some
        units far (the PSF's logarithms by 4 or more), which the paper's fifth of `learning_rate` allows in
        its 10000 steps (6 in all), and not in a few hundred (0.2).
    flat : float, optional
        Fraction of the steps at the full rate before it falls in a line; None: a rise, then a cosine.
    patience : int
        Checks (a fiftieth of the steps each) without a better held-out score after which training stops.
    endmembers : int
        K; with `warm` at most as many as HSI bands.
    widths : tuple of int
        Channels of the encoders' three blocks.
    kernels : tuple of int
        Sides of the guide encoder's convolutions.
    attention_reach : int
        Side of the spectral attention's convolution in HSI pixels, odd: each place has its own factors for
        the guide's features. 0: as large as the image, one factor each, as in the paper.
    crop_px : int
        Side of the training crops in fine pixels, rounded up to whole HSI pixels, not below
        `LEAST_CROP_HSI_PX` of them; 0: the image.
    held_out : float
        Fraction of HSI pixels that decide when to stop; 0: the fit to all of them decides.
    clamp : bool
        Abundances clamped to [0, 1]; else softmax.
    consistency : bool
        Whether the sensors must agree with each other too, C Y = R X: the closed loop of the spatial-spectral
        consistency. Without it PSF and SRF are learned from the fused cube's misfits alone.
    learned_sensors : bool
        Off, and with it `consistency`: PSF and SRF stay where they start. The paper's module for
        spatial-spectral consistency is both; its ablation does not say what was left out.
    cross_attention : bool
    warm : bool
        Else Kaiming's initialisation, a flat PSF, and responses flat over the support of the problem's, which
        the paper takes as known.
    disjoint : bool
        The PSF is as large as the HSI pixel, so that HSI pixels share no ground.
    solve : bool
        Whether a MAP estimate around the network's follows.
    dimensions : int
        Most dimensions of the subspace that holds the result.
    weights : LossWeights
    """

    steps: int = 1000
    sensor_steps: int = 400
    learning_rate: float = 5e-3
    sensor_rate: float = 1e-3
    flat: float | None = None
    patience: int = 25
    endmembers: int = 30
    widths: tuple[int, int, int] = (64, 64, 64)
    kernels: tuple[int, int, int] = (1, 1, 1)
    attention_reach: int = 3
    crop_px: int = 64
    held_out: float = 0.1
    clamp: bool = True
    consistency: bool = True
    learned_sensors: bool = True
    cross_attention: bool = True
    warm: bool = True
    disjoint: bool = False
    solve: bool = True
    dimensions: int = 24
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if any(side % 2 == 0 or side < 1 for side in self.kernels):
            raise ValueError(f"kernels must have odd sides, got {self.kernels}")
        if self.attention_reach < 0 or (self.attention_reach and self.attention_reach % 2 == 0):
            raise ValueError(f"attention_reach must be odd, or 0 for the image, got {self.attention_reach}")

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Train on `problem`; `start` is passed through where there is too little to learn from."""
        training = CoupledTraining.of(problem, self)
        if training is None:
            on_step("cucanet", self.steps, self.steps, 0.0)
            reason = "too few HSI pixels under the guide to learn from"
            return StageResult(start, {"kept": False, "reason": reason})
        trained = training.run(on_step)
        result = self.finish(training, trained)
        on_step("cucanet", self.steps, self.steps, trained.best_score)
        return result

    def finish(self, training: CoupledTraining, trained: Trained) -> StageResult:
        """What the data make of a network that has been trained."""
        problem = training.problem
        sensor, share, figures = training.sensor()
        if sensor is not None:
            # the guide's noise holds what the sensor model could not explain: it shrinks as that does
            problem = replace(problem, sensor=sensor, guide_noise=share * problem.guide_noise)
        unmixed = training.unmixed()
        subspace = problem_subspace(problem, self.dimensions)
        low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))  # (k, h, w)
        coefficients = within(subspace, unmixed)
        if self.solve:
            problem = reconcile(problem, subspace)
            coefficients, figures["cg_iterations"] = solve_map(
                problem, subspace, anchor(problem, low, coefficients), self
            )
        else:
            coefficients = keep_guided(problem, coefficients, upsample(low, problem.ratio))
        verdict = {
            "kept": True,
            "best_step": trained.best_step,
            "held_out_error": trained.best_score,
            "endmembers": len(unmixed.coefficients),
            "dimensions": subspace.size,
            **figures,
        }
        estimate = Estimate(subspace.basis, subspace.mean, coefficients)
        return StageResult(estimate, verdict, trained.history, sensor=sensor)
