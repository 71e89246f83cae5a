"""Documents in one row, apart or together; and the loader that gives each row once, whoever reads it."""

from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PhiConfig, PhiForCausalLM

from narae import artifact
from narae.artifact import open_artifact
from narae.log import Mistake
from narae.mixture import Mixture
from narae.order import Cursor, Mixing, batch
from narae.packed import PackedRows, PackedWriter, dtype_for
from pretrain.batches import Batches, Boundaries, tensors
from pretrain.loss import use_loss_head
from pretrain.segments import Course, Segment

SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
EOS, PAD = 0, 1
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
APART = Boundaries(attention=True)


@pytest.fixture
def rows(artifacts: Path) -> Mixture:
    """Row n is: two tokens of an earlier document, one of three tokens, one of two, and padding."""
    draft = artifact.begin("packed", "sample", {}, [helpers.corpus()])
    assert draft is not None
    with draft:
        draft.counts.update(dtype="uint16", sequence_length=8, eos=EOS, pad=PAD)
        with PackedWriter(draft.path, "train", dtype_for(300), 8, 3, PAD) as writer:
            for row in range(8):
                ids = np.array([50 + row, EOS, 20, 21, EOS, 30 + row, EOS, PAD])
                writer.write(ids, np.array([0, 2, 5]), np.arange(3) + 3 * row, np.array([1, 0, 0]))
        draft.counts["train"] = {**writer.counts, "bytes": 1}
    return opened()


def opened() -> Mixture:
    return Mixture([PackedRows(open_artifact("packed", "sample"))], seed=3)


def test_what_the_model_is_given(rows: Mixture) -> None:
    given = tensors(rows, [4], Boundaries())
    assert given.keys() == {"input_ids", "labels", "use_cache"}
    assert given["input_ids"].tolist() == [[54, 0, 20, 21, 0, 34, 0, 1]]
    assert given["labels"].tolist() == [[54, 0, 20, 21, 0, 34, 0, -100]]
    given = tensors(rows, [4], Boundaries(attention=True, inside=True))
    # The end of a document is where the next one begins to see
    assert given["position_ids"].tolist() == [[0, 0, 1, 2, 0, 1, 0, 1]]
    assert given["labels"].tolist() == [[-100, 0, -100, 21, 0, -100, 0, -100]]
    assert "attention_mask" not in given


def phi(attention: str) -> Any:
    torch.manual_seed(1)
    model = PhiForCausalLM(PhiConfig(**SHAPE, attn_implementation=attention))
    assert use_loss_head(model)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
def test_no_document_sees_another(rows: Mixture, attention: str, training: bool) -> None:
    model = phi(attention).train(training)
    for boundaries in (APART, Boundaries()):
        given = {key: value for key, value in tensors(rows, [0, 1], boundaries).items() if key != "labels"}
        before = model(**given).logits
        given["input_ids"] = given["input_ids"].clone()
        given["input_ids"][:, 2:4] = torch.tensor([70, 71])  # the document in the middle
        after = model(**given).logits
        assert torch.equal(before[:, :2], after[:, :2])  # what comes before never sees it
        assert not torch.isclose(before[:, 2:4], after[:, 2:4]).all(-1).any()
        same = torch.equal(before[:, 4:], after[:, 4:])
        assert same == boundaries.attention
        if not boundaries.attention:
            assert not torch.isclose(before[:, 4:], after[:, 4:]).all(-1).any()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_document_is_as_if_alone(rows: Mixture, attention: str) -> None:
    model = phi(attention).eval()
    given = {key: value for key, value in tensors(rows, [0], APART).items() if key != "labels"}
    alone = model(input_ids=given["input_ids"][:, 1:4]).logits  # behind an end token, as a prompt is
    torch.testing.assert_close(model(**given).logits[:, 1:4], alone)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("apart", [False, True])
def test_no_gradient_goes_to_another_document(rows: Mixture, attention: str, apart: bool) -> None:
    """Through the loss in the head, as training goes."""
    model = phi(attention).train()
    given = tensors(rows, [0], Boundaries(attention=apart))
    given["labels"][:, :6] = -100  # only the end of the last document is predicted, from its first token
    model(**given).loss.backward()
    touched = model.model.embed_tokens.weight.grad.abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == ([0, 30] if apart else [0, 20, 21, 30, 50])


@pytest.mark.parametrize("grad", [False, True])
def test_loss_inside_leaves_first_tokens_out(rows: Mixture, grad: bool) -> None:
    model = phi("eager")
    with torch.set_grad_enabled(grad):
        loss = model(**tensors(rows, [0], Boundaries(inside=True))).loss.item()
    ids = torch.tensor([[50, 0, 20, 21, 0, 30, 0, 1]])
    logs = model(input_ids=ids).logits.log_softmax(-1)[0]
    predicted = [(0, 0), (2, 21), (3, 0), (5, 0)]  # (from which place, which token)
    assert loss == pytest.approx(-sum(logs[place, token].item() for place, token in predicted) / 4, rel=1e-5)


def course(rows: Mixture, steps: int, batch_rows: int, start: Cursor) -> Course:
    return Course([Segment(0, start.position, batch_rows, rows.mixing, start)], steps)


def read(rows: Mixture, workers: int, batch_rows: int = 8, first: int = 0, steps: int = 6, **words: Any) -> list[int]:
    """The rows that come out, in order; each tells its number by its first token."""
    way = course(rows, steps, batch_rows, words.get("start", Cursor()))
    batches = Batches(rows, way, 2, first_step=first, rank=words.get("rank", 0), ranks=words.get("ranks", 1))
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    return [int(ids) - 50 for given in loader for part in given["micro"] for ids in part["input_ids"][:, 0]]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_take_turns(rows: Mixture, workers: int) -> None:
    expected = rows.mixing(np.arange(8, 48)).tolist()
    assert read(rows, 0, first=1) == expected
    assert read(rows, workers, first=1) == expected
    assert sorted(expected[:8]) == list(range(8))  # an epoch


def test_every_row_once_for_any_ranks_and_workers(rows: Mixture) -> None:
    start = Cursor(8).without(10, 26)
    expected = [batch(rows.mixing, step, 8, start=start).tolist() for step in range(6)]
    for ranks in (1, 2, 4):
        mine = []
        for rank in range(ranks):
            mine.append(np.reshape(read(rows, ranks % 3, rank=rank, ranks=ranks, start=start), (6, -1)))
        assert np.concatenate(mine, axis=1).tolist() == expected


def test_the_first_batch_at_any_depth_is_computed(rows: Mixture) -> None:
    deep = read(rows, 0, first=10**9, steps=10**9 + 1)
    assert deep == Mixing((8,), (1,), 3)(np.arange(8 * 10**9, 8 * 10**9 + 8)).tolist()


def test_a_worker_tells_what_is_wrong(rows: Mixture) -> None:
    file = rows.sets[0].files[0]
    content = bytearray(file.read_bytes())
    content[16] ^= 1  # in row 1
    file.write_bytes(content)
    batches = Batches(opened(), course(opened(), 2, 8, Cursor()), 8)
    with pytest.raises(Mistake, match=r"row 1 in .* does not have its checksum"):
        next(iter(batches))
    first = next(iter(DataLoader(batches, batch_size=None, num_workers=1)))
    assert first["mistake"].startswith("row 1 in ")
