"""Several packed sets are read as one: every row by one number, each set by its weight."""

import pickle

import helpers
import numpy as np
import pytest

from narae import artifact
from narae.artifact import Artifact, open_artifact
from narae.log import Mistake
from narae.mixture import Mixture, open_sets
from narae.order import order
from narae.packed import PackedRows, PackedWriter, dtype_for

pytestmark = pytest.mark.usefixtures("artifacts")
EOS, PAD = 0, 1


def tokenizer(name: str = "sample", text: str = "{}") -> Artifact:
    draft = artifact.begin("tokenizer", name, {"text": text})
    if draft is not None:
        with draft:
            (draft.path / "tokenizer.json").write_text(text)
    return open_artifact("tokenizer", name)


def packed(
    name: str, rows: int, made_with: Artifact, first: int = 10, sequence_length: int = 4, sources: str = "one"
) -> Artifact:
    """Rows of one document each, whose ids are the row's number and `first`; half as many in val.

    Val's documents are of these sources in turn.
    """
    draft = artifact.begin("packed", name, {}, [helpers.corpus(), made_with])
    assert draft is not None
    with draft:
        draft.counts.update(dtype="uint16", sequence_length=sequence_length, eos=EOS, pad=PAD)
        for split, count in (("train", rows), ("val", rows // 2)):
            with PackedWriter(draft.path, split, dtype_for(300), sequence_length, 3, PAD) as writer:
                for row in range(count):
                    ids = np.full(sequence_length - 1, EOS)
                    ids[:-1] = first + row
                    writer.write(ids, np.array([0]), np.array([row]))
                    writer.write(np.array([PAD]), np.array([], int), np.array([], int))
            draft.counts[split] = {**writer.counts, "bytes": 3 * count, "corpus_shards": [384]}
            names = sorted(sources.split())
            writer.write_sources(np.array([names.index(sources.split()[n % len(names)]) for n in range(384)]))
        draft.counts["val"]["sources"] = {key: {} for key in names}
    return open_artifact("packed", name)


def mixture(words: str, split: str = "train", seed: int = 5) -> Mixture:
    sets = open_sets(words)
    return Mixture([PackedRows(one, split) for one, _ in sets], [weight for _, weight in sets], seed)


def test_rows_are_numbered_through() -> None:
    made = tokenizer()
    packed("books", 5, made, first=100)
    packed("news", 4, made, first=200)
    rows = mixture("books,news")
    assert len(rows) == 9
    assert [rows[row][0] for row in range(9)] == [100, 101, 102, 103, 104, 200, 201, 202, 203]
    assert rows.labels(6).tolist() == [201, 201, 0, -100]
    assert rows.positions(6).tolist() == [0, 1, 2, 0]
    assert rows.documents(6).tolist() == [1, 1, 1, -1]
    found, number = rows.locate(6)
    assert (found.artifact.name, number) == ("news", 1)
    assert rows.counts == {"rows": 9, "tokens": 27, "bytes": 27}
    held_out = mixture("books,news", "val")
    assert [held_out[row][0] for row in range(len(held_out))] == [100, 101, 200, 201]
    assert pickle.loads(pickle.dumps(rows))[8][0] == 203
    for row in (-1, 9):
        with pytest.raises(IndexError, match=f"row {row} of 9"):
            rows[row]


def test_a_name_in_two_sets_is_one_source() -> None:
    made = tokenizer()
    packed("books", 6, made, sources="web novels")
    packed("news", 4, made, sources="press web")
    rows = mixture("books,news", "val")
    assert rows.source_names == ["novels", "press", "web"]
    assert [rows.sources(row).tolist() for row in range(5)] == [
        [number, number, number, -1] for number in (2, 0, 2, 1, 2)
    ]
    assert rows.begins(4).tolist() == [True, False, False, False]


def test_each_set_in_its_own_order_by_its_weight() -> None:
    made = tokenizer()
    packed("books", 5, made)
    packed("news", 4, made)
    rows = mixture("books:0.7,news:0.3")
    read = rows.mixing(np.arange(100))
    books, news = read[read < 5], read[read >= 5] - 5
    assert (books.size, news.size) == (70, 30)
    assert books.tolist() == order(np.arange(70), 5, 5).tolist()
    assert news.tolist() == order(np.arange(30), 4, 6).tolist()
    assert rows.shares == pytest.approx([0.7, 0.3])


def test_one_set_alone_is_read_as_ever() -> None:
    packed("books", 5, tokenizer())
    for words in ("books", "books:0.2"):
        assert mixture(words).mixing(np.arange(20)).tolist() == order(np.arange(20), 5, 5).tolist()


def test_a_set_may_be_named_by_its_folder() -> None:
    made = packed("books", 5, tokenizer())
    assert [(one.path, weight) for one, weight in open_sets(f"{made.path}:2")] == [(made.path, "2")]


def test_sets_that_cannot_be_mixed() -> None:
    made = tokenizer()
    packed("books", 5, made)
    packed("longer", 5, made, sequence_length=8)
    other = tokenizer("other", "{ }")
    packed("foreign", 5, other)
    with pytest.raises(Mistake) as length:
        open_sets("books,longer")
    assert str(length.value) == (
        "packed 'books' has rows of 4 tokens, 'longer' of 8: run `python pretrain/pack.py --name longer --overwrite "
        "--sequence_length 4`, or train on one of them"
    )
    with pytest.raises(Mistake) as foreign:
        open_sets("books:1,foreign:2")
    assert str(foreign.value) == (
        f"packed 'books' was made with tokenizer 'sample' {made.fingerprint}, 'foreign' with 'other' "
        f"{other.fingerprint}: run `python pretrain/pack.py --name foreign --overwrite --tokenizer sample`, or train "
        "on one of them"
    )
    with pytest.raises(Mistake, match="tokenizer 'sample'"):
        Mixture([PackedRows(open_artifact("packed", name)) for name in ("books", "foreign")])
    with pytest.raises(Mistake, match="--packed books:1,books: 'books' comes twice"):
        open_sets("books:1,books")
    with pytest.raises(Mistake, match=r"there is no packed in .*absent"):
        open_sets("books,absent:2")
    with pytest.raises(Mistake, match="a weight of 'many'"):
        mixture("books:many")
