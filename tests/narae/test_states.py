"""States by parameter name: any sharing of the elements is read at any place, and says what it lacks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from narae import states, tensors
from narae.log import Mistake


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("seen", torch.tensor(7))
        self.register_buffer("scratch", torch.tensor(1), persistent=False)


def trained(
    steps: int, seed: int = 0, kind: type[torch.optim.Optimizer] = torch.optim.AdamW
) -> tuple[Small, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Small()
    groups = [{"params": [model.first.weight, model.second.weight]}, {"params": [model.first.bias, model.second.bias]}]
    groups[1]["weight_decay"] = 0.0  # type: ignore[assignment]
    optimizer = kind(groups, lr=0.1)  # type: ignore[call-arg]
    for _ in range(steps):
        model.second(model.first(torch.ones(3))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def same(one: tuple[nn.Module, torch.optim.Optimizer], other: tuple[nn.Module, torch.optim.Optimizer]) -> bool:
    weights = zip(one[0].parameters(), other[0].parameters(), strict=True)
    kept = [
        torch.equal(one[1].state[mine][kind], other[1].state[yours][kind])
        for mine, yours in zip(one[0].parameters(), other[0].parameters(), strict=True)
        for kind in one[1].state[mine]
    ]
    return all(torch.equal(mine, yours) for mine, yours in weights) and all(kept) and len(kept) == 12


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: int = 1, **words: bool) -> None:
    for rank in range(ranks):
        pieces = states.pieces(model, optimizer, rank, ranks, **words)
        tensors.write(folder / f"states-{rank:05d}-of-{ranks:05d}.safetensors", pieces)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_state_comes_back(tmp_path: Path, ranks: int) -> None:
    was = trained(5)
    was[0].seen.fill_(9)  # type: ignore[operator]
    save(tmp_path, *was, ranks=ranks)
    now = trained(2, seed=1)
    assert not same(was, now)
    for group in now[1].param_groups:
        group["lr"] = 0.5
    states.load(tmp_path, *now)
    assert same(was, now)
    assert now[0].seen == 9  # type: ignore[comparison-overlap]
    # What a run is told stays what it was told
    assert [(group["lr"], group["weight_decay"]) for group in now[1].param_groups] == [(0.5, 0.01), (0.5, 0.0)]


def test_a_state_comes_into_an_optimizer_that_has_made_no_step(tmp_path: Path) -> None:
    was = trained(5)
    save(tmp_path, *was)
    now = trained(0, seed=1)
    states.load(tmp_path, *now)
    assert same(was, now)


def test_weights_alone(tmp_path: Path) -> None:
    was = trained(5)
    save(tmp_path, *was, weights_only=True)
    now = trained(0, seed=1)
    states.load(tmp_path, *now, weights_only=True)
    assert torch.equal(was[0].first.weight, now[0].first.weight)
    assert not now[1].state


def test_frozen_weights_are_left_out(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    model.first.requires_grad_(False)
    optimizer.param_groups[0]["params"] = [model.second.weight]
    optimizer.param_groups[1]["params"] = [model.second.bias]
    save(tmp_path, model, optimizer)
    with states.Stored(tmp_path) as stored:
        assert sorted(stored.names()) == ["second.bias", "second.weight", "seen"]


def test_pieces_are_read_across_their_borders(tmp_path: Path) -> None:
    values = torch.arange(10.0)
    tensors.write(
        tmp_path / "states-00000-of-00002.safetensors", {"a|weight|0": values[:4], "a|step|whole": torch.tensor(3)}
    )
    tensors.write(
        tmp_path / "states-00001-of-00002.safetensors", {"a|weight|4": values[4:], "a|exp_avg|4": values[4:] * 2}
    )
    with states.Stored(tmp_path) as stored:
        assert stored.read("a", "weight", 2, 6).tolist() == [2, 3, 4, 5, 6, 7]
        assert stored.read("a", "weight", 0, 10).tolist() == values.tolist()
        assert stored.read("a", "exp_avg", 5, 2).tolist() == [10, 12]
        assert stored.kinds("a") == ["exp_avg"]
        assert stored.whole("a")["step"] == 3
        with pytest.raises(Mistake, match=r"has 2 of 3 elements of a \(exp_avg\): it is of another model"):
            stored.read("a", "exp_avg", 3, 3)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="holds no states-"):
        states.Stored(tmp_path).__enter__()
    (tmp_path / "states-00000-of-00001.safetensors").write_bytes(b"nothing")
    with pytest.raises(Mistake, match="cannot be read"):
        states.Stored(tmp_path).__enter__()


def test_a_model_of_another_shape(tmp_path: Path) -> None:
    save(tmp_path, *trained(1))
    other = nn.ModuleDict({"first": nn.Linear(3, 5), "second": nn.Linear(4, 2)})
    with pytest.raises(Mistake, match=r"has 12 of 15 elements of first.weight \(weight\): it is of another model"):
        states.load(tmp_path, other, torch.optim.AdamW(other.parameters()))
    with pytest.raises(Mistake, match="has seen, which the model does not"):
        states.weights_of(tmp_path, nn.ModuleDict({"first": nn.Linear(3, 4), "second": nn.Linear(4, 2)}))


def test_an_optimizer_whose_state_has_another_shape(tmp_path: Path) -> None:
    """Adafactor keeps a row and a column of a matrix: they go along whole."""
    was = trained(3, kind=torch.optim.Adafactor)
    save(tmp_path, *was)
    now = trained(0, seed=1, kind=torch.optim.Adafactor)
    states.load(tmp_path, *now)
    for mine, yours in zip(was[0].parameters(), now[0].parameters(), strict=True):
        assert was[1].state[mine].keys() == now[1].state[yours].keys()
        for kind, value in was[1].state[mine].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(now[1].state[yours][kind])), kind
