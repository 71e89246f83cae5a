"""The planner: arithmetic, both languages, and what it refuses."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from narae.config import HOME
from narae.footprint import SHARE, Way, footprint, shape_of
from narae.log import Mistake
from narae.model import new_config
from pretrain import plan
from pretrain.cost import DEVICES, FRAGMENTS, NETWORK, Device, Job, interval, quickest, time_of
from tests.helpers import call

DEVICE = Device("nothing", memory=10e9, rate=1e12, within=10e9, between=1e9)
SMALL = "--size", "tiny", "--vocab_size", "1000", "--sequence_length", "64", "--batch_rows", "64"


def job(gpus: int = 2, nodes: int = 1, rows: int = 64, **changes: Any) -> Job:
    return Job(shape_of(new_config("tiny", 1000, 64), 64), replace(DEVICE, **changes), gpus, nodes, rows)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    call(plan.main, *SMALL, *words)
    return capsys.readouterr().out


def test_young_and_daly() -> None:
    # A save of 50 s, a failure every 100 hours: sqrt(2 × 50 × 360,000) = 6,000 s; on four nodes half of that
    assert interval(50, 100, 1) == 6000
    assert interval(50, 100, 4) == 3000


def test_the_largest_micro_batch_is_the_largest() -> None:
    one = job(gpus=2, rows=96)
    half = footprint(one.shape, one.sized(Way(2), 12)).total / FRAGMENTS
    tight = job(gpus=2, rows=96, memory=half + 1)
    largest = tight.largest(Way(2))
    assert largest == 12  # of 1, 2, 3, 4, 6, 8, 12, 16, 24, 48
    assert tight.fits(tight.sized(Way(2), 12)) and not tight.fits(tight.sized(Way(2), 16))
    assert tight.sized(Way(2), 12).pieces == 4
    assert job(memory=1e9).largest(Way(2)) == 0  # the process alone is larger


def test_compute_and_communication() -> None:
    one, two, apart = job(1), job(2), job(2, 2)
    count, flops = one.shape.parameters, one.shape.flops_per_token
    alone = time_of(one, one.sized(Way(), 8))
    assert alone.compute == pytest.approx(flops * 64 * 64 / (1e12 * SHARE))
    assert (alone.hidden, alone.exposed) == (0, 0)
    checkpointed = time_of(one, one.sized(Way(checkpointing=True), 8))
    assert checkpointed.compute == pytest.approx(alone.compute * 4 / 3)
    # A ring of two: each sends half, 2 bytes of each parameter, at 70 % of 10 GB/s; an all-reduce is two of them
    half = 2 * count / 2 / (10e9 * NETWORK)
    assert time_of(two, two.sized(Way(0), 8)).exposed == pytest.approx(2 * half)
    assert time_of(two, two.sized(Way(1), 8)).exposed == pytest.approx(3 * half)
    second = time_of(two, two.sized(Way(2), 8))  # four passes, each with an all-reduce
    assert (second.hidden, second.exposed) == pytest.approx((8 * half, half))
    assert second.step == max(second.compute, second.hidden) + second.exposed
    # Out of a node the link is a tenth; of four ranks each sends three quarters
    assert time_of(apart, apart.sized(Way(0), 8)).exposed == pytest.approx(2 * half * 1.5 * 10)


def test_the_quickest_of_those_that_fit() -> None:
    ways = [Way(0), Way(1), Way(2)]

    def best(one: Job, micro: int = 0) -> int | None:
        found = quickest(one, ways, micro)
        return found[0].stage if found else -1

    assert best(job(2, within=1e15)) == 2  # nothing to wait for: all the same, and ZeRO-2 sums in fp32
    assert best(job(2, within=1e6), micro=1) == 0  # 32 passes over a slow link
    assert best(job(memory=1e9)) == -1


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d[\d,.]*\d|\d", text))


@pytest.mark.parametrize("words", [("--gpus", "4", "--nodes", "2"), ("--gpus", "1", "--gpu", "rtx4090")])
def test_both_languages_say_the_same(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    english, korean = (told(capsys, *words, "--language", one) for one in ("en", "ko"))
    assert numbers(english) == numbers(korean)
    assert not re.search("[가-힣]", english)
    # What is left of Latin letters: names, units and the command
    names = """Trainer ZeRO fp32 GB GFLOP TFLOP G s M B PyTorch DeepSpeed AdamW CPU GPU H100 SXM RTX bench plan py
    doctor tiny""".split()
    for line in korean.splitlines():
        if "run.py" not in line and "sbatch" not in line:
            assert set(re.findall(r"[A-Za-z][A-Za-z0-9]*", line)) <= set(names), line


def test_every_text_is_there_in_both_languages() -> None:
    content = yaml.safe_load(Path(plan.__file__).with_name("plan.yaml").read_text(encoding="utf-8"))
    for part in content.values():
        for texts in part.values():
            assert set(texts) == {"en", "ko"}
            fields = [set(re.findall(r"{\w+}", one)) for one in texts.values()]
            assert fields[0] == fields[1]


def test_the_language_is_that_of_the_system() -> None:
    assert plan.language_of({"LANG": "ko_KR.UTF-8"}) == "ko"
    assert plan.language_of({"LANG": "ko_KR.UTF-8", "LC_ALL": "C"}) == "en"
    assert plan.language_of({}) == "en"


def test_the_command_at_the_end_is_one_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    page = told(capsys, "--gpus", "4", "--nodes", "2", "--train_tokens", "1B", "--language", "en")
    line = next(line for line in page.splitlines() if "slurm/pretrain.sh" in line).split()
    assert line[:4] == ["sbatch", "--nodes=2", "--gpus-per-node=4", "--ntasks-per-node=4"]
    options = dict(zip(line[5::2], line[6::2], strict=True))
    assert options["--train_tokens"] == "1B"
    assert Path(HOME / options["--deepspeed"]).is_file()
    assert 64 // 8 % int(options["--per_device_train_batch_size"]) == 0
    single = told(capsys, "--gpus", "1", "--language", "en")
    assert "python pretrain/run.py --size tiny" in single


def test_a_deepspeed_config_is_the_only_column(capsys: pytest.CaptureFixture[str]) -> None:
    page = told(capsys, "--gpus", "2", "--deepspeed", "configs/ds/zero1.json", "--language", "en")
    assert "ZeRO-1" in page and "ZeRO-2" not in page and "Trainer" not in page
    assert page.rstrip().count("configs/ds/zero1.json") == 1


def test_where_nothing_fits_activations_are_computed_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(new_config("tiny", 1000, 64), 64)
    least, most = (footprint(shape, Way(0, micro=1, pieces=64, checkpointing=again)).total for again in (True, False))
    assert least < most
    monkeypatch.setitem(DEVICES, "rtx4090", replace(DEVICE, memory=(least + most) / 2 / FRAGMENTS))
    page = told(capsys, "--gpus", "1", "--gpu", "rtx4090", "--deepspeed", "configs/ds/zero0.json", "--language", "en")
    assert "--gradient_checkpointing true" in page
    monkeypatch.setitem(DEVICES, "rtx4090", replace(DEVICE, memory=1.0))
    assert "Nothing fits" in told(capsys, "--gpus", "1", "--gpu", "rtx4090", "--language", "en")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--gpu", "h1000"), "known are h100, h200"),
        (("--size", "7b"), "the sizes are tiny"),
        (("--batch_rows", "30"), "30 cannot be shared evenly by 8 ranks: 32 can"),
        (("--micro", "3"), "--micro 3 does not divide the 8 rows that each of 8 ranks has"),
        (("--gpus", "0"), "--gpus 0: it must be above 0"),
        (("--train_tokens", "many"), "a number of tokens is needed"),
        (("--deepspeed", "nowhere.json"), "no such file"),
        (("--language", "fr"), "the languages are en, ko"),
        (("--optimizer", "sgd"), "it is adamw or muon"),
        (("--gpuz", "1"), "unknown flag --gpuz"),
    ],
)
def test_mistakes(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(Mistake, match=says):
        call(plan.main, *SMALL, *words)
