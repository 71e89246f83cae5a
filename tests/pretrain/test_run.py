"""A training run does what it says, and survives what kills it."""

import os
import re
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
import torch
from helpers import HOME
from runs import finish, losses, pretrain, run_folder, same, small_world, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from narae.artifact import open_artifact
from narae.log import read_metrics
from narae.mixture import Mixture
from narae.model import from_values, new_model, read_json
from narae.order import Mixing, batch
from narae.packed import PackedRows
from pretrain import pack
from pretrain.batches import Boundaries, tensors

OPTIONS = (
    "--batch_rows 4 --per_device_train_batch_size 2 --max_steps 30 --warmup_steps 10 --learning_rate 0.002 "
    "--save_steps 5 --eval_steps 10 --logging_steps 1"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Packed rows of a few hundred sentences, a model of two layers, and one undisturbed run in fp32."""
    with small_world(tmp_path_factory.mktemp("pretrain")) as folder:
        (folder / "t5.json").write_text('{"model_type": "t5"}')
        done = finish(command(folder, "straight"))
        assert "finished" in done
        yield folder


def command(folder: Path, name: str, *words: str) -> subprocess.Popen[str]:
    return pretrain(folder, name, "--no_bf16", *OPTIONS.split(), *words)


def records(name: str, kind: str) -> list[dict[str, Any]]:
    return [one for one in read_metrics(run_folder(name) / "metrics.jsonl") if one["kind"] == kind]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def test_final_is_a_plain_hugging_face_folder(world: Path) -> None:
    final = open_artifact("model", "straight", verify=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(final.path), AutoTokenizer.from_pretrained(final.path)
    assert model.config.architectures == ["PhiForCausalLM"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0
    assert final.counts["parameters"] == sum(one.numel() for one in model.parameters())
    assert final.counts["steps"] == 30
    assert not (final.path / "training_args.bin").exists()


def test_the_first_loss_is_the_stock_models(world: Path) -> None:
    rows = Mixture([PackedRows(open_artifact("packed", "sample"))], seed=42)
    numbers = batch(rows.mixing, 0, 4).tolist()
    given = [tensors(rows, numbers[n : n + 2], Boundaries(attention=True)) for n in (0, 2)]
    assert losses("straight")[1] == pytest.approx(sum(stock(world)(**one).loss.item() for one in given) / 2, abs=2e-5)
    finish(command(world, "together", "--document_attention", "false", "--max_steps", "1", "--warmup_steps", "1"))
    ids = torch.tensor([rows[number].tolist() for number in numbers])
    labels = torch.tensor([rows.labels(number).tolist() for number in numbers])
    halves = [stock(world)(input_ids=ids[n : n + 2], labels=labels[n : n + 2]).loss.item() for n in (0, 2)]
    assert losses("together")[1] == pytest.approx(sum(halves) / 2, abs=2e-5)
    assert losses("together")[1] != pytest.approx(losses("straight")[1], abs=1e-4)


def test_it_learns_and_is_judged(world: Path) -> None:
    judged = [one for one in read_metrics(run_folder("straight") / "metrics.jsonl") if one["kind"] == "eval"]
    assert [one["step"] for one in judged] == [10, 20, 30]
    assert judged[-1]["bits_per_byte"] < judged[0]["bits_per_byte"]
    counts = open_artifact("packed", "sample").counts["val"]
    bits = judged[-1]["loss"] / 0.693147 * counts["tokens"] / counts["bytes"]
    assert judged[-1]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)


def test_again_does_nothing_and_another_config_is_refused(world: Path) -> None:
    assert "up to date" in finish(command(world, "straight"))
    refused = finish(command(world, "straight", "--learning_rate", "0.5"), code=1)
    assert "learning_rate = 0.002 instead of 0.5: --name makes another one, --overwrite replaces it" in refused
    assert len(refused.strip().splitlines()) == 1


def test_killed_and_resumed_is_the_same_to_the_bit(world: Path) -> None:
    process = command(world, "killed")
    wait_for(run_folder("killed") / "checkpoint-10", process)
    process.kill()
    process.communicate()
    assert not (run_folder("killed") / "final").exists()
    # the newest checkpoint is damaged, too: the one before is used
    newest = max(run_folder("killed").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    with (newest / "states-00000-of-00001.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    output = finish(command(world, "killed"))
    assert "states-00000-of-00001.safetensors does not have the hash that was written down" in output
    assert re.search(r"goes on from checkpoint-\d+", output)
    assert "[transformers]" not in output  # which would warn of a best checkpoint that lay elsewhere
    assert same(weights("killed"), weights("straight"))
    assert losses("killed") == losses("straight")


def test_a_signal_leaves_a_checkpoint_to_go_on_from(world: Path) -> None:
    process = command(world, "asked", "--save_steps", "1000", "--eval_steps", "1")
    wait_for(run_folder("asked") / "metrics.jsonl", process)
    while not losses("asked"):
        time.sleep(0.002)
    process.send_signal(signal.SIGUSR1)
    output = finish(process, code=85)
    step = int(re.findall(r"stopped by a signal after step (\d+)", output)[0])
    assert (run_folder("asked") / f"checkpoint-{step}" / "manifest.json").exists()
    assert f"goes on from checkpoint-{step}" in finish(command(world, "asked"))
    assert same(weights("asked"), weights("straight"))


# Starts one after the other, which import once; each gets a signal in the evaluation of which number, or none with 0
ASKED = """
import os, signal, sys
import narae.training, pretrain.trainer
from pretrain import evaluation, run
sys.argv[0] = {script!r}
judged, place = evaluation.Judge._pass, sys.argv.index("--turns")
turns = sys.argv.pop(place + 1)
del sys.argv[place]
def asked(self, model, numbers):
    global left
    left -= 0 in numbers
    if left == 0 and 0 in numbers:
        os.kill(os.getpid(), signal.SIGUSR1)
    return judged(self, model, numbers)
evaluation.Judge._pass = asked
for left in map(int, turns):
    child = os.fork()
    if child == 0:
        run.main()
        break
    assert os.waitstatus_to_exitcode(os.wait()[1]) == (85 if left else 0)
"""


def test_a_signal_breaks_off_an_evaluation_which_the_next_start_does(world: Path) -> None:
    """In training, once more where it goes on, and at the run's end."""
    (world / "judge.py").write_text(ASKED.format(script=str(HOME / "pretrain/run.py")))
    words = ["--name", "owing", "--model_config", str(world / "phi.json"), "--no_bf16", *OPTIONS.split()]
    line = [sys.executable, str(world / "judge.py"), "--turns", "2120", *words, "--per_device_eval_batch_size", "1"]
    finish(subprocess.Popen(line, cwd=world, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    told = [(one["kind"], one["step"]) for one in read_metrics(run_folder("owing") / "metrics.jsonl") if "step" in one]
    assert [one for one in told if one[0] in ("start", "eval", "stop")] == [
        ("start", 0), ("eval", 10), ("stop", 20), ("start", 20), ("stop", 20), ("start", 20), ("eval", 20),
        ("stop", 30), ("start", 30), ("eval", 30)
    ]  # fmt: skip
    figures = "step", "loss", "bits_per_byte", "accuracy", "sources"
    found, expected = (
        [[one[key] for key in figures] for one in records(name, "eval")] for name in ("owing", "straight")
    )
    assert found == expected
    assert same(weights("owing"), weights("straight")) and losses("owing") == losses("straight")


def test_an_unfinished_run_keeps_its_config(world: Path) -> None:
    process = command(world, "mine", "--max_steps", "100000")
    wait_for(run_folder("mine") / "checkpoint-5", process)
    second = finish(command(world, "mine", "--max_steps", "100000"), code=1)
    assert "another process trains in" in second
    process.kill()
    process.communicate()
    refused = finish(command(world, "mine", "--max_steps", "100000", "--seed", "7"), code=1)
    assert "unfinished run with seed unset instead of 7: --name starts another run, --overwrite" in refused
    assert "starts" in finish(command(world, "mine", "--seed", "7", "--max_steps", "2", "--overwrite"))


def stock(world: Path) -> Any:
    entries = open_artifact("packed", "sample").counts["entries"]
    return new_model(from_values(read_json(world / "phi.json"), entries, 32), seed=42)


def test_a_mixture_resumed_reads_the_same_rows(world: Path) -> None:
    helpers.corpus(helpers.SENTENCES[200:], helpers.SENTENCES[:100:37], name="news")
    helpers.call(pack.main, "--corpus", "news", "--name", "news", "--sequence_length", "32")
    mixed = ("--packed", "sample:0.7,news:0.3", "--max_steps", "20", "--save_steps", "10")
    said = finish(command(world, "mixed", *mixed, "--dataloader_num_workers", "2"))
    made = open_artifact("model", "mixed")
    assert [one["name"] for one in made.manifest["parents"]] == ["sample", "news"]
    sets = [PackedRows(open_artifact("packed", name)) for name in ("sample", "news")]
    read = [f"{share} of the rows, each {count / len(rows):.2f} times" for share, count, rows in
            (("70.0%", 56, sets[0]), ("30.0%", 24, sets[1]))]  # fmt: skip
    assert all(line in said for line in read)

    rows = Mixture(sets, ["7", "3"], seed=42)
    given = tensors(rows, batch(rows.mixing, 0, 4).tolist(), Boundaries(attention=True))
    assert losses("mixed")[1] == pytest.approx(stock(world)(**given).loss.item(), abs=2e-5)
    judged = records("mixed", "eval")[-1]
    tokens, size = (sum(one.artifact.counts["val"][key] for one in sets) for key in ("tokens", "bytes"))
    assert judged["bits_per_byte"] == pytest.approx(judged["loss"] / 0.693147 * tokens / size, rel=1e-4)

    process = command(world, "again", *mixed)
    wait_for(run_folder("again") / "checkpoint-10", process)
    process.kill()
    process.communicate()
    assert "goes on from checkpoint-10" in finish(command(world, "again", *mixed))
    assert same(weights("again"), weights("mixed"))
    others = finish(command(world, "mixed", *mixed[2:], "--packed", "sample:0.6,news:0.4"), code=1)
    assert "mixture = 'sample:7, news:3' instead of 'sample:3, news:2'" in others


def test_a_longer_run_goes_on_from_before_the_decay(world: Path) -> None:
    stable = ("--lr_scheduler_type", "warmup_stable_decay", "--save_total_limit", "1", "--warmup_steps", "5")
    finish(command(world, "long", *stable, "--max_steps", "30", "--report_to", "tensorboard"))
    events = next((run_folder("long") / "tensorboard").glob("events.out.tfevents.*")).read_bytes()
    told = [b"train/loss", b"train/mfu", b"train/tokens_per_s", b"eval/bits_per_byte", b"eval/other_bits_per_byte"]
    assert all(tag in events for tag in told)
    assert open_artifact("model", "long").manifest["config"]["train_tokens"] == 30 * 4 * 32
    finish(command(world, "grown", *stable, "--max_steps", "20", "--save_steps", "7", "--keep_every", "14"))
    rates = {one["step"]: one["learning_rate"] for one in records("grown", "train")}
    assert rates[6] == rates[17] == 0.002 > rates[18] > rates[20]
    # the one before the decay and every 14th are kept beside the best and the last
    kept = {path.name for path in run_folder("grown").glob("checkpoint-*")}
    assert {"checkpoint-14", "checkpoint-16", "checkpoint-20"} <= kept and "checkpoint-7" not in kept
    said = finish(command(world, "grown", *stable, "--train_tokens", "3840", "--max_steps", "-1"))
    assert "it goes on from checkpoint-16, where its learning rate had not begun to fall" in said
    assert same(weights("grown"), weights("long"))
    refused = finish(command(world, "grown", *stable, "--max_steps", "20"), code=1)
    assert "train_tokens = 3840 instead of 2560" in refused


def test_a_ramp_and_a_phase_are_resumed_where_they_were(world: Path) -> None:
    helpers.corpus(helpers.SENTENCES[200:], helpers.SENTENCES[:100:37], name="late")
    helpers.call(pack.main, "--corpus", "late", "--name", "late", "--sequence_length", "32")
    # 1,536 tokens are 48 rows: 4 steps of 4, then of 8; from row 32 on out of the other set
    words = ("--train_tokens", "1536", "--max_steps", "-1", "--batch_ramp", "512=8", "--phases", "1024=late")
    said = finish(command(world, "ramp", *words, "--save_steps", "3"))
    assert "steps 4 to 6: 8 rows each of sample:1" in said
    assert "steps 6 to 8: 8 rows each of late:1" in said
    train = records("ramp", "train")
    assert [one["rows"] for one in train] == [4, 8, 12, 16, 24, 32, 40, 48]
    sets = [PackedRows(open_artifact("packed", name)) for name in ("sample", "late")]
    assert train[-1]["epoch"] == {"sample": round(32 / len(sets[0]), 4), "late": round(16 / len(sets[1]), 4)}
    # the last row of a set is padded; all others have 31 tokens to predict
    assert 48 * 31 - 2 * 31 <= train[-1]["tokens"] <= 48 * 31
    # the schedule follows the rows: half of them are the middle of the cosine behind the warm-up of 2 steps
    shutil.copytree(run_folder("ramp"), run_folder("cut"))
    shutil.rmtree(run_folder("cut") / "final")
    shutil.rmtree(run_folder("cut") / "checkpoint-8")
    assert "goes on from checkpoint-6" in finish(command(world, "cut", *words, "--save_steps", "3"))
    assert same(weights("cut"), weights("ramp"))
    again = [one for one in records("cut", "train") if one["step"] > 6]
    assert [one["rows_hash"] for one in again[:2]] == [one["rows_hash"] for one in again[2:]]
    assert again[-1]["tokens"] == train[-1]["tokens"]


def test_documents_apart(world: Path) -> None:
    words = ("--document_attention", "--document_loss", "inside", "--max_steps", "2")
    # eager attention is another way to the same loss, and a trace of a step changes nothing
    finish(command(world, "apart", *words, "--attn_implementation", "eager", "--profile_steps", "2:2"))
    traced = run_folder("apart") / "profile"
    assert "aten::" in (traced / "steps-2-2-rank0.txt").read_text()
    assert (traced / "steps-2-2-rank0.json.gz").stat().st_size > 1000
    packed = PackedRows(open_artifact("packed", "sample"))
    rows = Mixture([packed], seed=42)
    numbers = batch(rows.mixing, 0, 4).tolist()
    given = [tensors(rows, numbers[n : n + 2], Boundaries(attention=True, inside=True)) for n in (0, 2)]
    model = stock(world)
    expected = sum(model(**one).loss.item() for one in given) / 2
    assert losses("apart")[1] == pytest.approx(expected, abs=2e-5)
    assert losses("apart")[1] != pytest.approx(losses("straight")[1], abs=1e-3)
    # judged with documents apart, on all predicted tokens and on those inside documents
    model = AutoModelForCausalLM.from_pretrained(run_folder("apart") / "final")
    held_out = Mixture([PackedRows(packed.artifact, "val")])
    for inside, key in ((False, "loss"), (True, "loss_inside")):
        total = count = 0.0
        for row in range(len(held_out)):
            one = tensors(held_out, [row], Boundaries(attention=True, inside=inside))
            targets = int((one["labels"][:, 1:] >= 0).sum())
            total, count = total + model(**one).loss.item() * targets, count + targets
        assert open_artifact("model", "apart").counts[key] == pytest.approx(total / count, abs=1e-5)
    refused = finish(command(world, "apart", *words[1:], "--document_attention", "false"), code=1)
    assert "document_attention = True instead of False" in refused


def test_a_damaged_row_ends_the_run_in_one_line(world: Path, tmp_path: Path) -> None:
    helpers.call(pack.main, "--name", "damaged", "--sequence_length", "32")
    file = open_artifact("packed", "damaged").path / "train-00000.bin"
    content = bytearray(file.read_bytes())
    for place in range(0, len(content), 64):
        content[place] ^= 1
    file.write_bytes(content)
    for workers in ("0", "1"):
        words = ("--packed", "damaged", "--dataloader_num_workers", workers, "--overwrite")
        said = finish(command(world, "on-damaged", *words), code=1).strip().splitlines()
        assert "train-00000.bin does not have its checksum: run `python pretrain/pack.py --name damaged" in said[-1]
        assert not [line for line in said if "Traceback" in line]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--packed", "absent"], "there is no packed in"),
        (["--packed", "sample:half"], "a weight of 'half'"),
        (["--document_loss", "outside"], "--document_loss outside: it is all or inside"),
        (["--batch_rows", "4", "--no_such_flag"], "unknown flag --no_such_flag"),
        (["--learning-rat", "1"], "did you mean --learning"),
        (["--deepspeed_config", "x.json"], "here it is --deepspeed FILE"),
        (["--deepspeed", "configs/ds/zero9.json"], "no such file"),
        (["--size", "7b"], "--size 7b: the sizes are tiny, 14m, 125m, 350m, 1.3b"),
        (["--config", "configs/pretrain/smaple.yaml"], "shipped are"),
        (["--metric_for_best_model", "accuray"], "accuracy, other_bits_per_byte"),
        (["--attn_implementation", "flash_attention_9"], '"flash_attention_9"` is not supported'),
        (["--model_config", "t5.json"], "transformers has no causal LM of model_type 't5'"),
        (["--report_to", "neptune"], "--report_to neptune needs the package neptune: pip install neptune"),
        (["--if_disk_full", "later"], "--if_disk_full later"),
        (["--keep_every", "-3"], "--keep_every -3"),
        (["--spike_window", "3"], "--spike_window 3: fewer than 16"),
        (["--batch_rows", "9", "--gradient_accumulation_steps", "2"], "leave the last one out, it follows"),
    ],
)
def test_one_clear_line(words: list[str], message: str, world: Path) -> None:
    script = [sys.executable, str(HOME / "pretrain/run.py"), "--name", "wrong", *words]
    done = subprocess.run(script, capture_output=True, text=True, cwd=world)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert not run_folder("wrong").exists()


def test_ranks_share_a_step(world: Path) -> None:
    rows = PackedRows(open_artifact("packed", "sample"))

    def numbers(rank: int, ranks: int) -> list[Any]:
        return batch(Mixing((len(rows),), (1,), 42), 3, 4, rank, ranks).tolist()

    assert numbers(0, 2) + numbers(1, 2) == numbers(0, 1)
