"""What a run is told becomes its course and its identity, before anything large is imported."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import pytest
from runs import small_world

from narae.config import parse_first
from narae.log import Mistake
from narae.model import SIZES
from pretrain import run
from pretrain.segments import Course
from pretrain.settings import Config, check, course_of, identity_of, sets_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_world(tmp_path_factory.mktemp("settings")) as folder:  # rows of 32 tokens
        yield folder


def told(*words: str) -> tuple[Config, dict[str, Any], Course, dict[str, Any]]:
    """As main does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pretrain/run.py", *words])
        config, asked = parse_first(Config, config=run.CONFIG)
        check(config, asked)
        sets = sets_of(config)
        course = course_of(config, asked, sets)
        return config, asked, course, identity_of(config, asked, course, sets)


@pytest.mark.parametrize("size", SIZES)
def test_a_size_brings_its_recipe(size: str, world: Path) -> None:
    _, _, course, identity = told("--size", size, "--train_tokens", "1M")
    advice = SIZES[size]
    assert identity["learning_rate"] == advice.learning_rate
    assert identity["warmup_steps"] == advice.warmup_steps
    assert course.segments[0].batch_rows == identity["batch_rows"] == advice.batch_rows
    _, _, course, identity = told("--size", size, "--learning_rate", "1e-5", "--batch_rows", "6", "--max_steps", "3")
    assert (identity["learning_rate"], identity["batch_rows"], course.rows) == (1e-5, 6, 18)


def test_larger_models_learn_more_slowly_in_larger_batches() -> None:
    table = list(SIZES.values())
    assert [one.learning_rate for one in table] == sorted((one.learning_rate for one in table), reverse=True)
    assert [one.batch_rows for one in table] == sorted(one.batch_rows for one in table)


@pytest.mark.parametrize(("layers", "width", "size"), [(2, 64, "tiny"), (24, 1024, "350m"), (26, 1024, "350m")])
def test_another_model_is_trained_as_the_nearest_size(layers: int, width: int, size: str, world: Path) -> None:
    file = world / "llama.json"
    values = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4}
    file.write_text(json.dumps(values))
    _, _, _, identity = told("--model_config", str(file))
    assert identity["learning_rate"] == SIZES[size].learning_rate
    assert identity["batch_rows"] == SIZES[size].batch_rows


def test_what_is_typed_goes_before_the_file(world: Path) -> None:
    assert told()[2].steps == 1300  # configs/pretrain/sample.yaml
    assert told("--train_tokens", "6400", "--batch_rows", "10")[2].steps == 20
    assert told("--num_train_epochs", "2", "--batch_rows", "16")[2].steps == 18  # 144 rows
    assert told("--max_steps", "-1", "--num_train_epochs", "0.5", "--batch_rows", "16")[2].steps == 5
    with pytest.raises(Mistake, match="--max_steps 3 and --num_train_epochs 2 both say how long the run is"):
        told("--max_steps", "3", "--num_train_epochs", "2")


def test_a_batch_in_tokens(world: Path) -> None:
    assert told("--batch_tokens", "256")[2].segments[0].batch_rows == 8
    with pytest.raises(Mistake, match="--batch_tokens 250 is no whole number of rows of 32 tokens: 256 is 8 rows"):
        told("--batch_tokens", "250")


def test_watching_is_no_part_of_what_a_run_is(world: Path) -> None:
    watched = (
        "--eval_rows",
        "3",
        "--eval_steps",
        "7",
        "--prompts",
        "나래는",
        "--report_to",
        "none",
        "--save_steps",
        "9",
    )
    assert told(*watched)[3] == told()[3]
    assert told("--optimizer", "muon")[3] != told()[3]
    assert told("--scaled_init", "false")[3] != told()[3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer", "lion"], "--optimizer lion: it is adamw or muon"),
        (["--optimizer", "muon", "--optim", "lion_32bit"], "--optimizer muon and --optim lion_32bit: leave one out"),
        (["--decay", "1.5"], "--decay 1.5: it is a share of the run"),
        (["--device_map", "auto"], "--device_map spreads one model over devices in one process"),
        (["--metric", "absent.py"], "--metric absent.py: there is no such file"),
        (["--profile_steps", "5"], "--profile_steps 5: FIRST:LAST is needed, such as 20:24"),
        (["--train_tokens", "many"], "--train_tokens many: a number of tokens is needed, such as 10B"),
        (["--batch_ramp", "10%=8"], "--batch_ramp with --max_steps: say the length in tokens"),
        (["--train_tokens", "1M", "--batch_ramp", "10%=1M"], "a number of rows is needed"),
        (["--train_tokens", "1M", "--phases", "50%=absent"], "there is no packed in"),
    ],
)
def test_one_line_before_anything_is_imported(words: list[str], message: str, world: Path) -> None:
    with pytest.raises(Mistake) as refused:
        told(*words)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_torch_is_not_needed_to_say_so(world: Path) -> None:
    script = "import sys; from pretrain import run\ntry: run.main()\nfinally: assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", script, "--device_map", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=helpers.HOME)
    assert done.returncode == 1 and "--device_map" in done.stderr and "AssertionError" not in done.stderr
