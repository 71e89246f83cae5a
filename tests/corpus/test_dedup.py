"""Near-copies are found, and only they: against the exact similarity of every pair."""

import itertools
import random
from pathlib import Path

import numpy as np

from corpus.dedup import BANDS, Marks, Spool, find, jaccard, joined, mark, shingles_of
from narae.documents import Document

WORDS = "나래 장터 사과 바람 아침 저녁 마을 바다 강물 노래 구름 나무 학교 편지 동생 친구 기차 시계 책상 하늘".split()


def story(rng: random.Random, words: int = 80) -> list[str]:
    return [rng.choice(WORDS) + rng.choice(["은", "를", "에서", "까지", "도"]) for _ in range(words)]


def test_jaccard_by_hand() -> None:
    # 가나다라마 바, 가나다라마 사: shingles 가나다라마, 나다라마바 / 가나다라마, 나다라마사: one of three
    assert jaccard(shingles_of("가나 다라마 바"), shingles_of("가나다라마사")) == 1 / 3
    assert shingles_of("가나") == {"가나\0\0\0"}


def test_near_copies_are_found_and_nothing_else() -> None:
    rng = random.Random(1)
    texts = []
    for _ in range(150):
        words = story(rng)
        texts.append(" ".join(words))
        for changes in (1, 2, 5, 12):
            changed = list(words)
            for _ in range(changes):
                changed[rng.randrange(len(changed))] = rng.choice(WORDS)
            texts.append(" ".join(changed))
    found = find(mark(texts), range(len(texts)), texts.__getitem__, 0.8)
    sets = [shingles_of(text) for text in texts]
    for number, (of, similarity) in found.items():
        assert of < number
        assert similarity == 1 or similarity == jaccard(sets[number], sets[of]) >= 0.8
    kept = [number for number in range(len(texts)) if number not in found]
    missed = [(a, b) for a, b in itertools.combinations(kept, 2) if jaccard(sets[a], sets[b]) >= 0.8]
    assert len(missed) == 0
    assert len(found) > 200


def test_exact_copies_are_found_without_a_threshold_and_whatever_their_spaces() -> None:
    texts = ["나래는 장터에 갔다.", "나래는  장터에\n갔다.", "나래는 장터에 왔다.", "나래는 장터에 갔다."]
    assert find(mark(texts), range(4), texts.__getitem__, 0.0) == {1: (0, 1.0), 3: (0, 1.0)}


def test_the_order_decides_which_one_stays() -> None:
    texts = ["나래는 장터에 갔다.", "나래는 장터에 갔다."]
    assert find(mark(texts), [1, 0], texts.__getitem__, 0.8) == {0: (1, 1.0)}


def test_marks_do_not_depend_on_the_batch() -> None:
    rng = random.Random(2)
    texts = [" ".join(story(rng, words)) for words in (1, 2, 30, 80)] + ["가", "", "나다"]
    together, alone = mark(texts), joined([mark([text]) for text in texts])
    for key in ("digests", "keys", "sketches"):
        assert np.array_equal(getattr(together, key), getattr(alone, key))
    assert together.keys.shape == (7, BANDS)


def test_no_documents() -> None:
    empty: Marks = joined([])
    assert find(empty, [], str, 0.8) == {}


def test_a_page_that_is_everywhere_is_looked_at_once_each() -> None:
    rng = random.Random(3)
    words = story(rng, 120)
    texts = [" ".join([*words, str(number)]) for number in range(400)]
    looks: list[int] = []

    def text_of(number: int) -> str:
        looks.append(number)
        return texts[number]

    assert len(find(mark(texts), range(400), text_of, 0.8)) == 399
    assert len(looks) <= 800


def test_spool(tmp_path: Path) -> None:
    documents = [Document(f"a#{n}", f"글 {n}\n둘째 줄", "s", "l", {"n": n}) for n in range(3)]
    with Spool(tmp_path) as spool:
        for document in documents:
            spool.write(document, 30, 20)
        assert spool.read(1) == documents[1]
        assert list(spool.all()) == documents
        assert list(spool.sizes) == [30, 20] * 3
    assert not list(tmp_path.iterdir())
