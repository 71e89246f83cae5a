"""The model's and the tokenizer's own words for the report: samples, answers, sentences cut into tokens."""

import heapq
import json
import math
import zlib
from typing import Any

from infer.charts import bar, korean, missing, percent, whole
from infer.curves import Run
from infer.story import Story, mapping
from narae.artifact import KINDS, Artifact
from narae.log import Mistake, number
from narae.markup import NOTHING, table, text

SETS = {"wording": "New wordings", "unasked": "Facts never asked"}
SET_NOTES = {"wording": "known facts, wordings never trained on", "unasked": "told in the corpus, never a question"}
SENTENCES = [
    "아침부터 비가 내려서 시장에는 사람이 많지 않았다.",
    "할머니께서는 떡볶이 값이 4,500원으로 올랐다고 말씀하셨어요.",
    "나래(Narae)는 한국어를 처음부터 배우는 모델입니다.",
]
SHOWN = 10  # right answers, and as many wrong ones


def side_by_side(story: Story) -> str:
    """Before and after fine-tuning; of a run that was not tuned, its samples as they developed."""
    base, run = story.base, story.run
    if run is None or not (run.last or (base and base.last)):
        return '<p class="missing">No samples yet: training writes some at each evaluation.</p>\n'
    if not story.tuned:
        return development(run)
    # Questions of the chat were answered before the first step of tuning; pretraining went on from other words.
    before = {key: one for key, one in run.first.items() if one[0] == 0} | (base.last if base else {})
    after = {key: one for key, one in run.last.items() if one[0] > 0}
    titles = ("before fine-tuning", "after fine-tuning")
    prompts = list(dict.fromkeys([*after, *before]))
    rows = ""
    for prompt in prompts:
        cells = ""
        for title, found in zip(titles, (before.get(prompt), after.get(prompt)), strict=True):
            said = NOTHING if found is None else _continuation(prompt, found[1])
            step = "" if found is None else f", step {whole(found[0])}"
            none = "" if found else ' class="none"'
            cells += f"<dd{none}><small>{title}{step}</small>{said}</dd>"
        rows += f"<div><dt>{korean(prompt, 200)}</dt>{cells}</div>\n"
    laid = f'<dl class="samples">{rows}</dl>\n'
    if base and any(len(found) > 1 for found in base.texts.values()):
        laid += "<h3>While it was pretrained</h3>\n" + development(base)
    return laid


def development(run: Run) -> str:
    """Each prompt's texts from the first evaluation to the latest."""
    rows = ""
    for prompt, found in run.texts.items():
        cells = ""
        for place, (step, said) in enumerate(stages := spread(found)):
            note = ", latest" if place and place == len(stages) - 1 else ""
            cells += f"<dd><small>step {whole(step)}{note}</small><p>{_continuation(prompt, said)}</p></dd>"
        rows += f"<div><dt>{korean(prompt, 200)}</dt>{cells}</div>\n"
    return f'<dl class="grown">{rows}</dl>\n'


def spread(found: list[tuple[int, str]], count: int = 5) -> list[tuple[int, str]]:
    """The first, the last, and between them steps that grow by one factor: a model learns fastest in the beginning."""
    if len(found) <= count:
        return found
    first, last = max(found[0][0], 1), found[-1][0]
    between = set()
    for part in range(1, count - 1):
        wanted = first * (last / first) ** (part / (count - 1))
        _, place = min((abs(step - wanted), place) for place, (step, _) in enumerate(found[1:-1], start=1))
        between.add(place)
    return [found[0], *(found[place] for place in sorted(between)), found[-1]]


def _continuation(prompt: str, said: str) -> str:
    said = said.removeprefix(prompt).strip()
    return korean(said, 300) if said else '<span class="quiet">(nothing)</span>'


def answers(found: Artifact | None) -> str:
    if found is None:
        return missing("No questions were asked of this model yet.", KINDS["answers"][1])
    rows = []
    for key, value in mapping(found.counts.get("sets")).items():
        asked, right = (number(mapping(value).get(word)) or 0.0 for word in ("questions", "exact"))
        share = right / asked if asked else 0.0
        low, high = interval(right, asked)
        name = SETS.get(key, text(key)) + (f'<br><span class="quiet">{SET_NOTES[key]}</span>' if key in SETS else "")
        between = f"{100 * low:.1f}–{percent(high)}"
        rows.append([name, f"{whole(right)} of {whole(asked)}", percent(share), between, bar(0, share)])
    heads = ["question set", "exact", "share", "95 % interval", ""]
    return table("Questions answered exactly", heads, rows, "krrrb", "narrow hide-4") + right_and_wrong(found)


def right_and_wrong(answers: Artifact) -> str:
    """The same questions on every page: those whose ids hash lowest, drawn evenly from the sets."""
    kept: dict[tuple[bool, str], list[tuple[int, int, dict[str, Any]]]] = {}
    file = answers.path / "answers.jsonl"
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as lines:
            for place, line in enumerate(lines):
                try:
                    row = json.loads(line)
                    key = (bool(row["exact"]), str(row.get("set", "")))
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
                lowest = (zlib.crc32(str(row.get("id", place)).encode("utf-8", "replace")), place, row)
                kept[key] = heapq.nsmallest(SHOWN, [*kept.get(key, []), lowest])
    if not kept:
        return f'<p class="missing">No answers in <code>{text(file.name)}</code>.</p>\n'
    laid = ""
    for exact, title in ((False, "Wrong answers"), (True, "Right answers")):
        sets = [rows for (right, _), rows in kept.items() if right is exact]
        turns = [rows[turn][2] for turn in range(SHOWN) for rows in sets if turn < len(rows)][:SHOWN]
        mark = '<span class="mark yes">✓</span>' if exact else '<span class="mark">✗</span>'
        cells = [
            [
                mark,
                *(korean(row.get(key, "")) for key in ("question", "expected", "answer")),
                text(row.get("set", ""), 30),
            ]
            for row in turns
        ]
        if cells:
            heads = ["", "question", "expected", "answered", "set"]
            laid += table(f"{title}, {len(cells)} of them", heads, cells, "mwlll", "middle")
        else:
            laid += f'<p class="quiet">{title}: none.</p>\n'
    return laid


def interval(right: float, asked: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: it holds near 0 and 1, too."""
    if not asked:
        return 0.0, 1.0
    share, z = right / asked, 1.96
    middle = (share + z * z / (2 * asked)) / (1 + z * z / asked)
    reach = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked)) / (1 + z * z / asked)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def coloured(tokenizer: Artifact, corpus: Artifact | None) -> str:
    """Sentences with every token in its own box. What several tokens share, half a syllable each, is underlined."""
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    except Exception as error:  # tokenizers raises bare Exception for a missing file as for a damaged one
        return f'<p class="missing">tokenizer.json cannot be read: {text(error, 200)}</p>\n'
    laid = ""
    for sentence in SENTENCES + _held_out(corpus):
        encoding = loaded.encode(sentence, add_special_tokens=False)
        pieces = cut(sentence, encoding.offsets)
        spans = ""
        for place, (piece, count) in enumerate(pieces):
            style = ("a", "b2", "c")[place % 3] + (" split" if count > 1 else "")
            hint = f' title="{count} tokens"' if count > 1 else ""
            spans += f'<span class="{style}"{hint}>{text(piece)}</span>'
        laid += f'<p class="tokens" lang="ko">{spans}<small lang="en">{len(encoding.ids)} tokens</small></p>\n'
    return laid


def cut(sentence: str, offsets: list[tuple[int, int]]) -> list[tuple[str, int]]:
    """Pieces of the sentence, each with its number of tokens; together they are the sentence."""
    pieces: list[tuple[str, int]] = []
    done = 0
    for _, end in offsets:
        if end <= done and pieces:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + 1)
        else:
            pieces.append((sentence[done:end], 1))
            done = end
    if done < len(sentence):
        pieces.append((sentence[done:], 0))
    return pieces


def _held_out(corpus: Artifact | None) -> list[str]:
    """The beginning of a text that the model never saw."""
    if corpus is None:
        return []
    from narae.documents import read_documents, shards

    try:
        first = next(read_documents(shards(corpus.path, "val")), None)
    except (Mistake, OSError):
        return []
    return [" ".join(first.text[:400].split())[:120]] if first else []
