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
from pretrain import cost, plan
from pretrain.cost import (
    DEVICES,
    FRAGMENTS,
    NETWORK,
    STREAM,
    Device,
    Job,
    Time,
    exchanges,
    interval,
    lost,
    quickest,
    sent,
    time_of,
)
from tests.helpers import call

DEVICE = Device("nothing", memory=10e9, rate=1e12, within=10e9, between=1e9, stream=1e30, hop=0.0, hop_out=0.0)
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
    # Of 6,000 s a save takes 50; of 360,000 s between failures half of 6,000 are repeated
    assert lost(50, 100, 1) == pytest.approx(50 / 6000 + 3000 / 360_000)


def test_the_largest_micro_batch_is_the_largest() -> None:
    one = job(gpus=2, rows=96)
    half = footprint(one.shape, one.sized(Way(2), 12)).total / FRAGMENTS
    tight = job(gpus=2, rows=96, memory=half + 1)
    largest = tight.largest(Way(2))
    assert largest == 12  # of 1, 2, 3, 4, 6, 8, 12, 16, 24, 48
    assert tight.fits(tight.sized(Way(2), 12)) and not tight.fits(tight.sized(Way(2), 16))
    assert tight.sized(Way(2), 12).pieces == 4
    assert job(memory=1e9).largest(Way(2)) == 0  # the process alone is larger


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations take no time to start."""
    monkeypatch.setattr(cost, "START", 0.0)


def times(one: Job, way: Way, micro: int = 8) -> Time:
    return time_of(one, one.sized(way, micro))


@pytest.mark.usefixtures("at_once")
def test_compute_and_communication() -> None:
    one, two, apart = job(1), job(2), job(2, 2)
    count, flops = one.shape.parameters, one.shape.flops_per_token
    alone = times(one, Way())
    assert alone.compute == pytest.approx(flops * 64 * 64 / (1e12 * SHARE))
    assert (alone.hidden, alone.exposed) == pytest.approx((0, 0))
    assert times(one, Way(checkpointing=True)).compute == pytest.approx(alone.compute * 4 / 3)
    # A ring of two: each sends half, 2 bytes of each parameter, at 70 % of 10 GB/s; an all-reduce is two of them. The
    # model is smaller than a bucket, so nothing is sent before the backward pass ends.
    half = 2 * count / 2 / (10e9 * NETWORK)
    assert times(two, Way()).exposed == pytest.approx(2 * 2 * half)  # fp32, once for four passes
    assert times(two, Way(0)).exposed == pytest.approx(2 * half)
    assert times(two, Way(1)).exposed == pytest.approx(3 * half)
    second = times(two, Way(2))  # four passes, each with an all-reduce, then new weights
    assert (second.hidden, second.exposed) == pytest.approx((0, 4 * 2 * half + half))
    assert second.step == second.compute + second.exposed
    assert times(two, Way(3)).exposed == pytest.approx(4 * 2 * half)  # gathered once in each pass, scattered once
    # Out of a node the link is a tenth; of four ranks each sends three quarters
    assert times(apart, Way(0)).exposed == pytest.approx(2 * half * 1.5 * 10)


@pytest.mark.usefixtures("at_once")
def test_weights_that_do_not_stay_are_gathered_twice() -> None:
    two = job(2)
    way, count = two.sized(Way(3), 8), two.shape.parameters
    kept, gone = (sum(sent(two.shape, way, one) for one in exchanges(two.shape, way, live)) for live in (count, 1))
    assert (kept, gone) == (4 * 2 * 2 * count / 2, 4 * 3 * 2 * count / 2)


@pytest.mark.usefixtures("at_once")
def test_what_is_sent_beside_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "DDP_BUCKET", 100_000)
    slow, fast, way = job(2, rate=1.0), job(2, rate=1e30), Way(2, bucket=100_000)
    count, half = slow.shape.parameters, slow.shape.parameters / (10e9 * NETWORK)
    last = slow.shape.largest / count  # reduced when nothing is left to compute; larger than a bucket
    assert 0.05 < last < 0.1
    found = times(slow, way)
    assert (found.hidden, found.exposed) == pytest.approx((8 * half * (1 - last), 8 * half * last + half))
    found = times(fast, way)
    assert (found.hidden, found.exposed) == pytest.approx((0, 9 * half))
    # Backward is two thirds of compute, and here as long as an all-reduce: it hides that much of the four
    rate = slow.shape.flops_per_token * 32 * 64 / (3 * half * SHARE)
    found = times(job(2, rate=rate), way)
    assert (found.hidden, found.exposed) == pytest.approx((2 * half, 7 * half))
    # The Trainer alone sends beside the last pass: a quarter of that
    found = times(job(2, rate=rate), Way())
    assert (found.hidden, found.exposed) == pytest.approx((half / 2, 4 * half - half / 2))


def test_operations_take_time_to_start() -> None:
    # 16 ranks on two nodes: a ring has 14 hops within them and one out, a tree for an all-reduce 7 and one each way
    near = Job(job().shape, replace(DEVICE, within=1e30, between=1e30, hop=3.4e-6, hop_out=14e-6), 8, 2, 64)
    assert near.hops(1) == pytest.approx(14 * 3.4e-6 + 14e-6)
    assert times(near, Way(0), 4).exposed == pytest.approx(8.4e-6 + 2 * (7 * 3.4e-6 + 14e-6))
    # In four passes two buckets each, then new weights in one operation
    many = replace(near, gpus=2, nodes=1)
    way = many.sized(Way(2, bucket=(many.shape.parameters + 1) // 2), 8)
    assert way.pieces == 4
    assert time_of(many, way).exposed + time_of(many, way).hidden == pytest.approx(
        8 * (8.4e-6 + 2 * 3.4e-6) + 8.4e-6 + 3.4e-6
    )


def test_adamw_reads_and_writes_28_bytes_of_a_parameter() -> None:
    one = job(1, stream=1e9)
    assert times(one, Way()).exposed == pytest.approx(28 * one.shape.parameters / (1e9 * STREAM))
    two = job(2, stream=1e9, within=1e30)
    shared, whole = times(two, Way(1)).exposed, times(two, Way(0)).exposed
    assert whole - shared == pytest.approx(14 * one.shape.parameters / (1e9 * STREAM), rel=1e-3)


def test_a_node_has_an_adapter_for_each_device() -> None:
    whole, part = job(8, 2, adapters=8), job(2, 2, adapters=8)
    assert (whole.link, part.link) == pytest.approx((1e9 * NETWORK, 0.25e9 * NETWORK))
    assert replace(whole, bus=123.0).link == 123.0  # measured: nothing is taken off


def test_what_was_measured_takes_the_place_of_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--gpus", "2", "--deepspeed", "configs/ds/zero0.json", "--gpu", "rtx4090", "--batch_rows", "6400"

    def column(page: str, name: str) -> float:
        return float(next(line for line in page.splitlines() if name in line).split()[-1])

    pages = {share: told(capsys, *words, "--mfu", share, "--language", "en") for share in ("0.1", "0.05")}
    assert column(pages["0.05"], "compute, s") == pytest.approx(2 * column(pages["0.1"], "compute, s"), rel=0.01)
    slow, fast = (told(capsys, *words, "--bus_gb_per_s", rate, "--language", "en") for rate in ("0.1", "0.2"))
    assert column(slow, "exposed, s") == pytest.approx(2 * column(fast, "exposed, s"), rel=0.02)

    def measured(page: str) -> str:
        return page.split("Measured")[1].split("Computed")[0]

    assert "40 %" in slow.split("Assumed")[1] and "40 %" not in measured(slow)
    assert "reaches 5 %" in measured(pages["0.05"]) and "reaches 0.1 GB/s" in measured(slow)


def test_the_quickest_of_those_that_fit() -> None:
    ways = [Way(0), Way(1), Way(2)]

    def best(one: Job, micro: int = 0) -> int | None:
        found = quickest(one, ways, micro)
        return found[0].stage if found else -1

    assert best(job(2, within=1e15)) == 2  # nothing to wait for: all the same, and ZeRO-2 sums in fp32
    assert best(job(2, within=1e6), micro=1) == 0  # 32 passes over a slow link
    assert best(job(memory=1e9)) == -1


WORDS = [
    ("--gpus", "4", "--nodes", "2"),
    ("--gpus", "1", "--gpu", "rtx4090"),
    ("--gpus", "2", "--mfu", "0.43", "--bus_gb_per_s", "150"),
]


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d[\d,.]*\d|\d", text))


@pytest.mark.parametrize("words", WORDS)
def test_both_languages_say_the_same(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    english, korean = (told(capsys, *words, "--language", one) for one in ("en", "ko"))
    assert numbers(english) == numbers(korean)
    assert not re.search("[가-힣]", english)
    # What is left of Latin letters: names, units and the command
    names = """Trainer ZeRO fp32 GB GFLOP TFLOP G s M B PyTorch DeepSpeed AdamW CPU GPU H100 SXM RTX bench plan py
    doctor tiny mfu bus gb per""".split()
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
    # Rows so long that activations are most of the memory
    length, shape = ("--sequence_length", "2048"), shape_of(new_config("tiny", 1000, 2048), 2048)
    least, most = (footprint(shape, Way(0, micro=1, pieces=64, checkpointing=again)).total for again in (True, False))
    assert least < most
    monkeypatch.setitem(DEVICES, "rtx4090", replace(DEVICE, memory=(least + most) / 2 / FRAGMENTS))
    page = told(
        capsys, "--gpus", "1", "--gpu", "rtx4090", "--deepspeed", "configs/ds/zero0.json", *length, "--language", "en"
    )
    assert "--gradient_checkpointing true" in page
    monkeypatch.setitem(DEVICES, "rtx4090", replace(DEVICE, memory=1.0))
    assert "Nothing fits" in told(capsys, "--gpus", "1", "--gpu", "rtx4090", *length, "--language", "en")


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
        (("--mfu", "43"), "--mfu 43.0: it is a share such as 0.43"),
        (("--bus_gb_per_s", "0"), "--bus_gb_per_s 0.0: it must be above 0"),
        (("--gpuz", "1"), "unknown flag --gpuz"),
    ],
)
def test_mistakes(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(Mistake, match=says):
        call(plan.main, *SMALL, *words)
