"""The training loop."""

import pytest
import torch
from torch import nn

from hsi_fuse.optimise import Descent, Schedule, Trained, train
from hsi_fuse.problem import silent


def rates(schedule: Schedule) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = schedule.rates(optimiser), []
    for _ in range(schedule.steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


def test_a_flat_schedule_falls_in_a_line_after_its_flat_part():
    found = rates(Schedule(100, flat=0.2))
    assert found[:20] == [1.0] * 20
    assert found[60] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(1 / 80)


def test_the_usual_schedule_rises_and_falls():
    found = rates(Schedule(100, warm_up=0.1))
    assert max(found) == pytest.approx(1.0)
    assert found.index(max(found)) in (8, 9, 10)
    assert found[0] < 0.1
    assert found[-1] < 0.01


@pytest.mark.parametrize("steps", [1, 2, 10, 11])
def test_few_steps_have_rates_too(steps):
    assert all(0 < rate <= 1 for rate in rates(Schedule(steps)))


def test_parameters_are_brought_back_after_each_step():
    layer = nn.Linear(1, 1, bias=False)
    seen = []

    def project() -> None:
        seen.append(float(layer.weight.detach()))
        layer.weight.data.clamp_(0, 1)

    groups: list[dict[str, object]] = [{"params": [layer.weight], "lr": 0.5}]
    train(
        layer,
        groups,
        lambda: (layer.weight - 3).abs().sum(),
        lambda: float((layer.weight.detach() - 3).abs()),
        Schedule(20, 5, flat=1.0),
        silent,
        "test",
        project,
    )
    assert len(seen) == 20
    assert max(seen) > 1
    assert float(layer.weight.detach()) == 1


def test_steps_of_an_orthogonal_group_treat_all_directions_alike():
    draw = torch.Generator().manual_seed(0)
    layer = nn.Linear(24, 16, bias=False)
    before = layer.weight.detach().clone()
    slope = torch.randn(16, 24, generator=draw) * torch.logspace(0, -2, 16)[:, None]
    groups = [{"params": [layer.weight], "lr": 1.0, "orthogonal": True}, {"params": [], "lr": 1.0}]
    loss = lambda: (layer.weight * slope).sum()  # noqa: E731
    train(layer, groups, loss, lambda: 0.0, Schedule(1, 1, flat=1.0), silent, "test")
    moved = torch.linalg.svdvals(layer.weight.detach() - before)
    assert float((layer.weight.detach() - before).flatten() @ slope.flatten()) < 0
    assert float(moved.max() / moved.min()) < 2  # the gradient's are apart by a hundred


def test_both_kinds_of_steps_go_on_from_where_they_stood():
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(16, 16, generator=draw)

    def descended(halves: int) -> torch.Tensor:
        layer = nn.Linear(16, 16)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        kept = None
        for _ in range(halves):
            groups = [
                {"params": [layer.weight], "lr": 0.1, "orthogonal": True},
                {"params": [layer.bias], "lr": 0.1},
            ]
            descent = Descent(groups, Schedule(20))
            if kept is not None:
                descent.resume(*kept)
            for _ in range(20 // halves):
                descent.step(((layer.weight + layer.bias - target) ** 2).mean())
            kept = descent.state()
        return layer.weight.detach()

    assert torch.equal(descended(1), descended(2))


def learn(schedule: Schedule, scores: list[float], **how: object) -> tuple[float, Trained]:
    """A weight that grows by one each step; its value at the end."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.zero_()

    def grow() -> None:
        layer.weight.data.fill_(round(float(layer.weight.detach())) + 1.0)

    left = iter(scores)
    groups: list[dict[str, object]] = [{"params": [layer.weight], "lr": 1e-4}]
    loss, score = (lambda: layer.weight.sum()), (lambda: next(left))
    trained = train(layer, groups, loss, score, schedule, silent, "test", grow, **how)
    return float(layer.weight.detach()), trained


def test_patience_ends_training_and_the_best_state_is_put_back():
    at, trained = learn(Schedule(50, 5, patience=2), [3.0, 1.0, 2.0, 2.0])
    assert (at, trained.best_step, len(trained.history)) == (10, 10, 4)


def test_without_patience_it_goes_to_the_end_and_the_last_state_stays():
    at, trained = learn(Schedule(20, 5, patience=None), [3.0, 1.0, 2.0, 2.5])
    assert (at, trained.best_step, trained.best_score) == (20, 20, 2.5)


def test_a_training_without_hope_ends_where_it_is_said():
    at, trained = learn(Schedule(20, 5, patience=None), [3.0, 2.0], hopeless=lambda step: step == 10)
    assert (at, trained.best_step, len(trained.history)) == (10, 10, 2)
