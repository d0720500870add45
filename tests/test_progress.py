"""What a training tells while it runs: held-out score, loss, and how long it still takes."""

import torch

from cli import console
from hsi_fuse.optimise import Schedule, train


def test_a_training_tells_its_held_out_score_and_its_loss():
    told = []
    network = torch.nn.Linear(1, 1)

    def loss() -> torch.Tensor:
        return (network(torch.ones(1, 1)) - 3).square().sum()

    groups = [{"params": list(network.parameters()), "lr": 0.1}]
    trained = train(
        network, groups, loss, lambda: 7.0, Schedule(6, 2, 9), lambda *step: told.append(step), "net"
    )
    assert [step[:4] for step in told] == [("net", n, 6, 7.0) for n in (2, 4, 6)]
    assert [step[4] for step in told] == [entry["loss"] for entry in trained.history]
    assert told[0][4] > told[-1][4] > 0


def test_plain_lines_tell_loss_and_time_left_of_a_training(capsys, monkeypatch):
    clock = iter([0.0, 2.0, 12.0, 52.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    lines = console.Lines()
    lines("align", 1, 1, 0.0)
    lines("uafl", 20, 100, 0.5, 0.25)
    lines("uafl", 100, 100, 0.4, 0.125)
    assert capsys.readouterr().err.splitlines() == [
        "    2.0 s  align 1/1",
        "   12.0 s  uafl 20/100  0.5  loss 0.25  40 s left",
        "   52.0 s  uafl 100/100  0.4  loss 0.125  0 s left",
    ]
