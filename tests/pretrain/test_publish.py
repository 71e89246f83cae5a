"""A checkpoint becomes a folder that generate takes, whatever ZeRO left in it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import helpers
import pytest
import torch
from helpers import HOME
from runs import TWO_RANKS, finish, pretrain, run_folder, same, small_world, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from narae.artifact import hash_file, maker, open_artifact
from narae.log import Mistake, read_metrics
from pretrain import publish

OPTIONS = (
    "--batch_rows 4 --per_device_train_batch_size 1 --max_steps 4 --warmup_steps 1 --learning_rate 0.01 "
    "--save_steps 2 --eval_steps 2 --save_total_limit 5"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run in bf16 whose weights two ranks shared out, by ZeRO-3; its checkpoints are those of steps 2 and 4."""
    pytest.importorskip("deepspeed")
    with small_world(tmp_path_factory.mktemp("publish")) as folder:
        words = [*OPTIONS.split(), "--deepspeed", "configs/ds/zero3.json"]
        finish(pretrain(folder, "parts", *words, start=TWO_RANKS))
        yield folder


def make(*words: str) -> None:
    helpers.call(publish.main, *words)


def bare(name: str, *without: str) -> Path:
    """Another run with the last checkpoint of `parts`, as far as it was saved without these files."""
    checkpoint = run_folder(name) / "checkpoint-4"
    shutil.copytree(run_folder("parts") / "checkpoint-4", checkpoint)
    for file in ("config.yaml", "metrics.jsonl"):
        shutil.copy(run_folder("parts") / file, run_folder(name))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for pattern in without:
        for file in checkpoint.glob(pattern):
            file.unlink()
            del manifest["files"][str(file.relative_to(checkpoint))]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return checkpoint


def logits(name: str) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(run_folder(name) / "final", dtype="auto").eval()
    return model(torch.arange(2, 34).unsqueeze(0)).logits


def test_the_last_checkpoint_is_the_final_model(world: Path) -> None:
    make("--run", "parts", "--checkpoint", "last")
    made, final = open_artifact("model", "parts-4", verify=True), open_artifact("model", "parts", verify=True)
    assert same(weights("parts-4"), weights("parts"))
    assert torch.equal(logits("parts-4"), logits("parts"))
    assert {one.dtype for one in weights("parts-4").values()} == {torch.bfloat16}
    assert made.manifest["parents"] == final.manifest["parents"]
    assert (made.counts["steps"], made.counts["tokens"]) == (4, 4 * 4 * 32)
    judged = [one for one in read_metrics(run_folder("parts") / "metrics.jsonl") if one["kind"] == "eval"][-1]
    assert made.counts["bits_per_byte"] == judged["bits_per_byte"]
    assert made.counts["parameters"] == final.counts["parameters"]
    kept = ["tokenizer.json", "chat_template.jinja", "generation_config.json"]
    assert [hash_file(made.path / file) for file in kept] == [hash_file(final.path / file) for file in kept]
    assert len(AutoTokenizer.from_pretrained(made.path)) == 384


def test_generate_speaks_from_it(world: Path) -> None:
    make("--run", "parts", "--checkpoint", "2", "--name", "spoken")
    assert open_artifact("model", "spoken").counts["steps"] == 2
    words = ["--model", "spoken", "--prompt", "나래는", "--max_new_tokens", "8", "--do_sample", "false"]
    script = [sys.executable, str(HOME / "infer/generate.py"), *words]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_masters_are_put_together(world: Path) -> None:
    make("--run", "parts", "--checkpoint", "last", "--dtype", "float32", "--name", "masters")
    whole, rounded = weights("masters"), weights("parts")
    assert {one.dtype for one in whole.values()} == {torch.float32}
    assert same({name: one.bfloat16() for name, one in whole.items()}, rounded)
    assert not same(whole, {name: one.float() for name, one in rounded.items()})
    # The same in a run that has not ended yet, in the dtype that it was trained in
    bare("unfinished")
    make("--run", "unfinished", "--checkpoint", "last")
    assert same(weights("unfinished-4"), rounded)
    assert torch.equal(logits("unfinished-4"), logits("parts"))


def test_the_best_is_the_one_that_the_run_says(world: Path) -> None:
    checkpoint = bare("judged")
    shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-2"))
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    evaluated = [one for one in read_metrics(run_folder("parts") / "metrics.jsonl") if one["kind"] == "eval"]
    assert publish.best_step(checkpoint) == min(evaluated, key=lambda one: one["bits_per_byte"])["step"]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state | {"best_global_step": 2}))
    assert publish.choose(run_folder("judged"), "best").name == "checkpoint-2"
    (checkpoint / "trainer_state.json").write_text(json.dumps(state | {"best_global_step": None}))
    with pytest.raises(Mistake, match="up to step 4 nothing was judged"):
        make("--run", "judged")


def test_again_does_nothing_and_another_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--run", "parts", "--checkpoint", "4", "--name", "again")
    make(*words)
    capsys.readouterr()
    make(*words)
    assert "model 'again' is up to date" in capsys.readouterr().err
    with pytest.raises(Mistake, match="checkpoint = 4 instead of 2: --name makes another one, --overwrite replaces it"):
        make(*words[:3], "2", *words[4:])
    make(*words[:3], "2", *words[4:], "--overwrite")
    again = open_artifact("model", "again")
    assert again.counts["steps"] == 2
    command = "python pretrain/publish.py --run parts --checkpoint 2 --dtype auto --name again"
    assert maker("model", "again", again) == command


def test_rows_that_are_gone_are_not_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = open_artifact("packed", "sample").path
    packed.rename(packed.with_name(".away"))
    make("--run", "parts", "--checkpoint", "4", "--name", "orphan")
    packed.with_name(".away").rename(packed)
    assert "the run's packed rows are not in" in capsys.readouterr().err
    assert open_artifact("model", "orphan", verify=True).manifest["parents"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "absent"], "--run absent: there is no training run in .*; there are: .*parts"),
        (["--run", "parts", "--checkpoint", "3"], "--checkpoint 3: of step 3 there is none; there are 4, 2"),
        (["--run", "parts", "--checkpoint", "first"], "it is best, last or a step; there are 4, 2"),
        (["--run", "parts", "--name", "parts"], "--name parts: the training run in .* makes that model"),
        (["--run", "parts", "--name", "foreign"], "foreign/final is in the way: it has no manifest"),
        (["--run", "parts", "--dtype", "int8"], "--dtype int8: it is auto, float32, bfloat16"),
        (["--run", "empty"], "there is no checkpoint in .*/runs/empty yet"),
        (["--run", "flipped"], "checkpoint-4 is damaged .*course.json does not have the hash.*there are no others"),
        (["--run", "hollow"], "checkpoint-4 holds no states"),
        (["--run", "half"], r"checkpoint-4 has [\d,]+ of [\d,]+ elements of .*: it is of another model"),
        (["--run", "other"], "checkpoint-4 is not one of pretrain/run.py"),
    ],
)
def test_one_clear_line(words: list[str], message: str, world: Path) -> None:
    kind = words[1]
    if kind == "empty":
        run_folder(kind).mkdir()
        shutil.copy(run_folder("parts") / "config.yaml", run_folder(kind))
    elif kind == "flipped":
        file = bare(kind) / "course.json"
        file.write_bytes(file.read_bytes()[:-1] + b" ")
    elif kind == "hollow":
        bare(kind, "states-*")
    elif kind == "half":
        bare(kind, "states-00001-*")
    elif kind == "other":
        bare(kind, "course.json")
    elif "foreign" in words:
        (run_folder("foreign") / "final").mkdir(parents=True)
        (run_folder("foreign") / "final/notes.txt").touch()
    choice = [] if "--checkpoint" in words else ["--checkpoint", "last"]
    with pytest.raises(Mistake, match=message):
        make(*words, *choice)
    assert not (run_folder(f"{kind}-4") / "final").exists() or kind == "parts"
