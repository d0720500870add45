"""Stage `uafl`: a guide that does not quite fit, aggregated by a deformable network, behind a gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from hsi_fuse.nets.abundance import AbundanceNetwork, Aggregation, Parts
from hsi_fuse.refinement.refining import Refining


@dataclass(frozen=True)
class Uafl(Refining):
    """Abundance fusion with deformable aggregation (UAFL, CVPR 2026), unsupervised on this scene.

    Z = start, fetched along a flow, + E f(A, Y). A network sees the HSI's abundances A, interpolated, and the
    guide Y; at every scale it aggregates the guide's features where the abundances want them, and gives the
    flow they came by and residual abundances f. How it is trained and judged: `Refining`, which has the
    other settings too.

    Deviations from the paper: unsupervised; A is a few whitened principal coefficients of the scene; the
    start is the previous stage's estimate, and it moves with the flow; one width at all scales; guides
    of any number of bands.

    Attributes
    ----------
    reformulation : bool
        Off: it sees and gives the spectral bands instead, each in units of its noise; needs their memory.
    aggregation : str
        "cfda", "plain" (deformable convolution alone) or "still" (the guide's features as they lie).
    scaca, scmf : bool
        See `nets.abundance.Parts`.
    """

    reformulation: bool = True
    aggregation: Aggregation = "cfda"
    scaca: bool = True
    scmf: bool = True

    name: ClassVar[str] = "uafl"

    def network(self, abundances: int, reference: int, outputs: int) -> nn.Module:
        """The paper's network."""
        parts = Parts(
            *(self.width, self.levels, self.aggregation, self.scaca, self.scmf),
            *(self.groups, self.heads, self.reach),
        )
        return AbundanceNetwork(abundances, reference, outputs, parts)

    @property
    def seen(self) -> int | None:
        """Coefficients that the network sees and gives; None: the spectral bands."""
        return self.abundances if self.reformulation else None

    @property
    def moves(self) -> bool:
        """Whether the network gives a flow at all."""
        return self.aggregation != "still"
