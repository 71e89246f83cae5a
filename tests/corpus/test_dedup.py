"""Near-copies are found, and only they, against the exact similarity of every pair; whatever the pieces and parts."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corpus import dedup
from corpus.dedup import match, save
from corpus.groups import EXACT, NEAR, PAIR, STAYS, groups, read_pairs, write_pairs
from corpus.marks import Marks, Settings, band_keys, jaccard, mark, shingles_of, windows
from narae.log import Mistake

WORDS = "나래 장터 사과 바람 아침 저녁 마을 바다 강물 노래 구름 나무 학교 편지 동생 친구 기차 시계 책상 하늘".split()
ENDS = "은 를 에서 까지 도 만 부터 에게".split()
SETTINGS = Settings()
Found = dict[tuple[int, int], float]


def story(rng: random.Random, words: int = 80) -> list[str]:
    return [rng.choice(WORDS) + rng.choice(ENDS) for _ in range(words)]


def near_copies(rng: random.Random, originals: int) -> list[str]:
    """Each text followed by copies with 1, 2, 5 and 12 of its 80 words changed, in an order of their own."""
    texts = []
    for _ in range(originals):
        words = story(rng)
        texts.append(" ".join(words))
        for changes in (1, 2, 5, 12):
            changed = list(words)
            for _ in range(changes):
                changed[rng.randrange(len(changed))] = rng.choice(WORDS)
            texts.append(" ".join(changed))
    rng.shuffle(texts)
    return texts


class Corpus:
    """Texts cut into pieces, marked batch by batch, with their pairs on disk."""

    def __init__(self, folder: Path, texts: list[str], cuts: tuple[int, ...] = (), settings: Settings = SETTINGS):
        self.folder, self.settings = folder, settings
        edges = [0, *cuts, len(texts)]
        self.pieces = [texts[low:high] for low, high in itertools.pairwise(edges)]
        self.starts = edges[:-1]
        self.folders = [folder / f"piece-{number}" for number in range(len(self.pieces))]
        for place, piece in zip(self.folders, self.pieces, strict=True):
            batches = [piece[start : start + 7] for start in range(0, len(piece), 7)]
            save(place, [mark(batch, settings) for batch in batches], settings)
        self.looks: list[tuple[int, int]] = []

    def text_of(self, piece: int, number: int) -> str:
        self.looks.append((piece, number))
        return self.pieces[piece][number]

    def match(self, task: int, part: int = dedup.PART) -> Found:
        """Pairs of a task by their places among all texts."""
        file = self.folder / f"pairs-{task}"
        count = write_pairs(file, match(task, self.folders, self.settings, self.text_of, part))
        found = {
            tuple(self.starts[int(name) >> 32] + (int(name) & 0xFFFFFFFF) for name in names): similarity  # type: ignore[misc]
            for one, other, similarities in read_pairs([file])
            for *names, similarity in zip(one, other, similarities.tolist(), strict=True)
        }
        assert len(found) == count  # no pair twice
        return found

    def members(self, val: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None) -> dict[int, tuple]:
        """Of each document in a group: the one that stays, how similar, which kind, whether compared with it."""
        files = [self.folder / f"pairs-{task}" for task in range(self.settings.tasks)]
        for task, file in enumerate(files):
            if not file.exists():
                self.match(task)
        return {
            self.starts[row["piece"]] + row["number"]: (
                self.starts[row["of_piece"]] + row["of_number"],
                round(float(row["similarity"]), 4),
                int(row["kind"]),
                bool(row["compared"]),
            )
            for row in groups(files[:1], files[1:], val)
        }


def words_of(text: str) -> set[str]:
    solid = "".join(text.split()).ljust(5, "\0")
    return {solid[start : start + 5] for start in range(len(solid) - 4)}


def test_jaccard_by_hand() -> None:
    # 가나다라마 바, 가나다라마 사: shingles 가나다라마, 나다라마바 / 가나다라마, 나다라마사: one of three
    one, other = shingles_of("가나 다라마 바", SETTINGS), shingles_of("가나다라마사", SETTINGS)
    assert (len(one), len(other), jaccard(one, other)) == (2, 2, 1 / 3)
    assert len(shingles_of("가나", SETTINGS)) == len(shingles_of("", SETTINGS)) == 1
    assert jaccard(shingles_of("가나", SETTINGS), shingles_of("가나다", SETTINGS)) == 0


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 8, 13])
def test_windows_are_equal_where_the_characters_are(width: int) -> None:
    rng = random.Random(width)
    text = "".join(rng.choice("가나다") for _ in range(300))
    hashed = windows(np.array([ord(character) for character in text], dtype=np.uint32), width)
    shingles = [text[start : start + width] for start in range(len(text) - width + 1)]
    assert len(hashed) == len(shingles)
    assert len(set(zip(hashed.tolist(), shingles, strict=True))) == len(set(shingles)) == len(set(hashed.tolist()))


def test_windows_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(story(random.Random(5), 200))
    whole = mark([text, "짧다", text[:300]], SETTINGS)
    monkeypatch.setattr("corpus.marks.CHUNK", 64)
    again = mark([text, "짧다", text[:300]], SETTINGS)
    assert np.array_equal(whole.sketches, again.sketches) and np.array_equal(whole.digests, again.digests)


def test_marks_do_not_depend_on_the_batch() -> None:
    rng = random.Random(2)
    texts = [" ".join(story(rng, words)) for words in (1, 2, 30, 80, 2000)] + ["가", "", "나다", "🙂 이모지", "\ud800"]
    together, alone = mark(texts, SETTINGS), [mark([text], SETTINGS) for text in texts]
    assert np.array_equal(together.digests, np.concatenate([one.digests for one in alone]))
    assert np.array_equal(together.sketches, np.concatenate([one.sketches for one in alone]))
    assert together.sketches.shape == (len(texts), 64) and together.sketches.dtype == np.uint8
    assert len(set(together.digests.tolist())) == len(texts)


@pytest.mark.parametrize("words", [4, 8, 20, 80, 400])
def test_sketches_agree_as_often_as_texts_are_similar(words: int) -> None:
    """However short: 4 words are some 10 shingles, whose 64 values are mostly filled by later throws."""
    rng = random.Random(words)
    pairs = []
    for _ in range(400):
        one = story(rng, words)
        pairs.append((" ".join(one), " ".join([*one[: -max(words // 8, 1)], rng.choice(WORDS)])))
    first, second = (mark(list(side), SETTINGS).sketches for side in zip(*pairs, strict=True))
    real = [len(words_of(a) & words_of(b)) / len(words_of(a) | words_of(b)) for a, b in pairs]
    off = (first == second).mean(axis=1) - np.array(real)
    assert abs(off.mean()) < 0.01
    assert off.std() < (0.25 / 64) ** 0.5
    # Bands find what independent values would: 1 - (1 - s^4)^16.
    agree = (first == second).reshape(-1, 16, 4).all(axis=2).any(axis=1).mean()
    assert abs(agree - np.mean([1 - (1 - s**4) ** 16 for s in real])) < 0.03


@pytest.mark.parametrize(("bands", "rows", "dtype"), [(3, 1, "u4"), (4, 2, "u2"), (4, 3, "u2"), (5, 8, "u1")])
def test_a_band_holds_32_bits(bands: int, rows: int, dtype: str) -> None:
    settings = Settings(bands=bands, rows=rows)
    sketches = mark([" ".join(story(random.Random(1)))], settings).sketches
    assert sketches.dtype == dtype and sketches.shape == (1, bands * rows)
    again = sketches.copy()
    again[:, 0] ^= 1
    assert band_keys(sketches, 0, settings) != band_keys(again, 0, settings)
    assert band_keys(sketches, 1, settings) == band_keys(again, 1, settings)


def test_near_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    texts = near_copies(random.Random(1), 120)
    corpus = Corpus(tmp_path, texts, (100, 400))
    sets = [words_of(text) for text in texts]

    def real(a: int, b: int) -> float:
        return len(sets[a] & sets[b]) / len(sets[a] | sets[b])

    found: Found = {}
    for task in range(SETTINGS.tasks):
        for pair, similarity in corpus.match(task).items():
            assert pair[0] < pair[1] and pair not in found  # no pair twice
            assert similarity == pytest.approx(real(*pair)) and similarity >= 0.8
            found[pair] = similarity
    members = corpus.members()
    kept = [n for n in range(len(texts)) if members.get(n, (n,))[0] == n]
    assert [pair for pair in itertools.combinations(kept, 2) if real(*pair) >= 0.8] == []
    assert len(texts) - len(kept) > 200
    for number, (of, similarity, kind, compared) in members.items():
        assert (of == number) == (kind == STAYS)
        if compared:
            assert similarity == pytest.approx(real(number, of), abs=1e-4)
        assert similarity >= 0.8


def test_the_cut_into_pieces_and_the_parts_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    texts = near_copies(rng, 40) + [" ".join(story(rng, 3))] * 30
    rng.shuffle(texts)
    one = Corpus(tmp_path / "one", texts)
    many = Corpus(tmp_path / "many", texts, (0, 1, 2, 50, 50, 120, 229))
    expected = [one.match(task) for task in range(SETTINGS.tasks)]
    assert [many.match(task) for task in range(SETTINGS.tasks)] == expected
    assert one.members() == many.members()
    assert [many.match(task, part=10) for task in range(SETTINGS.tasks)] == expected
    monkeypatch.setattr(dedup, "BLOCK", 20)
    assert [many.match(task) for task in range(SETTINGS.tasks)] == expected
    assert sum(map(len, expected[1:])) > 50


@pytest.mark.parametrize(("bands", "rows", "similarity"), [(40, 2, 0.9), (24, 3, 0.7), (12, 5, 1.0), (30, 6, 0.85)])
def test_other_settings(tmp_path: Path, bands: int, rows: int, similarity: float) -> None:
    settings = Settings(7, bands, rows, similarity)
    texts = near_copies(random.Random(bands), 40)
    # All of one shingle, more often: another text with the same set.
    texts += ["나래" * 40, "나래" * 50]
    corpus = Corpus(tmp_path, texts, (77,), settings)
    found = {pair: one for task in range(1, settings.tasks) for pair, one in corpus.match(task).items()}
    sets = [
        {solid[start : start + 7] for start in range(len(solid) - 6)} for solid in map("".join, map(str.split, texts))
    ]
    real = {
        (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in itertools.combinations(range(len(texts)), 2)
    }
    assert found[200, 201] == 1
    assert all(one == pytest.approx(real[pair]) for pair, one in found.items()) and min(found.values()) >= similarity
    group = {name: row[0] for name, row in corpus.members().items()}
    high = [pair for pair, one in real.items() if one >= similarity]
    missed = [pair for pair in high if group.get(pair[0], -1) != group.get(pair[1], -2)]
    assert len(missed) <= 0.02 * len(high) and len(high) >= (1 if similarity == 1 else 30)


def test_single_rows_and_whole_files_hold_the_same(tmp_path: Path) -> None:
    rng = random.Random(11)
    texts = [" ".join(story(rng, 6)) for _ in range(300)]
    texts[5] = texts[4]
    save(tmp_path, [mark(texts, SETTINGS)], SETTINGS)
    piece = dedup.Piece(tmp_path, SETTINGS)
    assert (piece.documents, piece.firsts) == (300, 299)
    every = piece.rows(np.arange(299))
    assert every[0].tolist() == [*range(5), *range(6, 300)]
    few = np.array([298, 3, 5])
    for mine, all_of in zip(piece.rows(few), every, strict=True):
        assert np.array_equal(mine, all_of[few])
    assert np.array_equal(every[2], mark(texts, SETTINGS).sketches[every[0]])
    assert np.array_equal(piece.column(15), band_keys(every[2], 15, SETTINGS))


def test_exact_copies_whatever_their_spaces_and_without_sketches(tmp_path: Path) -> None:
    texts = [
        "나래는 장터에 갔다.",
        "나래는  장터에\n갔다.",
        "나래는 장터에 왔다.",
        "나래는\u3000장터에 갔다.",
        "가",
        "가 ",
        "",
    ]
    settings = Settings(similarity=0)
    corpus = Corpus(tmp_path, texts, (2,), settings)
    assert settings.tasks == 1
    assert corpus.match(0) == {(0, 1): 1, (0, 3): 1, (4, 5): 1}
    assert {name: row[0] for name, row in corpus.members().items()} == {0: 0, 1: 0, 3: 0, 4: 4, 5: 4}
    assert sorted(path.name for path in corpus.folders[0].iterdir()) == ["digests.u64"]
    assert corpus.looks == []


def test_texts_shorter_than_a_shingle_are_near_nothing(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, ["가나", "가나다", "", "가 나", "가나다라"])
    assert corpus.members() == {0: (0, 1, STAYS, True), 3: (0, 1, EXACT, True)}


def test_a_text_ten_thousand_times_is_looked_at_once(tmp_path: Path) -> None:
    words = story(random.Random(3), 120)
    page, other = " ".join(words), " ".join([*words, "끝"])
    corpus = Corpus(tmp_path, [page] * 5000 + [other] + [page] * 5000, (10, 3000, 9000))
    assert len(corpus.match(0)) == 9999
    found = {pair for task in range(1, SETTINGS.tasks) for pair in corpus.match(task)}
    assert found == {(0, 5000)}
    assert len(corpus.looks) == 2
    kinds = [row[2] for row in corpus.members().values()]
    assert (kinds.count(STAYS), kinds.count(EXACT), kinds.count(NEAR)) == (1, 9999, 1)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The similarity of each pair of texts that is compared."""
    seen: list[float] = []

    def compare(one: np.ndarray, other: np.ndarray) -> float:
        seen.append(jaccard(one, other))
        return seen[-1]

    monkeypatch.setattr(dedup, "jaccard", compare)
    return seen


def test_many_near_copies_cost_few_comparisons(tmp_path: Path, compared: list[float]) -> None:
    """A page with a number in it, 400 times: each is tied to the others once, not once per neighbour and band."""
    words = story(random.Random(6), 120)
    corpus = Corpus(tmp_path, [" ".join([*words, str(number)]) for number in range(400)])
    members = corpus.members()
    assert len(members) == 400 and {row[0] for row in members.values()} == {0}
    assert 399 <= len(compared) < 500
    assert len(corpus.looks) < 500


def test_texts_alike_in_part_cost_few_comparisons(tmp_path: Path, compared: list[float]) -> None:
    """Most of each text is the same notice: they share keys, and none reaches the threshold."""
    rng = random.Random(7)
    notice = story(rng, 60)
    texts = [" ".join(notice + story(rng, 18)) for _ in range(300)]
    assert Corpus(tmp_path, texts).members() == {}
    assert max(compared) < 0.8 and 0 < len(compared) < 300 * 12  # 24 without a limit


def test_near_copies_within_a_long_run_are_found(tmp_path: Path) -> None:
    """300 texts share a notice, and so share keys; only some are copies, and their twins stand far away."""
    rng = random.Random(8)
    notice, texts = story(rng, 60), []
    for _ in range(300):
        texts.append(" ".join(notice + story(rng, 40)))
    twins = [text + " 끝이다" for text in texts[:40]]
    corpus = Corpus(tmp_path, texts + twins, (100,))
    longest = max(np.unique(band_keys(mark(texts, SETTINGS).sketches, 0, SETTINGS), return_counts=True)[1])
    assert longest > 2 * dedup.RUN
    assert {name: row[0] for name, row in corpus.members().items() if row[2] == NEAR} == {300 + n: n for n in range(40)}


def test_one_shared_band_is_enough(tmp_path: Path) -> None:
    """Sketches by hand: documents 0 and 1 agree in band 2 alone, and a little elsewhere; the texts are the same."""
    rng = np.random.default_rng(9)
    sketches = rng.integers(0, 128, (3, 64), dtype=np.uint8)
    sketches[1] = sketches[0]
    sketches[1, np.setdiff1d(np.arange(0, 64, 4), [8])] += 128  # the first value of every band but band 2
    save(tmp_path, [Marks(np.arange(3, dtype=np.uint64), sketches)], SETTINGS)
    text = " ".join(story(random.Random(9)))
    counts = [
        sum(map(len, match(task, [tmp_path], SETTINGS, lambda piece, number: text))) for task in range(SETTINGS.tasks)
    ]
    assert counts == [0, 0, 0, 1, *[0] * 13]  # task 3 is band 2


def test_groups_are_whole_and_the_first_stays(tmp_path: Path) -> None:
    """A~B~C ties C to A; D repeats B; E~F is a group of its own. Documents 0…6, of which 6 (F) is held out."""
    a, d, c, b, e, x, f = range(7)
    exact, near = tmp_path / "exact", tmp_path / "near"
    write_pairs(exact, [np.array([(0, d, 0, b, 1)], PAIR)])
    near_pairs = [(0, a, 0, d, 0.9), (0, d, 0, c, 0.85), (0, e, 1, f - 6, 0.8), (0, d, 0, c, 0.85)]
    write_pairs(near, [np.array(near_pairs[:2], PAIR), np.array(near_pairs[2:], PAIR)])

    def found(val: Callable[[np.ndarray, np.ndarray], np.ndarray] | None) -> dict[int, tuple]:
        rows = [row.tolist() for row in groups([exact], [near], val)]
        return {6 * p + n: (6 * op + on, round(s, 2), kind, compared) for p, n, op, on, s, kind, compared in rows}

    assert found(None) == {
        a: (a, 1.0, STAYS, True),
        d: (a, 0.9, NEAR, True),
        c: (a, 0.85, NEAR, False),  # compared with D alone
        b: (a, 0.9, NEAR, True),  # D's text
        e: (e, 1.0, STAYS, True),
        f: (e, 0.8, NEAR, True),
    }
    held = {b, c, f}  # of B and C, C comes first in the order of the documents
    assert found(lambda piece, number: np.isin(6 * piece + number, [c, f])) == {
        a: (c, 0.9, NEAR, False),
        d: (c, 0.85, NEAR, True),
        c: (c, 1.0, STAYS, True),
        b: (c, 0.85, NEAR, True),
        e: (f, 0.8, NEAR, True),
        f: (f, 1.0, STAYS, True),
    }
    assert {row[0] for row in found(lambda piece, number: np.isin(6 * piece + number, list(held))).values()} == {c, f}
    assert found(lambda piece, number: np.isin(6 * piece + number, [b, f])) == {
        a: (b, 0.9, NEAR, True),
        d: (b, 1.0, EXACT, True),
        c: (b, 0.85, NEAR, True),
        b: (b, 1.0, STAYS, True),
        e: (f, 0.8, NEAR, True),
        f: (f, 1.0, STAYS, True),
    }
    assert x not in found(None)


def test_a_long_chain_is_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = list(range(1000))
    random.Random(10).shuffle(order)
    links = [(0, *sorted(pair)) for pair in itertools.pairwise(order)]
    write_pairs(tmp_path / "near", [np.array([(0, a, 0, b, 0.9) for _, a, b in links], PAIR)])
    monkeypatch.setattr("corpus.groups.READ", 64)
    members = groups([], [tmp_path / "near"])
    assert len(members) == 1000 and set(members["of_number"]) == {0}


def test_no_documents(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, [])
    assert [corpus.match(task) for task in range(SETTINGS.tasks)] == [{}] * 17
    assert corpus.members() == {}
    assert list(match(1, [], SETTINGS, corpus.text_of))[0:] == []


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ({"similarity": 1.2}, {"shingle": 0}, {"bands": 0}, {"bands": 129, "rows": 8}):
        with pytest.raises(Mistake):
            Settings(**wrong)  # type: ignore[arg-type]
    SETTINGS.advise()
    Settings(similarity=0, bands=1).advise()
    assert capsys.readouterr().err == ""
    # 1 - (1 - 0.8^8)^14 = 0.924
    Settings(bands=14, rows=8).advise()
    assert "14 bands of 8 rows find 92.4% of the pairs that are 0.8 alike" in capsys.readouterr().err
    save(tmp_path / "marks", [mark(["하나"], SETTINGS)], SETTINGS)
    with pytest.raises(Mistake, match="other settings than 14 bands of 8 rows"):
        match(1, [tmp_path / "marks"], Settings(bands=14, rows=8), lambda piece, number: "")
    with pytest.raises(Mistake, match="no marks of a piece"):
        match(0, [tmp_path / "nowhere"], SETTINGS, lambda piece, number: "")
