"""Fine-tuning learns the answers and nothing else, ends them, and survives what stops it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import pytest
import small_model
import torch
from helpers import HOME
from peft import PeftModel
from runs import finish, losses, run_folder, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune import prepare
from finetune.examples import POOL, ByLength, collate, encode
from narae.artifact import open_artifact
from narae.log import read_metrics

# Nine examples, three steps an epoch: a checkpoint lies within one.
FACTS = small_model.FACTS | {f"{n} 다음은 뭐예요?": f"{n + 1}이에요." for n in range(1, 6)}
OPTIONS = "--per_device_train_batch_size 4 --max_steps 80 --save_steps 10 --eval_steps 40 --logging_steps 1"
RECIPE = "--learning_rate 0.01 --warmup_steps 5 --weight_decay 0 --lr_scheduler_type constant_with_warmup --no_bf16"
TURNS = [
    {"role": "system", "content": "짧게."},
    {"role": "user", "content": "하늘은?"},
    {"role": "assistant", "content": "뷁, 파랗다."},
    {"role": "user", "content": "왜?"},
    {"role": "assistant", "content": "모른다."},
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pretrained model with random weights, nine facts to learn, and one undisturbed run."""
    folder = tmp_path_factory.mktemp("sft")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARAE_ARTIFACTS", str(folder / "artifacts"))
        patch.setenv("OMP_NUM_THREADS", "1")
        small_model.model()
        source = small_model.questions(folder / "chat.jsonl", FACTS)
        helpers.call(prepare.main, "--source", str(source), "--val_fraction", "0")
        # what is held out is what was learned: then all of it must be exact
        facts = open_artifact("examples", "sample")
        (facts.path / "val.jsonl").write_bytes((facts.path / "train.jsonl").read_bytes())
        facts.manifest["files"]["val.jsonl"] = facts.manifest["files"]["train.jsonl"]
        (facts.path / "manifest.json").write_text(json.dumps(facts.manifest))
        finish(command("straight"))
        yield folder


def command(name: str, *words: str, start: list[str] | None = None) -> subprocess.Popen[str]:
    script = [*(start or [sys.executable]), str(HOME / "finetune/sft.py"), "--name", name]
    script += [*OPTIONS.split(), *RECIPE.split(), *words]
    return subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answer(folder: Path, question: str) -> tuple[str, list[int]]:
    """By nothing but transformers and what generation_config.json says."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :].tolist()
    return tokenizer.decode(ids, skip_special_tokens=True).strip(), ids


def test_the_assistants_tokens_and_no_others(world: Path) -> None:
    tokenizer = small_model.tokenizer()

    def pieces(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    parts = [("<|system|> 짧게.<|prompt|> 하늘은?<|assistant|>", 0), (" 뷁, 파랗다.<|endofanswer|>", 1)]
    parts += [("<|prompt|> 왜?<|assistant|>", 0), (" 모른다.<|endofanswer|>", 1)]
    rows, too_long = encode(tokenizer, [TURNS], 128)
    assert too_long == 0
    assert rows[0]["input_ids"] == [token for text, _ in parts for token in pieces(text)]
    assert rows[0]["answer"] == [mine for text, mine in parts for _ in pieces(text)]
    assert len(pieces(" 뷁")) == 3  # an answer that begins with a part of a syllable


def test_a_row_predicts_its_answer_from_the_token_before(world: Path) -> None:
    rows = [{"input_ids": [2, 50, 3, 60, 61, 4], "answer": [0, 0, 0, 1, 1, 1]}]
    rows.append({"input_ids": [2, 3, 70, 4], "answer": [0, 0, 1, 1]})
    batch = collate(rows, pad=1)
    assert batch["input_ids"].tolist() == [[2, 50, 3, 60, 61, 4], [2, 3, 70, 4, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 60, 61, 4], [-100, -100, 70, 4, -100, -100]]
    assert batch["logits_to_keep"].tolist() == [1, 2, 3, 4]
    assert batch["shift_labels"].tolist() == [[-100, 60, 61, 4], [70, 4, -100, -100]]


def test_the_loss_is_that_of_whole_logits(world: Path) -> None:
    """Padding, the rows beside a row and the left-out logits change nothing."""
    model = AutoModelForCausalLM.from_pretrained(open_artifact("model", "sample").path).eval()
    tokenizer = small_model.tokenizer()
    rows, _ = encode(tokenizer, [TURNS, TURNS[1:3], TURNS[3:]], 128)
    with torch.no_grad():
        ours = model(**collate(rows, tokenizer.pad_token_id)).loss.item()
        single: list[torch.Tensor] = []
        for row in rows:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            chances = torch.log_softmax(logits, dim=-1)
            for place, (token, mine) in enumerate(zip(row["input_ids"], row["answer"], strict=True)):
                single += [-chances[place - 1, token]] if mine else []
    assert ours == pytest.approx(torch.stack(single).mean().item(), rel=1e-5)


def test_an_order_is_whole_grouped_and_known_by_its_seed() -> None:
    lengths = [(n * 7919) % 97 for n in range(1003)]
    order = ByLength(lengths, batch=8, seed=3)
    first = list(order)
    assert set(first) == set(range(1003))
    assert len(first) == len(order) == 1008  # five rows twice: 126 batches of eight
    assert list(ByLength(lengths, batch=8, seed=3)) == first
    order.set_epoch(1)
    assert list(order) != first
    assert list(ByLength(lengths, batch=8, seed=4)) != first
    batches = [[lengths[row] for row in first[n : n + 8]] for n in range(0, 1008, 8)]
    # of 400 rows that are sorted together, eight neighbours differ by about 97 / 50
    assert POOL == 50
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 3
    ends = [max(batch) for batch in batches]
    assert ends != sorted(ends)


def test_it_answers_exactly_and_ends(world: Path) -> None:
    final = open_artifact("model", "straight", verify=True)
    end = AutoTokenizer.from_pretrained(final.path).convert_tokens_to_ids("<|endofanswer|>")
    for question, expected in FACTS.items():
        text, ids = answer(final.path, question)
        assert text == expected
        assert ids[-1] == end
    settings = json.loads((final.path / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [end, 0]
    assert settings["pad_token_id"] == 1
    assert settings["max_new_tokens"] == 128
    assert not (final.path / "training_args.bin").exists()
    assert [parent["kind"] for parent in final.manifest["parents"]] == ["model", "examples"]
    assert final.counts["steps"] == 80
    assert final.counts["exact"] == 1.0


def test_what_is_written_down(world: Path) -> None:
    records = read_metrics(run_folder("straight") / "metrics.jsonl")
    assert [one["step"] for one in records if one["kind"] == "train"] == list(range(1, 81))
    judged = [one for one in records if one["kind"] == "eval"]
    assert [one["step"] for one in judged] == [40, 80]
    assert judged[-1]["exact"] == 1.0
    samples = {(one["step"], one["prompt"]): one["text"] for one in records if one["kind"] == "sample"}
    for question, expected in list(FACTS.items())[:5]:
        assert samples[0, question] != expected
        assert samples[80, question] == expected
    assert [record["kind"] for record in records[:2]] == ["open", "start"]
    assert records[-1]["kind"] == "end"


def test_again_does_nothing_and_loads_nothing(world: Path) -> None:
    code = f"import sys; sys.argv = {['sft.py', '--name', 'straight', *OPTIONS.split(), *RECIPE.split()]}\n"
    code += "from finetune import sft; sft.main(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME)
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stderr
    refused = finish(command("straight", "--learning_rate", "0.5"), code=1)
    assert "learning_rate = 0.01 instead of 0.5: --name makes another one, --overwrite replaces it" in refused


@pytest.mark.parametrize("how", ["killed", "asked"])
def test_stopped_and_resumed_is_the_same_to_the_bit(world: Path, how: str) -> None:
    process = command(how)
    while not (run_folder(how) / "checkpoint-10").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    if how == "killed":
        process.kill()
        process.communicate()
    else:
        process.send_signal(signal.SIGTERM)
        assert "the same command goes on from there" in finish(process, code=85)
    assert not (run_folder(how) / "final").exists()
    assert "goes on from checkpoint-" in finish(command(how))
    ours, straight = weights(how), weights("straight")
    assert all(torch.equal(ours[key], straight[key]) for key in straight)
    assert losses(how) == losses("straight")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_adapters_are_merged_and_kept(world: Path) -> None:
    words = "--method lora --lora_r 4 --lora_alpha 8 --learning_rate 0.03 --max_steps 120 --eval_steps 120".split()
    finish(command("adapted", *words))
    final, base = open_artifact("model", "adapted"), open_artifact("model", "sample")
    # on the four linear layers of attention and the two of the feed-forward, times rank
    assert final.counts["trained_parameters"] == 2 * 4 * (4 * (64 + 64) + 2 * (64 + 128))
    model = AutoModelForCausalLM.from_pretrained(base.path)
    adapted = PeftModel.from_pretrained(model, run_folder("adapted") / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(final.path).eval()
    ids = torch.arange(16, 80).unsqueeze(0)
    with torch.no_grad():
        ours, theirs = merged(input_ids=ids).logits, adapted(input_ids=ids).logits
        untouched = AutoModelForCausalLM.from_pretrained(base.path).eval()(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, untouched, atol=1e-1)
    records = read_metrics(run_folder("adapted") / "metrics.jsonl")
    judged = [one["loss"] for one in records if one["kind"] == "eval"]
    first = next(one["loss"] for one in records if one["kind"] == "train")
    assert judged[-1] < first - 0.5


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_two_ranks_take_the_same_steps(world: Path, engine: str) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["--per_device_train_batch_size", "2", "--max_steps", "8"]
    if engine == "zero2":
        pytest.importorskip("deepspeed")
        words += ["--deepspeed", "configs/ds/zero2.json"]
    finish(command(engine, *words, start=launch))
    ours, plain = losses(engine), losses("straight")
    assert [ours[step] for step in range(1, 9)] == pytest.approx([plain[step] for step in range(1, 9)], rel=1e-3)
    assert open_artifact("model", engine, verify=True).counts["steps"] == 8


def test_examples_longer_than_the_context_are_left_out_and_counted(world: Path) -> None:
    facts = dict(list(small_model.FACTS.items())[:3]) | {"아주 긴 질문은?" * 40: "대답이다."}
    source = small_model.questions(world / "long.jsonl", facts)
    helpers.call(prepare.main, "--source", str(source), "--val_fraction", "0", "--name", "long")
    output = finish(command("long", "--examples", "long", "--max_steps", "2"))
    assert "1 examples are longer than the model's 128 tokens and left out" in output
    counts = open_artifact("model", "long").counts
    assert (counts["train"], counts["too_long"]) == (3, 1)


def folder_with(world: Path, name: str, change: str) -> str:
    folder = world / name
    shutil.copytree(open_artifact("model", "sample").path, folder, dirs_exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    template = folder / "chat_template.jinja"
    if change == "tokenizer":
        (folder / "tokenizer.json").unlink()
    elif change == "template":
        template.unlink()
    elif change == "marks":
        text = template.read_text()
        template.write_text(text.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", ""))
    elif change == "weights":
        (folder / "model.safetensors").write_bytes(b"broken")
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tokenizer", "has no tokenizer.json"),
        ("template", "its tokenizer has no chat template"),
        ("marks", "no {% generation %} marks"),
        ("weights", "cannot be read"),
    ],
)
def test_a_folder_that_will_not_do(world: Path, change: str, message: str) -> None:
    output = finish(command("wrong", "--model", folder_with(world, f"no-{change}", change)), code=1)
    lines = [line for line in output.splitlines() if line.startswith("finetune/sft:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "absent"], "there is no model in"),
        (["--model", "./absent"], "no config.json in"),
        (["--examples", "absent"], "`python finetune/prepare.py --name absent` makes it"),
        (["--method", "qlora"], "--method qlora: the methods are full and lora"),
        (["--learning_rat", "1"], "did you mean --learning_rate?"),
    ],
)
def test_one_clear_line(world: Path, words: list[str], message: str) -> None:
    output = finish(command("wrong", *words), code=1)
    assert [line for line in output.splitlines() if message in line], output
    assert "Traceback" not in output
    assert not (run_folder("wrong") / "final").exists()


def test_any_folder_will_do(world: Path) -> None:
    folder = folder_with(world, "plain", "")
    finish(command("foreign", "--model", folder, "--max_steps", "8"))
    manifest: dict[str, Any] = open_artifact("model", "foreign").manifest
    assert [parent["kind"] for parent in manifest["parents"]] == ["examples"]
    assert manifest["inputs"]["model"]["model.safetensors"]
    ours, plain = losses("foreign"), losses("straight")
    assert [ours[step] for step in range(1, 9)] == [plain[step] for step in range(1, 9)]
