"""The page of a pretraining run: charts, sources, texts and the ledger, from records made by hand."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from pages import Page, page

from infer.charts import Marks, Series, ceiling, line_chart
from infer.curves import read_run
from infer.samples import spread

ATTACK = '"><script>alert(1)</script>'
BEGAN = 1_700_000_000.0


def source(bits: float, size: float) -> dict[str, float]:
    return {"loss": 3 * bits, "bits_per_byte": bits, "accuracy": 0.25, "tokens": size / 4, "bytes": size}


def write(artifacts: Path, records: list[tuple[str, float, dict[str, Any]]], alive: float = 0.0) -> Path:
    folder = artifacts / "runs" / "books"
    folder.mkdir(parents=True)
    lines = [json.dumps({"kind": kind, "time": BEGAN + time, **words}) for kind, time, words in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / ".alive").touch()
    os.utime(folder / ".alive", (BEGAN + alive, BEGAN + alive))
    return folder


def train(step: int, time: float, **words: Any) -> tuple[str, float, dict[str, Any]]:
    known = {
        "step": step,
        "total_steps": 40,
        "tokens": 1000 * step,
        "rows": 8 * step,
        "epoch": step / 20,
        "seconds": 9.0,
    }
    rates = {"loss": 4.0, "learning_rate": 1e-3, "grad_norm": 0.5, "tokens_per_s": 100.0, "mfu": 0.4, "memory_mb": 7000}
    return "train", time, known | rates | words


def judge(step: int, time: float, bits: float, sources: dict[str, Any]) -> list[tuple[str, float, dict[str, Any]]]:
    figures = {"loss": 3 * bits, "bits_per_byte": bits, "accuracy": 0.3, "seconds": 2.0, "sources": sources}
    said = [("sample", time, {"step": step, "prompt": "서울", "text": f"서울은 {step}"})]
    return [("eval", time, {"step": step} | figures), *said, ("samples", time, {"step": step, "seconds": 0.0})]


def killed_and_resumed(first: str = "신문", second: str = "위키") -> list[tuple[str, float, dict[str, Any]]]:
    """10 s a record; killed 4 s after step 30, resumed 100 s later from step 20, then stopped by a signal."""
    machine = {"device": "NVIDIA H200", "precision": "bf16", "world": 8, "matmul_per_s": 7.9e14, "total_steps": 40}
    return [
        ("open", 1.0, {}),
        ("start", 5.0, {"step": 0, "began": BEGAN, "attempt": 1, **machine}),
        ("ready", 10.0, {"step": 0}),
        train(10, 20.0),
        *judge(10, 22.0, 2.0, {first: source(1.5, 300), second: source(3.5, 100)}),
        train(20, 32.0),
        *judge(20, 34.0, 1.0, {first: source(0.875, 300), second: source(1.375, 100)}),
        ("save", 36.0, {"step": 20, "seconds": 2.0, "best": True}),
        train(30, 46.0, loss=float("nan")),
        *judge(30, 48.0, 0.5, {}),  # said again by the second attempt: it is not the best
        ("open", 151.0, {"last_alive": BEGAN + 50}),
        ("start", 155.0, {"step": 20, "began": BEGAN + 150, "attempt": 2, **machine}),
        ("ready", 156.0, {"step": 20}),
        train(30, 166.0),
        *judge(30, 168.0, 1.25, {first: source(1.0, 300), second: source(2.0, 100)}),
        ("stop", 168.0, {"step": 30, "cause": "SIGUSR1"}),
    ]


def cells(found: str, caption: str) -> list[list[str]]:
    table = re.search(rf"<caption>{caption}</caption>.*?</table>", found, re.S)
    assert table is not None
    rows = re.findall(r"<tr>(.*?)</tr>", table[0], re.S)[1:]
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_a_killed_and_resumed_run_on_the_page(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(artifacts, killed_and_resumed())
    found = page(monkeypatch, artifacts)
    part = found.section("pretraining")
    for words in (
        *("NVIDIA H200, 8 ranks, 790.0 TFLOP/s each in a bare matrix product", "bf16", ">30 k<", ">240<", ">1.50<"),
        *("7.0 GB", "1.000 at step 20", "step 20", "30.0 %", "Steps whose loss is not a number: 1."),
    ):
        assert words in part
    assert cells(part, "Bits per byte of each source's held-out text") == [
        ["신문", "75.0 %", "1.500", "0.875", "1.000", "25.0 %"],
        ["위키", "25.0 %", "3.500", "1.375", "2.000", "25.0 %"],
        ["all", "100.0 %", "2.000", "1.000", "1.250", "30.0 %"],
    ]
    # 50 s and 18 s were allocated. Of four records of 9 s, the one of steps 21 to 30 was in vain
    assert "39.7 % of 68 s became training that stayed. Between the attempts: 2 min, not counted." in part
    assert [row[2:7] for row in cells(part, "Attempts")] == [
        ["0 to 30", "50 s", "36.0 %", "–", "killed"],
        ["20 to 30", "18 s", "50.0 %", "2 min", "SIGUSR1"],
    ]
    legend = dict(re.findall(r'<li><i class="(\w+)"></i>.*?<small>(.*?)</small>', part))
    assert legend == {
        **{"training": "27 s", "again": "9 s", "starting": "16 s", "evaluation": "8 s", "saving": "2 s"},
        **{"dying": "2 s", "other": "4 s"},
    }
    assert "Stopped by SIGUSR1, 2023-11-1" in found.words
    assert "(the same command goes on): step 30 of 40 (75 %)" in found.words


def test_restarts_and_losses_that_are_no_number_are_marked(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(artifacts, killed_and_resumed())
    part = page(monkeypatch, artifacts).section("pretraining")
    # Step 20 of the 30 that the drawing reaches; the lost number was at its right edge
    assert '<path class="restart" d="M666.7 0V1000"/>' in part
    assert '<path class="broken" d="M1000.0 0V1000"/>' in part
    assert 'aria-label="Loss: train from 4 to 4; held-out from 6 to 3.75; restart at 20 k; not a number at 30 k' in part
    titles = re.findall(r"<figcaption><b>(.*?)</b>", part)
    assert titles == [
        *("Loss", "Bits per byte, held-out", "Held-out next tokens right, %", "Learning rate", "Gradient norm"),
        *("Tokens per second that bear loss", "MFU, % of a bare matrix product's rate", "Peak memory, GB"),
    ]


def test_texts_as_they_developed(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(artifacts, killed_and_resumed())
    part = page(monkeypatch, artifacts).section("samples")
    said = re.findall(r'<dd><small>(.*?)</small><p><span lang="ko">(.*?)</span>', part)
    assert said == [("step 10", "은 10"), ("step 20", "은 20"), ("step 30, latest", "은 30")]
    steps = [(step, "") for step in (100, 200, 300, 400, 500, 800, 900, 1500, 1600)]
    assert [step for step, _ in spread(steps)] == [100, 200, 400, 800, 1600], "each about twice the one before"
    assert spread(steps[:5]) == steps[:5]


def test_names_of_sources_are_only_text(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(artifacts, [*killed_and_resumed(ATTACK, "위키")[:-1], ("stop", 168.0, {"step": 30, "cause": ATTACK})])
    found = page(monkeypatch, artifacts)
    assert ATTACK in found.words
    assert [tag for tag, _ in found.tags].count("script") == 1


def test_many_sources_are_a_table_and_no_lines(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = ({f"source {n}": source(1.0, 100 - n) for n in range(count)} for count in (8, 9))
    start = killed_and_resumed()[:3]
    folder = write(artifacts, [*start, train(10, 20.0), *judge(10, 22.0, 1.0, few)])
    assert page(monkeypatch, artifacts).section("pretraining").count('class="faint source"') == 8
    (folder / "metrics.jsonl").unlink()
    folder.rename(artifacts / "old")
    write(artifacts, [*start, train(10, 20.0), *judge(10, 22.0, 1.0, many)])
    part = page(monkeypatch, artifacts).section("pretraining")
    assert 'class="faint source"' not in part
    assert [row[0] for row in cells(part, "Bits per byte of each source's held-out text")][7:] == [
        *("source 7", "source 8", "all")
    ]


def test_a_running_one_says_so(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(artifacts, killed_and_resumed()[:-1], alive=time.time() - BEGAN)
    found = page(monkeypatch, artifacts)
    assert "Training: step 30 of 40 (75 %)" in found.words
    assert cells(found.section("pretraining"), "Attempts")[1][6] == "running"
    os.utime(artifacts / "runs/books/.alive", (BEGAN, BEGAN + 170))
    assert "Killed, 2023-11-1" in page(monkeypatch, artifacts).words


def test_an_old_file_has_no_more_than_it_says(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"step": 10, "total_steps": 10, "tokens": 1000, "loss": 4.0, "learning_rate": 1e-3, "tokens_per_s": 50.0}
    records = [("start", 0.0, {"step": 0, "total_steps": 10}), ("train", 20.0, old)]
    records += [
        ("eval", 25.0, {"step": 10, "loss": 3.5, "bits_per_byte": 1.5, "seconds": 5.0}),
        ("end", 25.0, {"step": 10}),
    ]
    write(artifacts, records)
    found = page(monkeypatch, artifacts)
    part = found.section("pretraining")
    for words in ("goodput", "machine", "precision", "Bits per byte of each source", "MFU", "Gradient norm", "nan"):
        assert words not in part
    assert "80.0 % of 25 s became training that stayed. Attempts of an older version count from their first" in part
    assert "Trained, not published yet: step 10 of 10 (100 %)" in found.words


def test_odd_values_of_the_new_fields(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [None, "x", [], {"가": None, "나": "x"}, float("inf"), -1, True]
    keys = ("sources", "epoch", "rows", "mfu", "device", "world", "matmul_per_s", "cause", "seconds", "tokens", "step")
    lines = []
    for place, value in enumerate(odd):
        for kind in ("open", "start", "ready", "train", "eval", "save", "samples", "sample", "stop"):
            lines.append((kind, 10.0 * place, dict.fromkeys(keys, value) | {"loss": 2.0, "total_steps": 9}))
    write(artifacts, lines)
    assert isinstance(page(monkeypatch, artifacts), Page)


def test_a_spike_does_not_press_the_rest_flat() -> None:
    calm = [2 + place / 100 for place in range(99)]  # up to 2.98
    assert ceiling([*calm, 60.0]) == pytest.approx(2.97 + 0.485)
    assert ceiling([*calm, 3.6]) == 3.6, "not much of a spike"
    assert ceiling([1.0, 60.0]) == 60.0, "of so few nobody knows"
    points = [(float(place), y) for place, y in enumerate([*calm, 60.0])]
    drawn = line_chart(
        "Loss", [Series("train", points, "faint")], "tokens", marks=[Marks("restart", [990.0], "restart")]
    )
    assert 'data-bottom="2" data-top="3.5"' in drawn
    assert ' 1000.0,0.0"/>' in drawn, "drawn at the edge"
    assert '<path class="dots above" d="M1000.0 0h0"/>' in drawn
    assert "1 above 3.5, at most 60" in drawn
    assert "restart" not in drawn, "past the right edge"


def test_tokens_of_a_restart_follow_from_the_last_records(tmp_path: Path) -> None:
    """After a batch ramp a step reads twice as much: going back two steps goes back by the tokens of these two."""
    records = [("train", 1.0, {"step": 10, "tokens": 100}), ("train", 2.0, {"step": 20, "tokens": 300})]
    folder = write(tmp_path, [*records, ("start", 3.0, {"step": 18})])
    assert read_run("x", folder, None).restarts == [(18, 260.0)]
