"""The report: real artifacts, small, and the page that the command writes about them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import page

from narae import artifact
from narae.artifact import Artifact
from narae.log import Metrics, Mistake

ATTACK = "<script>alert(1)</script>"


def publish(
    kind: str, name: str, parents: list[Artifact], counts: dict[str, Any], files: dict[str, str] | None = None
) -> Artifact:
    draft = artifact.begin(kind, name, {}, parents, overwrite=True)
    assert draft is not None
    with draft:
        for file, content in (files or {"data": name}).items():
            (draft.path / file).write_text(content, encoding="utf-8")
        draft.counts.update(counts)
    return artifact.open_artifact(kind, name)


def tokenizer_json() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE({one: n for n, one in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


def train(artifacts: Path, name: str, steps: int = 4, text: str = "이다.", ended: bool = True) -> None:
    metrics = Metrics(artifacts / "runs" / name / "metrics.jsonl")
    metrics.write("start", total_steps=8)
    for step in range(1, steps + 1):
        rates = {"learning_rate": 0.001 * step, "tokens_per_s": 5000.0, "memory_mb": 700 + step}
        metrics.write("train", step=step, total_steps=8, tokens=100 * step, loss=9.0 - step, **rates)
    metrics.write("eval", step=steps, loss=5.5, bits_per_byte=1.25)
    metrics.write("sample", step=steps, prompt="김서연은", text=f"김서연은 {name} {text}")
    if ended:
        metrics.write("end", step=steps, seconds=1.0)


def corpus() -> Artifact:
    counts = {
        "read": {"documents": 100, "bytes": 5000},
        "rejected": {"too short": {"documents": 10, "bytes": 50}, "junk": {"documents": 3, "bytes": 30}},
        "duplicates": {"documents": 7, "bytes": 350},
        "train": {"documents": 76, "bytes": 4400},
        "val": {"documents": 4, "bytes": 170},
        "unreadable": [{"archive": "01.데이터/가.zip", "member": "나.json", "cause": "empty"}],
        "masked": {"<전화번호>": 12},
    }
    return publish("corpus", "sample", [publish("sample", "sample", [], {})], counts)


def everything(artifacts: Path, text: str = "이다.") -> None:
    """Every stage, finished."""
    told = corpus()
    figures = {"entries": 256, "bytes_per_token": 1.0, "tokens_per_eojeol": 8.25}
    tokenizer = publish("tokenizer", "sample", [told], figures, {"tokenizer.json": tokenizer_json()})
    split = {"rows": 10, "tokens": 4476, "documents": 76, "bytes": 4400, "padding": 644}
    packed = publish(
        "packed", "sample", [told, tokenizer], {"sequence_length": 512, "entries": 256, "train": split, "val": split}
    )
    train(artifacts, "sample", text=text)
    base = publish("model", "sample", [packed], {"parameters": 5_300_000})
    examples = publish("examples", "sample", [tokenizer], {"train": 90, "val": 10})
    train(artifacts, "sample-chat", text=text)
    chat = publish("model", "sample-chat", [base, examples], {"parameters": 5_300_000})
    rows = [
        {
            "id": f"q{n}",
            "question": f"질문 {n}{text}",
            "expected": "예",
            "answer": "예",
            "exact": n < 15,
            "set": "wording",
        }
        for n in range(20)
    ]
    answers = "".join(json.dumps(row) + "\n" for row in rows)
    sets = {"wording": {"questions": 20, "exact": 15}, "unasked": {"questions": 8, "exact": 1}}
    publish("answers", "sample-chat", [chat], {"sets": sets, "seconds": 2.0}, {"answers.jsonl": answers})


def test_everything_is_on_the_page(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(artifacts)
    stage = {"name": "collect", "command": "python corpus/collect.py", "seconds": 30, "peak_memory_mb": 2500}
    (artifacts / "demo.json").write_text(json.dumps({"seconds": 540, "stages": [stage]}))
    found = page(monkeypatch, artifacts)
    for words in ("75.0 %", "15 of 20", "12.5 %", "1.250", "800", "9 min", "2.5 GB", "sample-chat"):
        assert words in found.words
    funnel = found.section("corpus")
    for cell in (
        ">100<",
        ">−10<",
        ">10.0 %<",
        ">−3<",
        ">−7<",
        ">76<",
        ">4<",
        ">가.zip: 나.json: empty<",
        "전화번호&gt; 12",
        "20 rows",
        "1.00",
    ):
        assert cell in funnel
    assert "not accounted for" not in funnel
    assert "8.25" in found.section("tokenizer")
    assert "5.3 M" in found.section("pretraining")
    assert "sample 이다." in found.section("samples")
    assert "sample-chat 이다." in found.section("samples")
    assert found.section("answers").count("✓") == 10
    assert found.section("answers").count("✗") == 5
    assert "python corpus/collect.py" in found.section("stages")
    chain = re.findall(r'<th scope="row" class="k">(.*?)</th>', found.section("artifacts"))
    assert chain == [
        *("sample sample", "corpus sample", "tokenizer sample", "packed sample", "examples sample"),
        *("model sample", "model sample-chat", "answers sample-chat"),
    ]
    assert artifact.open_artifact("model", "sample-chat").fingerprint in found.section("artifacts")
    assert "since replaced" not in found.source
    assert 'http-equiv="refresh"' not in found.source


def test_one_file_without_outside_resources(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(artifacts)
    found = page(monkeypatch, artifacts)
    for tag, attributes in found.tags:
        assert "src" not in attributes
        assert tag != "link"
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in found.source
    assert "@import" not in found.source
    drawings = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert all((one.get("role") == "img" and one["aria-label"]) or one.get("aria-hidden") == "true" for one in drawings)
    assert len([one for one in drawings if "role" in one]) == 8  # pretraining has bits per byte and memory as well
    assert len([tag for tag, _ in found.tags if tag == "table"]) == len(
        [tag for tag, _ in found.tags if tag == "caption"]
    )
    assert [path.name for path in artifacts.glob(".report*")] == []


def test_hostile_texts_are_only_text(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(artifacts, text=f'{ATTACK}" onload="x \x00\u202e' + "아" * 100_000)
    with (artifacts / "runs/sample-chat/metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "sample", "step": 9, "prompt": "half a pair", "text": "\ud800"}) + "\n")
    found = page(monkeypatch, artifacts)
    assert ATTACK in found.words
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not any("onload" in attributes for _, attributes in found.tags)
    assert "\x00" not in found.source
    assert "\u202e" not in found.source
    assert len(found.source) < 100_000


def test_nothing_at_all_names_the_commands(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = page(monkeypatch, artifacts)
    commands = {"corpus": "corpus/collect.py", "tokenizer": "tokenizer/train.py", "pretraining": "pretrain/run.py"}
    commands |= {"tuning": "finetune/sft.py", "answers": "infer/generate.py", "stages": "make demo"}
    for key, command in commands.items():
        assert command in found.section(key)
    assert 'http-equiv="refresh"' not in found.source


def test_a_run_in_progress_reloads(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus()
    train(artifacts, "sample", ended=False)
    found = page(monkeypatch, artifacts, "--run", "sample")
    assert 'http-equiv="refresh" content="15"' in found.source
    assert "step 4 of 8 (50 %)" in found.words
    assert ">−10<" in found.section("corpus"), "the corpus of its name, as it names no parent yet"
    assert "pretrain/pack.py" in found.section("corpus")
    assert "finetune/sft.py" in found.section("tuning")


def test_tuning_in_progress_shows_its_base_and_no_old_answers(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(artifacts)
    base = artifact.open_artifact("model", "sample")
    publish("model", "sample-chat", [base], {"parameters": 1})  # trained again: other parents, another fingerprint
    found = page(monkeypatch, artifacts)
    assert "No questions were asked of this model yet" in found.section("answers")
    (artifacts / "runs/sample-chat/final/manifest.json").unlink()
    found = page(monkeypatch, artifacts)
    assert 'http-equiv="refresh"' in found.source
    assert "5.3 M" in found.section("pretraining")
    assert "held-out loss" in found.section("tuning")
    assert "75.0 %" not in found.words


def test_a_run_that_is_trained_again_is_not_finished(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(artifacts)
    (artifacts / "runs/sample-chat/metrics.jsonl").unlink()
    train(artifacts, "sample-chat", steps=2, ended=False)  # --overwrite keeps final/ until the new one is there
    other = publish("model", "other", [], {"parameters": 777})
    (artifacts / "runs/sample-chat/config.yaml").write_text(f"parents: {{model: {other.fingerprint}}}")
    found = page(monkeypatch, artifacts)
    assert "step 2 of 8" in found.words
    assert "75.0 %" not in found.words
    assert "777" in found.section("pretraining"), "the base is known by its fingerprint"


def test_tuning_of_a_model_from_elsewhere(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Metrics(artifacts / "runs/mine/metrics.jsonl").write("sample", step=0, prompt="누구?", text="글쎄")
    train(artifacts, "mine")
    publish("model", "mine", [publish("examples", "sample", [], {"train": 9, "val": 1})], {"parameters": 888})
    found = page(monkeypatch, artifacts)
    assert "Not trained yet" in found.section("pretraining")
    assert "888" in found.section("tuning")
    before = found.section("samples").split("누구?")[1]
    assert 'before fine-tuning, step 0</small><span lang="ko">글쎄' in before


def test_what_was_replaced_is_marked(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(artifacts)
    publish("corpus", "sample", [], {"read": {"documents": 1, "bytes": 1}}, {"data": "other"})
    assert "corpus sample <span" in page(monkeypatch, artifacts).section("artifacts")


def test_damaged_artifacts_are_left_out(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(artifacts)
    (artifacts / "corpus/sample/manifest.json").write_text("{broken")
    (artifacts / "packed/sample/manifest.json").write_text('{"kind": "packed"}')
    (artifacts / "demo.json").write_text("[1]")
    found = page(monkeypatch, artifacts)
    assert "No corpus yet" in found.section("corpus")
    assert "75.0 %" in found.words


def test_unknown_run_and_folder_as_out(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(artifacts, "mine")
    with pytest.raises(Mistake, match=r"no run 'yours' .* there are mine"):
        page(monkeypatch, artifacts, "--run", "yours")
    with pytest.raises(Mistake, match="is a folder"):
        page(monkeypatch, artifacts, "--out", str(artifacts))
    assert "mine" in page(monkeypatch, artifacts).words, "the only run there is"


def test_the_command_is_light(artifacts: Path, run: Any) -> None:
    everything(artifacts)
    done = run("infer/report.py")
    assert "new wordings 75.0" in done.stderr
    code = "import sys, infer.report; print({'torch', 'transformers', 'trl', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
