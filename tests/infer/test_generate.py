"""Text comes out whole, in whatever way it is asked for, and nothing else comes out with it."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import helpers
import pytest
import small_model
import torch
from helpers import HOME

from infer import generate
from infer.engine import Engine, Syllables
from narae import artifact
from narae.artifact import open_artifact
from narae.log import Mistake

QUESTIONS = list(small_model.FACTS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base model with random weights, and `sample-chat`, which has learned four facts by heart."""
    folder = tmp_path_factory.mktemp("generate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARAE_ARTIFACTS", str(folder / "artifacts"))
        patch.setenv("OMP_NUM_THREADS", "1")
        base = small_model.model()
        with artifact.begin("model", "sample-chat", {}, [base]) as draft:  # type: ignore[union-attr]
            learn_by_heart(base.path, draft.path)
        yield folder


def learn_by_heart(base: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), small_model.tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        for question, answer in small_model.FACTS.items():
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            ids = tokenizer.apply_chat_template(turns, return_dict=True, return_tensors="pt")["input_ids"]
            model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    end = tokenizer.convert_tokens_to_ids("<|endofanswer|>")
    model.generation_config = GenerationConfig(
        eos_token_id=[end, 0], pad_token_id=1, max_new_tokens=60, repetition_penalty=1.2
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def engine(name: str = "sample-chat", chat: str = "auto", penalize_prompt: bool = False, **options: object) -> Engine:
    return Engine(open_artifact("model", name).path, options, chat, 1, "float32", penalize_prompt)


def command(*words: str, given: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(HOME / "infer/generate.py"), *words]
    done = subprocess.run(script, input=given, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def test_syllables_come_whole(world: Path) -> None:
    tokenizer = small_model.tokenizer()
    text = "뷁과 쀍, 그리고 바닷가 😀 옆의 학교."
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) > 1.3 * len(text)  # many syllables are split
    pieces: list[str] = []
    streamer = Syllables(tokenizer, pieces.append)
    streamer.put(torch.tensor([[2, 3]]))  # the prompt, which is nobody's answer
    for token in tokens:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(pieces) == streamer.text == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len(pieces) > 10  # as it grows, not all at the end


def test_a_broken_end_is_not_kept_back_for_ever(world: Path) -> None:
    tokenizer = small_model.tokenizer()
    pieces: list[str] = []
    streamer = Syllables(tokenizer, pieces.append, strip=True)
    streamer.put(torch.tensor([[2]]))
    for token in tokenizer(" 가뷁", add_special_tokens=False)["input_ids"][:-1]:
        streamer.put(torch.tensor([token]))
    assert pieces == ["가"]
    streamer.end()
    assert streamer.text == "".join(pieces) == "가\N{REPLACEMENT CHARACTER}"


def test_answers_are_exact_and_end(world: Path) -> None:
    chat = engine()
    assert chat.chat
    for question, answer in small_model.FACTS.items():
        pieces: list[str] = []
        assert chat.answer(question, emit=pieces.append) == answer
        assert "".join(pieces) == answer
        assert len(pieces) > 5


def test_a_batch_is_what_each_is_alone(world: Path) -> None:
    """Random weights and prompts of many lengths: any fault of padding, mask or position changes some text."""
    for name in ("sample", "sample-chat"):
        one = engine(name, max_new_tokens=24, repetition_penalty=1.3)
        prompts = [question[: 1 + n] for n, question in enumerate(QUESTIONS * 3)] + ["", "가" * 30]
        together = dict(one.answers(prompts, batch_size=5))  # first: the pipeline changes the tokenizer's padding
        alone = [one.answer(prompt) for prompt in prompts]
        assert [together[n] for n in range(len(prompts))] == alone
        assert len(set(alone)) > 3


def test_the_penalty_leaves_the_prompt_alone(world: Path) -> None:
    """The library's own counts what was asked about: then a model cannot name it."""
    strong = engine(repetition_penalty=50.0)
    assert strong.answer(QUESTIONS[0])[:3] == "나래는"
    counting = engine(repetition_penalty=50.0, penalize_prompt=True)
    assert counting.answer(QUESTIONS[0])[:3] != "나래는"


def test_a_base_model_continues_a_text(world: Path) -> None:
    base = engine("sample")
    assert not base.chat
    assert base.text("바다") == "<|endoftext|>바다"
    assert engine("sample", chat="true").text("바다") == "<|prompt|> 바다<|assistant|>"
    assert engine("sample-chat", chat="false").text("바다") == "<|endoftext|>바다"


def test_beams_come_at_the_end(world: Path) -> None:
    pieces: list[str] = []
    assert engine(num_beams=3).answer(QUESTIONS[0], emit=pieces.append) == small_model.FACTS[QUESTIONS[0]]
    assert pieces == [small_model.FACTS[QUESTIONS[0]]]


def test_context_is_the_limit(world: Path) -> None:
    chat = engine("sample", max_new_tokens=1000)
    words = chat.tokenizer("가", add_special_tokens=False)["input_ids"]
    prompt = "가" * (120 // len(words))
    length = len(chat.ids(prompt))
    assert length + len(chat.tokenizer(chat.answer(prompt))["input_ids"]) <= 128 + 8
    with pytest.raises(Mistake, match="leaves no room in the model's 128"):
        chat.answer("가" * 200)


def test_one_prompt(world: Path) -> None:
    done = command("--prompt", QUESTIONS[1])
    assert done.stdout == small_model.FACTS[QUESTIONS[1]] + "\n"
    assert done.stderr == ""


def test_a_pipe_has_a_line_for_every_line(world: Path) -> None:
    done = command(given=f"{QUESTIONS[2]}\n\n{QUESTIONS[0]}\n")
    assert done.stdout == f"{small_model.FACTS[QUESTIONS[2]]}\n\n{small_model.FACTS[QUESTIONS[0]]}\n"
    assert done.stderr == ""


def test_a_terminal_has_a_prompt_loop(world: Path) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, str(HOME / "infer/generate.py")]
    with subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.write(ours, f"{QUESTIONS[3]}\n\n".encode())
        output, said = process.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    assert output == small_model.FACTS[QUESTIONS[3]] + "\n"
    assert "an empty line or Ctrl-D leaves" in said


def test_chance_has_a_seed(world: Path) -> None:
    words = ["--model", "sample", "--prompt", "나래는", "--do_sample", "true", "--temperature", "2.0"]
    first = command(*words, "--max_new_tokens", "12", "--seed", "3").stdout
    assert command(*words, "--max_new_tokens=12", "--seed", "3").stdout == first
    assert command(*words, "--max-new-tokens", "12", "--seed", "4").stdout != first


def test_files_become_answers(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = world / "questions_mine.jsonl"
    rows = [{"id": f"m-{n}", "question": q, "answer": a} for n, (q, a) in enumerate(small_model.FACTS.items())]
    rows.append({"id": "m-wrong", "question": QUESTIONS[0], "answer": "나래는 산에 살아요."})
    other = world / "exam.jsonl"
    other.write_text(json.dumps({"prompt": QUESTIONS[1]}) + "\n", encoding="utf-8")
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    words = ["--file", str(file), str(other), "--name", "mine"]
    helpers.call(generate.main, *words)
    found = open_artifact("answers", "mine", verify=True)
    assert found.counts["sets"] == {"mine": {"questions": 5, "exact": 4}, "exam": {"questions": 1, "exact": 0}}
    assert [parent["name"] for parent in found.manifest["parents"]] == ["sample-chat"]
    lines = [json.loads(line) for line in (found.path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["m-0", "m-1", "m-2", "m-3", "m-wrong", "exam-1"]
    assert lines[4] == {
        "id": "m-wrong",
        "question": QUESTIONS[0],
        "expected": "나래는 산에 살아요.",
        "set": "mine",
        "answer": "나래는 바닷가에 살아요.",
        "exact": False,
    }
    assert lines[5]["answer"] == small_model.FACTS[QUESTIONS[1]]
    assert "mine: 4 of 5 answered exactly (80.0%)" in capsys.readouterr().err
    helpers.call(generate.main, *words)
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(Mistake, match="max_new_tokens unset instead of 5"):
        helpers.call(generate.main, *words, "--max_new_tokens", "5")


def test_the_samples_question_files(world: Path) -> None:
    with artifact.begin("sample", "sample", {}, overwrite=True) as draft:  # type: ignore[union-attr]
        for label, question in (("wording", QUESTIONS[0]), ("unasked", QUESTIONS[1])):
            row = {"id": label, "question": question, "answer": small_model.FACTS[question], "entity": "나래"}
            (draft.path / f"questions_{label}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    helpers.call(generate.main, "--questions", "sample", "--overwrite")
    found = open_artifact("answers", "sample-chat")
    assert found.counts["sets"] == {label: {"questions": 1, "exact": 1} for label in ("unasked", "wording")}
    assert [parent["kind"] for parent in found.manifest["parents"]] == ["model", "sample"]


def test_without_a_model_it_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARAE_ARTIFACTS", str(tmp_path))
    done = command(code=1)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "`make demo` trains both" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temprature", "2"], "unknown flag --temprature: did you mean --temperature?"),
        (["--prompt", "x", "--do_sample", "true", "--temperature", "hot"], "`temperature` (=hot) has to be"),
        (["--prompt", "x", "--num_beams", "-1"], "nothing can be generated with these options"),
        (["--prompt", "x", "--chat", "maybe"], "--chat maybe: auto, true and false are known"),
        (["--prompt", "x", "--dtype", "int3"], "--dtype int3: auto,"),
        (["--model", "absent", "--prompt", "x"], "there is no model in"),
        (["--model", "./absent", "--prompt", "x"], "no config.json in"),
        (["--file", "absent.jsonl"], "there is no such file"),
    ],
)
def test_one_clear_line(world: Path, words: list[str], message: str) -> None:
    done = command(*words, code=1)
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("spoil", "message"), [("tokenizer.json", "has no tokenizer"), ("model.safetensors", "cannot be")]
)
def test_a_folder_that_will_not_do(world: Path, tmp_path: Path, spoil: str, message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(open_artifact("model", "sample-chat").path, folder)
    (folder / "manifest.json").unlink()
    (folder / spoil).unlink()
    done = command("--model", str(folder), "--prompt", "x", code=1)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr


def test_a_bad_question_is_named(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"question": "하늘은?"}\n{"id": 3}\n')
    with pytest.raises(Mistake, match=r"bad\.jsonl, line 2: no JSON object with a question"):
        helpers.call(generate.main, "--file", str(file), "--name", "bad")
    assert artifact.find("answers", "bad") is None
