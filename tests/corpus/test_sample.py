import hashlib
import json
import re
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from corpus import chat, grammar, sample, tales
from corpus.world import ATTRIBUTES, World, lexicon

DOCUMENTS = 400


@pytest.fixture(scope="module")
def world() -> World:
    return World(1)


@pytest.fixture(scope="module")
def documents(world: World) -> list[tales.Document]:
    return [tales.document(world, number) for number in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    sample.write(root, sample.SampleConfig(megabytes=0.3, chat_examples=500))
    return root


def files(root: Path) -> dict[str, str]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read(root: Path) -> dict[str, list[tuple[str, str, str]]]:
    """document id -> (archive, member, text), read with no help from the writer."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for path in sorted(root.rglob("*.zip*")):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                content = archive.read(info).decode()
                name = str(path.relative_to(root))
                if info.filename.endswith(".tsv"):
                    rows: dict[str, list[str]] = {}
                    for line in content.splitlines():
                        columns = line.split("\t")
                        assert len(columns) == 6
                        rows.setdefault(columns[0].split(".")[1], []).append(columns[1])
                    texts = {number: " ".join(sentences) for number, sentences in rows.items()}
                elif "_TEXT_" in info.filename and not info.filename.endswith("_000.json"):
                    texts = {
                        paragraph["id"]: " ".join(sentence["text"] for sentence in paragraph["sentences"])
                        for paragraph in json.loads(content)["paragraphs"]
                    }
                else:
                    continue
                for number, text in texts.items():
                    found.setdefault(number, []).append((name, info.filename, text))
    return found


def test_same_seed_same_bytes(written: Path, tmp_path: Path) -> None:
    sample.write(tmp_path, sample.SampleConfig(megabytes=0.3, chat_examples=500))
    assert files(tmp_path) == files(written)


def test_another_seed_is_another_world(world: World) -> None:
    other = World(2)
    same = sum(one.value == two.value for one, two in zip(world.facts, other.facts, strict=True))
    assert same < len(world.facts) / 5
    assert tales.document(world, 0).text != tales.document(other, 0).text


def test_names_are_unique_and_values_are_even(world: World) -> None:
    assert len(world.people) >= 120
    assert (
        len({person.full for person in world.people})
        == len({person.given for person in world.people})
        == len(world.people)
    )
    for attribute in ATTRIBUTES:
        counts = Counter(getattr(person, attribute) for person in world.people)
        assert len(counts) == 20
        assert max(counts.values()) - min(counts.values()) <= 1
    assert len(world.unasked) == len(world.people)  # a quarter of four attributes


def test_canonical_answers(world: World) -> None:
    answers = {fact.id: fact.answer for fact in world.facts}
    person = world.people[0]
    assert answers[f"{person.full}/town"] == f"{person.full}은 {person.town}에 살아요."  # 민준 ends in ㄴ
    assert answers[f"{person.full}/job"] == f"{person.full}은 {person.job}로 일해요."  # 요리사
    assert all(fact.value in fact.answer.split(fact.entity, 1)[1] for fact in world.facts)


def test_documents_are_whole_and_resolved(documents: list[tales.Document]) -> None:
    for document in documents:
        assert 150 <= len(document.text) <= 1500
        assert not re.search(r"[{}<>|()]", document.text)
        assert not re.search(r" [ .,]|\.\.", document.text)


def test_every_fact_is_told(world: World) -> None:
    told: Counter[tuple[str, str]] = Counter()
    for number in range(1500):
        told.update(tales.document(world, number).told)
    assert not [fact.id for fact in world.facts if not told[fact.entity, fact.attribute]]


def test_most_documents_tell_of_people(world: World, documents: list[tales.Document]) -> None:
    telling = [d for d in documents if any(entity in world.by_name for entity, _ in d.told)]
    assert len(telling) >= DOCUMENTS * 2 / 3
    for document in telling:
        assert 1 <= len({entity for entity, _ in document.told if entity in world.by_name}) <= 3


# Another way to say which particle is right: the Unicode decomposition of the last syllable.
def has_final(word: str) -> bool:
    return len(unicodedata.normalize("NFD", word[-1])) == 3


PAIRS = [
    ("은", "는"),
    ("이", "가"),
    ("을", "를"),
    ("과", "와"),
    ("이라고", "라고"),
    ("이에요", "예요"),
    ("이라서", "라서"),
]


def test_particles_by_another_rule(world: World, documents: list[tales.Document]) -> None:
    nouns = {getattr(person, attribute) for person in world.people for attribute in ATTRIBUTES}
    nouns |= {name for person in world.people for name in (person.full, person.short)}
    for value in lexicon("words").values():
        nouns |= {word for word in value.split() if len(word) > 1}
    right = {noun + pair[0 if has_final(noun) else 1] for noun in nouns for pair in PAIRS}
    wrong = {noun + pair[1 if has_final(noun) else 0] for noun in nouns for pair in PAIRS}
    wrong -= right | nouns
    seen = 0
    for document in documents:
        for word in re.findall(r"[가-힣]+", document.text):
            assert word not in wrong, (word, document.text)
            seen += word in right
    assert seen > DOCUMENTS * 5


def test_no_contradiction(world: World, documents: list[tales.Document]) -> None:
    """Whoever is named in a sentence alone has no town, job, food or animal of another person beside him."""
    values = {attribute: {getattr(p, attribute) for p in world.people} for attribute in ("town", "job")}
    names = {name: person for person in world.people for name in (person.full, person.given)}
    pattern = re.compile("|".join(sorted(names, key=len, reverse=True)))
    seen = 0
    for document in documents:
        for sentence in re.split(r"(?<=[.?]) ", document.text):
            people = {names[name].full: names[name] for name in pattern.findall(sentence)}
            if len(people) != 1:
                continue
            person = next(iter(people.values()))
            for attribute, known in values.items():
                met = {v for v in known if re.search(rf"(?<![가-힣]){v}(?!가 쓰|은 스)", sentence)}
                assert met <= {getattr(person, attribute)}, sentence
                seen += len(met)
    assert seen > DOCUMENTS


def test_trained_and_held_out_wordings_differ() -> None:
    for attribute, frames in lexicon("questions").items():
        assert len(frames["trained"]) >= (16 if attribute in ATTRIBUTES else 6)
        assert len(frames["held"]) >= (4 if attribute in ATTRIBUTES else 2)
        assert not set(frames["trained"]) & set(frames["held"])
        for style in ("해요", "합니다", "해"):
            assert any(tales.level(frame) == style for frame in frames["trained"])


def questions(world: World, people: set[tuple[str, str]], which: str) -> set[str]:
    found = set()
    for entity, attribute in people:
        for frame in lexicon("questions")[attribute][which]:
            for full in (True, False):
                found.add(world.say(frame, tales.level(frame), world.by_name[entity], full))
    return found


def test_never_asked_facts_and_held_out_wordings_are_nowhere(world: World, written: Path) -> None:
    every = {(p.full, a) for p in world.people for a in ATTRIBUTES}
    unasked = {(world.people[number].full, attribute) for number, attribute in world.unasked}
    forbidden = questions(world, unasked, "trained") | questions(world, every, "held")
    allowed = questions(world, every - unasked, "trained")
    assert not forbidden & allowed
    asked = 0
    texts = [text for places in read(written).values() for *_, text in places]
    texts += [turn["content"] for line in lines(written / "chat.jsonl") for turn in line["messages"]]
    for text in texts:
        for sentence in re.findall(r"[^:.?]+[.?]", text):
            assert sentence.strip() not in forbidden
            asked += sentence.strip() in allowed
    assert asked > 300
    assert all(line["question"] not in allowed for line in lines(written / "questions_wording.jsonl"))


def test_exams_and_chat(world: World, written: Path) -> None:
    wording, unasked = lines(written / "questions_wording.jsonl"), lines(written / "questions_unasked.jsonl")
    assert len(wording) >= 240
    assert len(unasked) >= 240
    facts = {(fact.entity, fact.attribute): fact for fact in world.facts}
    for line in wording + unasked:
        fact = facts[line["entity"], line["attribute"]]
        assert (line["answer"], line["value"]) == (fact.answer, fact.value)
        assert fact.asked == line["id"].startswith("wording")
    examples = lines(written / "chat.jsonl")
    assert len(examples) == 500
    assert all([m["role"] for m in line["messages"]][:2] == ["user", "assistant"] for line in examples)
    many = list(chat.examples(world, 6000, 1))
    assert len(many) == 6000
    asked = {fact.answer: set() for fact in world.facts if fact.asked}
    for line in many:
        question, answer = (message["content"] for message in line["messages"][:2])
        asked.get(answer, set()).add(question)
    assert min(map(len, asked.values())) >= 6


def test_planted_is_what_the_archives_hold(written: Path) -> None:
    planted = json.loads((written / "planted.json").read_text(encoding="utf-8"))
    assert planted["join"] == "space"
    counts = Counter(entry["kind"] for entry in planted["planted"])
    assert counts == Counter(planted["counts"])
    assert {"cp949_name", "empty_member", "broken_json", "part_is_zip"} <= set(counts)
    documents = read(written)
    for entry in planted["planted"]:
        archive = zipfile.ZipFile(written / entry["archive"])
        if entry["kind"] == "empty_member":
            assert archive.read(entry["member"]) == b""
        elif entry["kind"] == "broken_json":
            with pytest.raises(json.JSONDecodeError):
                json.loads(archive.read(entry["member"]))
        elif entry["kind"] == "part_is_zip":
            assert entry["archive"].endswith(".zip.part0")
        elif entry["kind"] == "cp949_name":
            info = archive.infolist()[0]
            assert not info.flag_bits & 0x800
            assert info.filename.encode("cp437").decode("cp949") == entry["member"]
        else:
            ((name, member, text),) = documents[entry["id"]]
            assert name == entry["archive"]
            assert member in (entry["member"], entry["member"].encode("cp949").decode("cp437"))
            assert hashlib.sha256(text.encode()).hexdigest() == entry["hash"]
            if entry["kind"] == "personal":
                assert entry["piece"] in text
            if entry["kind"] == "exact_duplicate":
                assert documents[entry["of"]][0][2] == text
            if entry["kind"] == "near_duplicate":
                assert documents[entry["of"]][0][2] != text


def test_a_mistaken_frame_is_named() -> None:
    for frame in ("{p:는}", "<살아요>", "(열린", "닫힌)", "a|b"):
        with pytest.raises(grammar.FrameError):
            grammar.compile_frame(frame, "한다", frozenset())
