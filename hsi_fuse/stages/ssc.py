"""Stage `ssc`: flow, repair, and iterative deformable aggregation of a guide that does not quite fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from hsi_fuse.nets.concordance import ConcordanceNetwork
from hsi_fuse.refinement.lesson import Lesson
from hsi_fuse.refinement.refining import Refining
from hsi_fuse.refinement.repairing import Repairer


@dataclass(frozen=True)
class Ssc(Refining):
    """Two-stage alignment and iterative aggregation (SSC-HSR, 2025), unsupervised on this scene.

    Stage one of the alignment is an optical flow on cost volumes, stage two a small network that repairs what
    the warp has damaged in the guide. Around the flow the guide's features are aggregated at every scale by
    offsets that the fusion's result guides and a few iterations refine; spectral-wise attention fuses them.
    The mean of the finest offsets is the flow along which start and guide are fetched. How it is trained and
    judged: `Refining`, which has the other settings too.

    Deviations from the paper: unsupervised; no flow network trained elsewhere, the flow is learned from
    pairs misplaced on purpose and from the scene itself, together with the aggregation; repair is learned
    after it, on pairs alone, and serves the data term of the last solve; coefficients instead of bands; the
    start is the previous stage's estimate, and it moves with the flow.

    Attributes
    ----------
    repair : bool
        Stage two of the alignment.
    iterations : int
        Of the aggregation.
    spectral : bool
        Off: two convolutions in the place of spectral-wise attention.
    off_target : float
        Weight, on pairs misplaced on purpose, of how many pixels off the flow ends.
    """

    repair: bool = True
    iterations: int = 3
    spectral: bool = True
    off_target: float = 0.3
    stiffness: float = 1.0

    name: ClassVar[str] = "ssc"

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def network(self, abundances: int, reference: int, outputs: int) -> nn.Module:
        """Flow, aggregation and fusion."""
        return ConcordanceNetwork(
            abundances,
            reference,
            outputs,
            width=self.width,
            levels=self.levels,
            groups=self.groups,
            heads=self.heads,
            reach=self.reach,
            iterations=self.iterations,
            spectral=self.spectral,
        )

    @property
    def endpoint(self) -> float:
        """Weight of how far off the flow ends on pairs misplaced on purpose, whose flow is known."""
        return self.off_target

    def repairer(self, network: nn.Module, lesson: Lesson, seed: int) -> Repairer | None:
        """What repairs a guide that the network's flow has fetched."""
        if not self.repair:
            return None
        return Repairer.taught(
            network, lesson, self.width, self.steps // 2, self.learning_rate, seed, self.name
        )
