"""The peers of bench/prep.py have the tokens that they should have, and what run_clm loses is known to the token."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import SENTENCES, call

from bench import prep_peers, prep_programs, prep_text
from bench.prep import same, verified
from bench.prep_peers import tiktoken_of
from bench.prep_programs import END_ID, Program, grouped, packed, programs
from bench.watching import watched
from narae.artifact import open_artifact
from narae.log import Mistake
from pretrain import pack

pytest.importorskip("tiktoken", reason="only the extra [bench] has tiktoken")

TEXTS = [" ".join(SENTENCES[number : number + 40]) for number in range(0, 330, 11)]  # 30 documents


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same text as a corpus and as two files of lines, the tokenizer, and our rows."""
    folder = tmp_path_factory.mktemp("prep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARAE_ARTIFACTS", str(folder / "artifacts"))
        patch.setattr(prep_text, "ENTRIES", (384,))
        assert prep_text.prepared(TEXTS, folder, workers=2) == 384
        call(pack.main, "--corpus=bench", "--tokenizer=bench", "--name=ours", "--workers=1")
    return folder


@pytest.fixture
def ours(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setenv("NARAE_ARTIFACTS", str(inputs / "artifacts"))
    return verified(packed(inputs / "artifacts" / "packed" / "ours"), TEXTS)


def compare(program: Program, out: Path, ours: np.ndarray, batch: int = 1000) -> dict[str, float]:
    out.mkdir()
    words = [word for word in program.settings[0] if word.startswith("-")]
    one = watched([*program.command(out), *words])
    same("the peer", program.tokens(out), program.wanted(ours, 2, batch))
    return one


@pytest.mark.parametrize("name", ["nanoGPT-style", "nanoGPT-style, lean", "bare encoder"])
def test_a_peer_has_our_tokens(name: str, inputs: Path, ours: np.ndarray, tmp_path: Path) -> None:
    one = compare(programs(inputs, 2, None)[name], tmp_path / "out", ours)
    assert one["cpu_s"] > 0 and one["main_mb"] > 10


def test_run_clm_has_our_rows_but_for_what_it_drops(inputs: Path, ours: np.ndarray, tmp_path: Path) -> None:
    program = programs(inputs, 2, None)["run_clm"]
    program.settings = [["--batch=7"]]  # 15 documents in each process: batches of 7, 7 and 1
    compare(program, tmp_path / "out", ours, batch=7)
    kept = program.tokens(tmp_path / "out")
    assert 0 < kept.size < int((ours != END_ID).sum())


@pytest.mark.skipif("MEGATRON" not in os.environ, reason="MEGATRON names no checkout of Megatron-LM")
@pytest.mark.parametrize("name", ["Megatron-LM", "Megatron-LM --use-gigatoken", "Megatron-LM, _data_fast"])
@pytest.mark.parametrize("setting", [0, -1])
def test_megatron_has_our_tokens(name: str, setting: int, inputs: Path, ours: np.ndarray, tmp_path: Path) -> None:
    program = programs(inputs, 2, Path(os.environ["MEGATRON"]))[name]
    program.settings = [program.settings[setting]]
    compare(program, tmp_path / "out", ours)


def test_what_run_clm_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prep_programs, "ROW", 4)
    ids = np.array([5, 6, 7, 8, 9, 0, 5, 6, 0, 5, 0, 7, 8, 9, 10, 0])  # documents of 5, 2, 1 and 4 tokens
    assert grouped(ids, 1, 2).tolist() == [5, 6, 7, 8, 5, 7, 8, 9]  # of 7 and of 5 tokens
    assert grouped(ids, 1, 1).tolist() == [5, 6, 7, 8, 7, 8, 9, 10]  # each document alone
    assert grouped(ids, 2, 3).tolist() == [5, 6, 7, 8, 5, 7, 8, 9]  # no batch goes across two processes
    assert grouped(ids, 1, 4).tolist() == [5, 6, 7, 8, 9, 5, 6, 5, 7, 8, 9, 10]  # all 12 in one batch


def test_a_wrong_result_stops_the_comparison(ours: np.ndarray) -> None:
    wrong = ours.copy()
    wrong[300] += 1
    with pytest.raises(Mistake, match="they differ from 300 on"):
        same("the peer", wrong, ours)
    with pytest.raises(Mistake, match=f"they differ from {ours.size - 1:,} on"):
        same("the peer", ours[:-1], ours)
    with pytest.raises(Mistake, match="29 ends of documents, and there are 30 documents"):
        verified(np.delete(ours, np.flatnonzero(ours == END_ID)[4]), TEXTS)
    for swapped in ([TEXTS[1], TEXTS[0], *TEXTS[2:]], [*TEXTS[:-2], TEXTS[-1], TEXTS[-2]]):
        with pytest.raises(Mistake, match="are not the texts"):
            verified(ours, swapped)


def test_pieces_of_a_file_hold_every_line_once(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = inputs / "text.jsonl"
    size = path.stat().st_size
    for piece in (size // 60, size // 7, size, size + 1):  # shorter than a line, and longer than the file
        monkeypatch.setattr(prep_peers, "PIECE", piece)
        lines = [line for begin in range(0, size, piece) for line in prep_peers._lines(path, begin)]
        assert [json.loads(line)["text"] for line in lines] == TEXTS


def test_tiktoken_takes_byte_level_bpe_only(inputs: Path, tmp_path: Path, ours: np.ndarray) -> None:
    saved = open_artifact("tokenizer", "bench").path / "tokenizer.json"
    assert tiktoken_of(saved.parent).encode_ordinary(TEXTS[0]) == ours[: ours.tolist().index(END_ID)].tolist()
    other = json.loads(saved.read_text(encoding="utf-8"))
    other["model"]["byte_fallback"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(Mistake, match="byte-level BPE with one pattern"):
        tiktoken_of(tmp_path)


def test_copies_of_the_data_have_words_of_their_own() -> None:
    size = sum(len(text.encode()) for text in TEXTS)
    many = list(prep_text.varied(TEXTS, 2.5 * size))
    assert many[:30] == TEXTS and 2.5 * size <= sum(len(text.encode()) for text in many) < 2.6 * size
    words = [set(" ".join(many[begin : begin + 30]).split()) for begin in (0, 30)]
    assert words[1] - words[0] and words[1] & words[0]
    assert many == list(prep_text.varied(TEXTS, 2.5 * size))


def test_a_command_is_watched_with_its_children(tmp_path: Path) -> None:
    child = f"open({str(tmp_path / 'file')!r}, 'wb').write(bytes(30_000_000))"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    one = watched([sys.executable, "-c", f"{parent}; print('done')"])
    assert one["said"] == "done\n" and one["cpu_s"] > 0
    with pytest.raises(Mistake, match=r"stopped with 3:\nsorry"):
        watched([sys.executable, "-c", "print('sorry'); raise SystemExit(3)"])
