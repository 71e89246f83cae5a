"""One record of an AIHub or NIKL set -> a document, its metadata beside it: one method per schema.

Where a set's own description and its readers disagree on a field, both are read, and `met` counts which it was.
Summaries are left out: they say once more what stands there, in annotators' words.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from corpus.plain import Raw, written

NOTE = 300  # characters of one piece of metadata
NEWSPAPERS = ("NWRW", "NLRW", "NPRW", "NIRW", "NZRW")  # NIKL's document ids
# What a record raises whose keys or types are not its schema's.
MISFITS = (KeyError, TypeError, AttributeError, ValueError, RecursionError)
ENDS = (".", "!", "?", "…", "。", '"', "'", "”", "’")

# Sounds, pictures and what nobody understood: {laughing}, {share:photo}, (()), ((xx)).
SOUND = re.compile(r"\{[a-z]+(?:: ?[a-z]+)?\}|\(\([xX ]*\)\)")
# What was hardly understood: ((그래서)). Not a face in a chat: ((ㅠㅠ)).
GUESS = re.compile(r"\(\(([^()]*)\)\)")
HANGUL = re.compile("[가-힣]")
# Written twice, as it was said and as it is spelled: (그르믄)/(그러면).
TWICE = re.compile(r"\(([^()/]+)\)/\([^()/]*\)")
# 한국어 SNS: #@이모티콘#, #@시스템#사진#; not the # that begins the next mark.
PICTURE = re.compile(r"#@(?:시스템|이모티콘)#(?:[^#@\s]+#(?!@))?")


class Parser:
    """Raises one of MISFITS where a record is not of its schema. `outer`: what stood in the file before the records."""

    def __init__(self, met: dict[str, int], outer: dict[str, Any]):
        self.met, self.outer = met, outer
        self.last: dict[str, str] = {}

    def book(self, paragraph: Any) -> Raw:
        """653."""
        try:
            texts = [sentence["text"].strip() for sentence in paragraph["sentences"]]
        except (KeyError, AttributeError):
            texts = [""]
        if texts and all(texts):
            self.count("text", len(texts))
        else:
            texts = list(self.forms(paragraph["sentences"], "text", "original_text"))
        info = table(paragraph.get("info"))
        author = table(info.get("author"))
        meta = notes(
            paragraph.get("id"),
            kdc=info.get("kdc"),
            year=info.get("published_year"),
            birth_year=author.get("birth_year"),
            jobs=author.get("jobs"),
        )
        return Raw(written(" ".join(texts)), meta)

    def web_source(self, article: Any) -> Raw:
        """624, source. The content has lines of its own."""
        return lined([article.get("title"), article.get("subtitle"), article["content"]], web_notes(article))

    def web_label(self, article: Any) -> Raw:
        """624, label, and 625: cut into sentences; where the lines ended is lost."""
        title, content = sentences(article.get("title")), sentences(article["content"])
        # A sentence runs on. What does not end like one (a heading, a comment) is a line.
        text = "".join(part + (" " if part.endswith(ENDS) else "\n") for part in content)
        return lined([" ".join(title), text], web_notes(article))

    def expert(self, entry: Any) -> Raw:
        """110."""
        return lined([row["text"] for row in entry["rows"]], notes(entry.get("id"), title=entry.get("title")))

    def news(self, entry: Any) -> Raw:
        """97."""
        meta = notes(
            entry.get("id"),
            title=entry.get("title"),
            category=entry.get("category"),
            media=entry.get("media_name"),
            date=entry.get("publish_date"),
        )
        paragraphs = entry["text"] if isinstance(entry["text"], list) else [entry["text"]]
        return lined([entry.get("title"), *(" ".join(sentences(part)) for part in paragraphs)], meta)

    def passage(self, entry: Any) -> Raw:
        """93."""
        about = table(entry.get("metadata"))
        meta = notes(
            about.get("doc_id") or entry.get("passage_id"),
            title=about.get("doc_name"),
            chapter=entry.get("chapter"),
            author=about.get("author"),
            publisher=about.get("publisher"),
            year=about.get("published_year"),
        )
        return lined([entry["passage"]], meta)

    def paper(self, entry: Any) -> Raw:
        """90. A section may stand in the entire text already. Entries of one paper in a row have one title in front."""
        if "summary_entire" not in entry and "summary_section" not in entry:
            raise KeyError("summary_entire")
        texts: list[str] = []
        for part in ("summary_entire", "summary_section"):
            for text in self.forms(entry.get(part) or (), "orginal_text", "original_text"):
                if not any(text in other for other in texts[:20]):
                    texts.append(text)
                    self.count(part)
        meta = notes(entry.get("doc_id"), title=entry.get("title"), date=entry.get("date"))
        goes_on, self.last = same_paper(self.last, meta), meta
        return lined(texts if goes_on else [entry.get("title"), *texts], meta)

    def contents(self, entry: Any) -> Raw:
        """71748."""
        meta = notes(entry.get("id"), title=entry.get("title"), category=entry.get("category"))
        return lined(sentences(entry["contents"]), meta)

    def chat(self, dialogue: Any) -> Raw:
        """한국어 SNS."""
        about = table(table(dialogue.get("header")).get("dialogueInfo"))
        meta = notes(about.get("dialogueID"), topic=about.get("topic"))
        return self.talk((part["utterance"] for part in dialogue["body"]), meta)

    def counselling(self, entry: Any) -> Raw:
        """86: a person (HS01, HS02 …) and the system (SS01, SS02 …) in turn."""
        content = entry["talk"]["content"]
        order = sorted((int(key[2:]), key) for key in content if re.fullmatch(r"[HS]S\d{1,4}", key))
        emotion = table(table(entry.get("profile")).get("emotion"))
        meta = notes(table(entry["talk"].get("id")).get("talk-id"), emotion=emotion.get("type"))
        return self.talk((content[key] for _, key in order), meta)

    def dialect(self, utterances: str) -> Raw:
        """118-122: the conversation that a file is. Its speakers and its topic stand before it."""
        about, speakers = table(self.outer.get("metadata")), self.outer.get("speaker")
        homes = [table(one).get("principal_residence") for one in speakers] if isinstance(speakers, list) else []
        meta = notes(
            self.outer.get("id"),
            title=about.get("title"),
            topic=about.get("topic"),
            category=about.get("category"),
            residence=sorted({home for home in homes if home and isinstance(home, str)}),
        )
        return self.talk(utterances.split("\n"), meta)

    def utterance(self, utterance: Any) -> Raw:
        """Of 118-122. `dialect_form` is what was said; so is `form`, with words written twice, (said)/(spelled);
        `standard_form` is what annotators made of it."""
        return Raw("".join(self.forms([utterance], "dialect_form", "form", "standard_form")))

    def written(self, document: Any) -> Raw:
        """NIKL, written. In a newspaper the first paragraph is the headline."""
        paragraphs = list(self.forms(document["paragraph"], "form", "original_form"))
        if paragraphs and str(document.get("id")).startswith(NEWSPAPERS):
            self.count("headlines")
        return lined(paragraphs, self.nikl_notes(document))

    def spoken(self, document: Any) -> Raw:
        """NIKL, spoken and messenger. `form` is spelled as one writes, `original_form` as it was pronounced."""
        utterances = list(self.forms(document["utterance"], "form", "original_form"))
        return self.talk(utterances, self.nikl_notes(document))

    def nikl_notes(self, document: Any) -> dict[str, str]:
        about = table(document.get("metadata"))
        return notes(
            document.get("id") or self.outer.get("id"),
            category=table(self.outer.get("metadata")).get("category"),
            **{key: about.get(key) for key in ("title", "author", "publisher", "date", "topic")},
        )

    def talk(self, utterances: Iterable[Any], meta: dict[str, str]) -> Raw:
        """An utterance is a line, without its speaker's name."""
        return lined([self.heard(words(utterance)) for utterance in utterances], meta)

    def heard(self, text: str) -> str:
        """Without the transcriber's marks. &name& and #@이름# stay: they stand for words, which particles follow."""
        plain = text
        if "{" in text or "((" in text or ")/(" in text:
            plain = SOUND.sub(" ", TWICE.sub(r"\1", text))
            plain = GUESS.sub(lambda guess: guess[HANGUL.search(guess[1]) is not None], plain)
        if "#@" in text:
            plain = PICTURE.sub(" ", plain)
        if plain == text:
            return text
        self.count("utterances with marks")
        return re.sub(" {2,}", " ", plain).strip()

    def forms(self, parts: Iterable[Any], *keys: str) -> Iterator[str]:
        """Of each part the first of these fields that holds text."""
        for part in parts:
            for key in keys:
                if text := words(part.get(key)):
                    self.count(key)
                    yield text
                    break
            else:
                if not any(key in part for key in keys):
                    raise KeyError(keys[0])

    def count(self, what: str, number: int = 1) -> None:
        self.met[what] = self.met.get(what, 0) + number


def words(value: Any) -> str:
    """A text field: null is an empty one, another type raises AttributeError."""
    return "" if value is None else value.strip()


def sentences(value: Any) -> list[str]:
    """A string, {"sentence": …}, or a list of such."""
    if isinstance(value, list):
        return [text for part in value for text in sentences(part)]
    return [text] if (text := words(value["sentence"] if isinstance(value, dict) else value)) else []


def lined(parts: Iterable[Any], meta: dict[str, str]) -> Raw:
    return Raw(written("\n".join(filter(None, map(words, parts)))), meta)


def notes(document: Any, **values: Any) -> dict[str, str]:
    """Metadata as short strings, whatever the source spells them as. What says nothing is left out."""
    meta = {"document": text} if (text := note(document)) else {}
    for key, value in values.items():
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else ", ".join(filter(None, map(note, value[:20])))
        if text := known(value) if type(value) is str and len(value) < NOTE else note(value):
            meta[key] = text
    return meta


def note(value: Any) -> str:
    if not isinstance(value, str | int | float) or (text := written(value).strip()) in ("", "NA", "nan"):
        return ""
    return text[:NOTE]


# A year or a profession is met a million times: with this, the notes on a paragraph take 1.4 µs instead of 2.4.
known = lru_cache(1 << 12)(note)


def web_notes(article: Any) -> dict[str, str]:
    return notes(article.get("id"), site=article.get("source_site"), date=article.get("write_date"))


def table(value: Any) -> dict[str, Any]:
    """Metadata of another type is none: the text is worth more."""
    return value if isinstance(value, dict) else {}


def same_paper(last: dict[str, str], meta: dict[str, str]) -> bool:
    return "document" in meta and last == meta


_COUNTED = re.compile(r"(.*\d\D+)(\d+)")


def same_book(last: dict[str, str], meta: dict[str, str]) -> bool:
    """One id, or one id but for a counter behind it that goes on by one (B12-7, B12-8).

    Both only with equal metadata, the second only with all four pieces of it: most zips are shuffled, and there two
    neighbours seldom agree in KDC, year, birth year and profession by chance, in fewer of them often. A counter alone
    (00123) says nothing: it runs on from book to book.
    """
    one, two = last.get("document"), meta.get("document")
    # The year first: it differs most.
    if not one or not two or last.get("year") != meta.get("year") or {**last, "document": two} != meta:
        return False
    if one == two:
        return True
    first, second = _COUNTED.fullmatch(one), _COUNTED.fullmatch(two)
    if len(meta) < 5 or not first or not second:
        return False
    return first[1] == second[1] and int(first[2]) + 1 == int(second[2])
