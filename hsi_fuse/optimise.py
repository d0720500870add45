"""The one training loop: schedule, stop rule, NaN guard, progress, history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hsi_fuse.errors import SolveError
from hsi_fuse.problem import OnStep


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes
    ----------
    steps : int
        Most steps.
    check_every : int
        Steps between two looks at the held-out score.
    patience : int
        Checks without a better score after which training stops.
    warm_up : float
        Fraction of the steps in which the learning rate rises; it falls along a cosine for the rest.
    flat : float, optional
        In place of rise and cosine: the fraction of the steps at the full rate, which then falls in a line.
    """

    steps: int
    check_every: int = 100
    patience: int = 6
    warm_up: float = 0.1
    flat: float | None = None

    def rates(self, optimiser: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """What sets the groups' learning rates, step by step."""
        steps = max(self.steps, 2)
        if self.flat is None:
            largest = [group["lr"] for group in optimiser.param_groups]
            # a rise that ends on the very first step is a division by zero in there
            rise = self.warm_up if self.warm_up * steps != 1 else self.warm_up + 1e-6
            return torch.optim.lr_scheduler.OneCycleLR(optimiser, largest, total_steps=steps, pct_start=rise)
        first = self.flat * steps
        falling = max(steps - first, 1.0)
        return torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(max((steps - step) / falling, 0.0), 1.0)
        )


@dataclass(frozen=True)
class Trained:
    """How a training went: the best step and its held-out score, and one history entry for each check."""

    best_step: int
    best_score: float
    history: tuple[dict[str, float], ...]


def train(
    network: nn.Module,
    groups: list[dict[str, object]],
    loss: Callable[[], Tensor],
    score: Callable[[], float],
    schedule: Schedule,
    on_step: OnStep,
    what: str,
    project: Callable[[], None] = lambda: None,
) -> Trained:
    """Minimise `loss` by Adam and leave `network` at its best held-out score.

    Parameters
    ----------
    network : Module
        Its state is kept whenever the score is better than before, and put back at the end.
    groups : list of parameter groups, each with its own `lr`
    loss : callable
        One step's loss; draws its own crop.
    score : callable
        Held-out score, lower is better; decides when to stop and which state to keep.
    schedule : Schedule
    on_step : callable
    what : str
        Name for the progress.
    project : callable
        After each step brings parameters back to where they must lie.

    Raises
    ------
    SolveError
        The loss was not finite before any state was worth keeping.
    """
    optimiser = torch.optim.Adam(groups)
    scheduler = schedule.rates(optimiser)
    best_score, best_step, best_state = float("inf"), -1, None
    history: list[dict[str, float]] = []
    for step in range(1, schedule.steps + 1):
        value = loss()
        if not bool(torch.isfinite(value)):
            break
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        project()
        scheduler.step()
        if step % schedule.check_every and step != schedule.steps:
            continue
        held_out = score()
        history.append({"step": step, "loss": float(value.detach()), "held_out": held_out})
        on_step(what, step, schedule.steps, held_out)
        if held_out < best_score:
            best_score, best_step = held_out, step
            best_state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        elif step - best_step >= schedule.patience * schedule.check_every:
            break
    if best_state is None:
        raise SolveError(
            f"{what}: training diverged at once; lower its learning rate (--set {what}.learning_rate=...)"
        )
    network.load_state_dict(best_state)
    return Trained(best_step, best_score, tuple(history))
