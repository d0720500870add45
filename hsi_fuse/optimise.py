"""The one training loop: schedule, stop rule, NaN guard, progress, history, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from hsi_fuse.checkpoints import Draw, Place, drawn, next_place, redraw
from hsi_fuse.errors import SolveError
from hsi_fuse.muon import Muon
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
    patience : int or None
        Checks without a better score after which training stops. None: it does not, and its last state is
        kept: for scores of so few pixels that they choose worse than a rate that has fallen to nothing.
    warm_up : float
        Fraction of the steps in which the learning rate rises; it falls along a cosine for the rest.
    flat : float, optional
        In place of rise and cosine: the fraction of the steps at the full rate, which then falls in a line.
    """

    steps: int
    check_every: int = 100
    patience: int | None = 6
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


class Descent:
    """One step down the gradient: by Adam, and by Muon for the groups that are marked `orthogonal`.

    Muon (`muon.py`) is for matrices between hidden layers.

    Parameters
    ----------
    groups : list of parameter groups
        Each with its own `lr` and, where it is for Muon, `orthogonal=True`.
    schedule : Schedule
        Sets the rates.
    """

    def __init__(self, groups: list[dict[str, Any]], schedule: Schedule) -> None:
        adam: list[dict[str, Any]] = []
        muon: list[dict[str, Any]] = []
        for group in (dict(g) for g in groups if g["params"]):
            (muon if group.pop("orthogonal", False) else adam).append(group)
        self.optimisers: list[torch.optim.Optimizer] = []
        if adam:
            self.optimisers.append(torch.optim.Adam(adam, fused=True))
        if muon:
            self.optimisers.append(Muon(muon))
        self.rates = [schedule.rates(optimiser) for optimiser in self.optimisers]

    def step(self, loss: Tensor) -> None:
        """One step, and on to the next rate."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            optimiser.step()
            rate.step()

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """All that the next step depends on: tensors by name, and for each optimiser what is JSON-ready."""
        tensors: dict[str, Tensor] = {}
        told = []
        for n, (optimiser, rate) in enumerate(zip(self.optimisers, self.rates, strict=True)):
            at = optimiser.state_dict()
            tensors |= {f"{n}.{i}.{name}": t for i, state in at["state"].items() for name, t in state.items()}
            told.append({"groups": at["param_groups"], "rate": rate.state_dict()})
        return tensors, told

    def resume(self, tensors: Mapping[str, Tensor], told: Sequence[Mapping[str, Any]]) -> None:
        """Go on from `state`."""
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in told]
        for name, tensor in tensors.items():
            n, index, moment = name.split(".", 2)
            states[int(n)].setdefault(int(index), {})[moment] = tensor
        for optimiser, rate, state, at in zip(self.optimisers, self.rates, states, told, strict=True):
            optimiser.load_state_dict({"state": state, "param_groups": at["groups"]})
            rate.load_state_dict(dict(at["rate"]))


@dataclass(frozen=True)
class Trained:
    """How a training went: the best step and its held-out score, and one history entry for each check."""

    best_step: int
    best_score: float
    history: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class _Reached:
    """How far a training has got. `best`: the network's state with the best held-out score."""

    step: int = 0
    best_step: int = -1
    best_score: float = float("inf")
    history: tuple[dict[str, float], ...] = ()
    finished: bool = False
    best: Mapping[str, Tensor] = field(default_factory=dict)


def train(
    network: nn.Module,
    groups: list[dict[str, Any]],
    loss: Callable[[], Tensor],
    score: Callable[[], float],
    schedule: Schedule,
    on_step: OnStep,
    what: str,
    project: Callable[[], None] = lambda: None,
    draws: Sequence[Draw] | None = None,
    hopeless: Callable[[int], bool] = lambda step: False,
) -> Trained:
    """Minimise `loss` and leave `network` at its best held-out score (or its last, see `Schedule`).

    Parameters
    ----------
    network : Module
        Its state is kept whenever the score is better than before, and put back at the end.
    groups : list of parameter groups, see `Descent`
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
    draws : sequence of generators, optional
        All that changes with `loss` beside the network: what it draws from. With them a training that was
        interrupted goes on from its checkpoint (`checkpoints.keeping`) as if it had not been. None: there is
        more that changes, and it starts anew.
    hopeless : callable
        Asked at every check, with the step: whether training is to end there.

    Raises
    ------
    SolveError
        The loss was not finite before any state was worth keeping.
    """
    descent = Descent(groups, schedule)
    place = next_place(what)
    if draws is None:
        place, draws = None, ()
    at = _resumed(place, network, descent, draws) if place else _Reached()
    already = at.finished
    while not at.finished and at.step < schedule.steps:
        value = loss()
        if not bool(torch.isfinite(value)):
            break
        descent.step(value)
        project()
        at = replace(at, step=at.step + 1)
        if at.step % schedule.check_every == 0 or at.step == schedule.steps:
            at = _checked(at, network, float(value.detach()), score(), schedule)
            last = at.history[-1]
            on_step(what, at.step, schedule.steps, last["held_out"], last["loss"])
            at = replace(at, finished=at.finished or hopeless(at.step))
        if place and place.due:
            _keep(place, at, network, descent, draws)
    if not at.best:
        raise SolveError(
            f"{what}: training diverged at once; lower its learning rate (--set {what}.learning_rate=...)"
        )
    if place and not already:
        _keep(place, replace(at, finished=True), network, descent, draws)
    network.load_state_dict(dict(at.best))
    return Trained(at.best_step, at.best_score, at.history)


def _checked(at: _Reached, network: nn.Module, loss: float, held_out: float, schedule: Schedule) -> _Reached:
    """After a look at the held-out score."""
    entry: dict[str, float] = {"step": at.step, "loss": loss, "held_out": held_out}
    at = replace(at, history=(*at.history, entry))
    if schedule.patience is None or held_out < at.best_score:
        best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        return replace(at, best_score=held_out, best_step=at.step, best=best)
    assert schedule.patience is not None
    return replace(at, finished=at.step - at.best_step >= schedule.patience * schedule.check_every)


def _keep(
    place: Place,
    at: _Reached,
    network: nn.Module,
    descent: Descent,
    draws: Sequence[Draw],
) -> None:
    """Write down all that the next step depends on."""
    moments, steps = descent.state()
    numbers, generators = drawn(draws)
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in at.best.items()}
    tensors |= {f"moment.{name}": t for name, t in moments.items()}
    told = asdict(replace(at, best={})) | {"descent": steps, "draws": generators}
    place.write(tensors | numbers, told)


def _resumed(
    place: Place,
    network: nn.Module,
    descent: Descent,
    draws: Sequence[Draw],
) -> _Reached:
    """Where a training had got when its last state was written; its start where there is none."""
    kept = place.read()
    if kept is None:
        return _Reached()
    tensors, told = kept

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    network.load_state_dict(under("network."))
    descent.resume(under("moment."), told["descent"])
    redraw(draws, tensors, told["draws"])
    reached = {f.name: told[f.name] for f in fields(_Reached) if f.name != "best"}
    return _Reached(**{**reached, "history": tuple(told["history"]), "best": under("best.")})
