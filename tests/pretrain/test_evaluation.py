"""Held-out figures against plain loops over single rows; a metric that shifts; samples that disturb nothing."""

import json
import math
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from helpers import SENTENCES
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from narae import artifact
from narae.artifact import open_artifact
from narae.documents import Document, ShardWriter
from narae.follow import Stopper
from narae.log import Mistake
from narae.mixture import Mixture
from narae.packed import PackedRows
from pretrain import evaluation, loss, pack, samples, scores
from pretrain.batches import Boundaries
from pretrain.evaluation import Judge, spread
from pretrain.loss import use_loss_head
from tokenizer import train

LENGTH = 16
SHAPE = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
}  # fmt: skip
SOURCE_OF = ["news", "", "books", "news"]  # of the documents in turn
TEXTS = [*SENTENCES[::31], "", "끝", *SENTENCES[3::37]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Held-out documents of three sources, as rows of 16 tokens."""
    folder = tmp_path_factory.mktemp("judged") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARAE_ARTIFACTS", str(folder))
        draft = artifact.begin("corpus", "sample", {})
        assert draft is not None
        with draft:
            for split, texts in (("train", SENTENCES), ("val", TEXTS)):
                with ShardWriter(draft.path, split) as writer:
                    for number, text in enumerate(texts):
                        writer.write(Document(f"{split}#{number}", text, SOURCE_OF[number % 4]))
                draft.counts[split] = {"documents": writer.documents, "bytes": writer.bytes}
        helpers.call(train.main, "--vocab_size", "384")
        helpers.call(pack.main, "--sequence_length", str(LENGTH))
        learn(folder / "model.pt")
        yield folder


def learn(file: Path) -> None:
    """Enough for some tokens to be foreseen."""
    torch.manual_seed(1)
    model, rows = PhiForCausalLM(PhiConfig(**SHAPE)), held_out()
    ids = torch.from_numpy(np.stack([rows[number] for number in range(len(rows))]))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(30):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), file)


def held_out() -> Mixture:
    return Mixture([PackedRows(open_artifact("packed", "sample"), "val")])


def judge(rank: int = 0, ranks: int = 1, apart: bool = True, **words: Any) -> Judge:
    args = SimpleNamespace(
        process_index=rank, world_size=ranks, device=torch.device("cpu"), per_device_eval_batch_size=3
    )
    return Judge(held_out(), tokenizer(), args, Boundaries(attention=apart), **words)


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(open_artifact("tokenizer", "sample").path)


def phi() -> Any:
    model = PhiForCausalLM(PhiConfig(**SHAPE, bos_token_id=0, eos_token_id=0, pad_token_id=1)).eval()
    model.load_state_dict(torch.load(artifact.root() / "model.pt"))
    return model


def in_head(model: Any) -> Any:
    assert use_loss_head(model)
    return model


def by_hand(model: Any, numbers: list[int], apart: bool = True) -> dict[str, Any]:
    """Row after row, token after token, with the texts' own bytes."""
    sums: dict[str, Counter[str]] = {}
    rows = held_out()
    file = tokenizer()
    for number in numbers:
        ids = rows[number].tolist()
        begin = 0
        places = []  # the end of a document begins the next one
        for place in range(LENGTH):
            begin = place if place and rows.positions(number)[place : place + 2].tolist()[1:] == [0] else begin
            places.append(place - begin)
        with torch.no_grad():
            words = {"position_ids": torch.tensor([places])} if apart else {}
            logs = model(input_ids=torch.tensor([ids]), use_cache=False, **words).logits[0].double().log_softmax(-1)
        for part in rows.sets[0].origin(number):
            source = SOURCE_OF[int(part.document.removeprefix("val#")) % 4] or "other"
            for place in range(part.start, part.stop):
                found = sums.setdefault(source, Counter())
                text = file.convert_ids_to_tokens(ids[place])
                found["tokens"] += 1
                found["bytes"] += 0 if ids[place] == 0 else len(text)
                if place:
                    found["loss"] -= logs[place - 1, ids[place]].item()
                    found["predicted"] += 1
                    found["right"] += logs[place - 1].argmax().item() == ids[place]
                    if part.start < place:
                        found["inside"] -= logs[place - 1, ids[place]].item()
                        found["predicted_inside"] += 1
    total = sum(sums.values(), Counter())
    return {**figures(total), "sources": {name: figures(one) for name, one in sorted(sums.items())}}


def figures(found: Counter[str]) -> dict[str, float]:
    mean = found["loss"] / found["predicted"]
    return {
        "loss": mean,
        "loss_inside": found["inside"] / found["predicted_inside"],
        "bits_per_byte": mean / math.log(2) * found["tokens"] / found["bytes"],
        "accuracy": found["right"] / found["predicted"],
        "tokens": found["tokens"],
        "bytes": found["bytes"],
    }


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["sources"].keys() == expected["sources"].keys()
    for key in ("loss", "loss_inside", "bits_per_byte", "accuracy"):
        assert found[key] == pytest.approx(expected[key], abs=2e-6), key
    for name, one in found["sources"].items():
        assert one == pytest.approx({key: expected["sources"][name][key] for key in one}, abs=2e-6), name
        assert list(one) == ["loss", "bits_per_byte", "accuracy", "tokens", "bytes"]


@pytest.mark.parametrize("apart", [True, False])
def test_figures_are_those_of_a_plain_loop(world: Path, apart: bool) -> None:
    expected = by_hand(phi(), list(range(len(held_out()))), apart)
    counts = held_out().sets[0].counts
    assert sum(one["bytes"] for one in expected["sources"].values()) == counts["bytes"] == helpers.nfc_bytes(TEXTS)
    assert sum(one["tokens"] for one in expected["sources"].values()) == counts["tokens"]
    assert expected["sources"].keys() == {"books", "news", "other"}
    assert 0 < expected["accuracy"] < 1
    for model in (in_head(phi()), phi()):  # judged in the head, and from whole logits
        found = judge(apart=apart).figures(model)
        compare(found, expected)
        assert list(found) == ["loss", "loss_inside", "bits_per_byte", "accuracy", "sources"]


def test_the_packed_counts_are_the_sources_own(world: Path) -> None:
    found = judge().figures(phi())["sources"]
    for name, one in held_out().sets[0].counts["sources"].items():
        assert {key: found[name][key] for key in ("tokens", "bytes")} == {key: one[key] for key in ("tokens", "bytes")}


def test_a_llama_is_judged_as_well(world: Path) -> None:
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    before = judge().figures(model)
    compare(judge().figures(in_head(model)), before)
    assert before["loss"] > 4


def test_nothing_hangs_on_how_much_is_done_at_a_time(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_head(phi())
    expected = judge().figures(model)
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 384 * 7)  # chunks end inside rows
    monkeypatch.setattr(evaluation, "BLOCK", 1)
    compare(judge().figures(model), expected)
    monkeypatch.setattr(evaluation, "LOGITS", 1)
    met = []
    stock = phi()
    stock.register_forward_pre_hook(lambda _, __, words: met.append(len(words["input_ids"])), with_kwargs=True)
    compare(judge().figures(stock), expected)
    assert set(met) == {1}


def test_rows_evenly_spaced(world: Path) -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 0) == spread(3, 3) == spread(3, 9) == [0, 1, 2]
    with pytest.raises(Mistake, match="--eval_rows -1: a number of rows"):
        spread(3, -1)
    found = judge(eval_rows=7).figures(in_head(phi()))
    compare(found, by_hand(phi(), spread(len(held_out()), 7)))
    assert sum(one["tokens"] for one in found["sources"].values()) <= 7 * LENGTH


def test_two_ranks_count_every_row_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric of another's sees all rows in their order, on whatever ranks they lay. Nothing is left anywhere."""
    (tmp_path / "order.py").write_text(ORDER)
    assert len(held_out()) % 2 == 1
    alone = {rows: judge(eval_rows=rows, metric=tmp_path / "order.py") for rows in (0, 8)}
    expected = [one.figures(in_head(phi())) for one in alone.values()]
    texts = [list(one) for one in alone[0].samples(in_head(phi()))]
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    torch.multiprocessing.spawn(on_rank, (str(tmp_path),), nprocs=2)
    assert list(home.iterdir()) == list(world.glob(".metrics*")) == []
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for one, other in zip(found["figures"], expected, strict=True):
            compare(one, other)
            assert one["order"] == other["order"]
        assert found["samples"] == texts
        assert found["broken off after"] == 2


def on_rank(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(in_head(phi()))
    both = [judge(rank, 2, eval_rows=rows, metric=f"{folder}/order.py") for rows in (0, 8)]
    found = {"figures": [one.figures(model) for one in both], "samples": both[0].samples(model)}
    found["broken off after"] = broken_off(judge(rank, 2), model, rank)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def broken_off(judge: Judge, model: Any, rank: int) -> int:
    """One rank gets a signal before the second look for one."""
    stopper, looks = Stopper(), []

    def stops() -> bool:
        looks.append(rank)
        stopper.asked = signal.SIGUSR1 if looks == [1, 1] else 0
        return stopper.agreed(torch.device("cpu"))

    evaluation.HEED = 2
    with pytest.raises(evaluation.BrokenOff):
        judge.figures(model, stops)
    assert stopper.asked == signal.SIGUSR1 and model.training
    return len(looks)


METRIC = """
import datasets
import evaluate
import numpy

class Own(evaluate.Metric):
    def _info(self):
        kind = {kind}
        features = datasets.Features({{"predictions": kind, "references": kind}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        {body}
"""
ROW = 'datasets.Sequence(datasets.Value("int64"))'
ORDER = METRIC.format(kind=ROW, body='return {"order": float(sum(n * sum(row) for n, row in enumerate(references)))}')


def test_next_token_by_hand(world: Path) -> None:
    [metric] = scores.load_metrics([scores.NEXT_TOKEN])
    # Behind 4 comes 5, and 5 was expected; behind 5 comes 8, and 7 was; what 9 would follow, nobody knows
    assert metric.compute(predictions=[[5, 7, 9]], references=[[4, 5, 8]]) == {"accuracy": 0.5, "tokens": 2}
    predictions, references = [[5, 8, 8, 3], [7, 6, 5, 1]], [[4, 5, 8, 8], [5, 7, -100, -100]]
    found = metric.compute(predictions=predictions, references=references)
    assert found == {"accuracy": 1.0, "tokens": 4}
    unshifted = [one == other for ours, theirs in zip(predictions, references, strict=True)
                 for one, other in zip(ours, theirs, strict=True) if other >= 0]  # fmt: skip
    assert sum(unshifted) / len(unshifted) == 1 / 6


def test_a_metric_of_another(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    body = 'return {"accuracy": numpy.mean(numpy.equal(predictions, references)), "each": [1, 2]}'
    file.write_text(METRIC.format(kind='datasets.Value("int64")', body=body))
    found = judge(metric=file).figures(in_head(phi()))
    assert found["own_accuracy"] == pytest.approx(found["accuracy"], abs=2e-6)  # single tokens come shifted
    assert "each" not in found
    file.write_text(METRIC.format(kind=ROW, body="raise ValueError('only 80 columns')"))
    with pytest.raises(Mistake, match=r"--metric .*own.py cannot judge these rows: only 80 columns"):
        judge(metric=file).figures(in_head(phi()))
    file.write_text("import a_library_of_nobody\n")
    with pytest.raises(Mistake, match=r"--metric .*own.py cannot be loaded: .*a_library_of_nobody"):
        judge(metric=file)


def test_samples_are_greedy_with_a_penalty(world: Path) -> None:
    model = phi()
    asked = judge(prompts=["나래는", "하늘은 시장에서"])
    found = asked.samples(model)
    assert [prompt for prompt, _ in found] == ["나래는", "하늘은 시장에서"]
    file = tokenizer()
    for prompt, text in found:
        ids = [0, *file(prompt, add_special_tokens=False)["input_ids"]]
        begin = len(ids)
        while len(ids) < LENGTH:
            with torch.no_grad():
                logits = model.eval()(input_ids=torch.tensor([ids])).logits[0, -1]
            for used in set(ids[begin:]):
                logits[used] = logits[used] / 1.2 if logits[used] > 0 else logits[used] * 1.2
            ids.append(int(logits.argmax()))
            if ids[-1] == 0:
                break
        assert text == file.decode(ids[begin:], skip_special_tokens=True).rstrip("\ufffd")
    with pytest.raises(Mistake, match=r"--prompts: '나래는.*' has \d+ tokens, rows have 16: shorten it"):
        judge(prompts=["나래는 학교 앞 도서관에서 책을 읽고 노래를 불렀다. " * 3])


def test_samples_disturb_nothing(world: Path) -> None:
    model = in_head(phi()).train()
    asked = judge()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    asked.samples(model)
    asked.figures(model)
    assert model.training and model.model.layers[0].training
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    with samples.undisturbed(model):  # nor would they if they drew
        random.random(), np.random.rand(), torch.rand(1)
        assert not model.training
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def always(token: int) -> Any:
    model = phi()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[token] = 9
    return model


def test_the_end_ends_it_and_no_half_syllable_is_shown(world: Path) -> None:
    file = tokenizer()
    half = file.convert_tokens_to_ids("ë")  # the byte that 나 begins with
    asked = judge(prompts=["나래"])
    assert file.decode([half]) == "\ufffd"
    assert asked.samples(always(half)) == [("나래", "")]
    assert asked.samples(always(0)) == [("나래", "")]
    whole = file("다", add_special_tokens=False)["input_ids"]
    if len(whole) == 1:
        assert set(asked.samples(always(whole[0]))[0][1]) == {"다"}


def test_prompts_begin_documents_of_different_sources(world: Path) -> None:
    found = judge().prompts
    assert found == judge().prompts
    assert len(found) == samples.PROMPTS
    begun = {SOURCE_OF[number % 4] for text in found for number, one in enumerate(TEXTS) if one.startswith(text)}
    assert begun == set(SOURCE_OF)
    assert all(any(one.startswith(text) for one in TEXTS) for text in found)
