"""Precision and recall of cleaning and of the quality verdicts, on the cases labelled by hand in bench/cases.

    python bench/cleaning.py            # seconds; writes bench/results/cleaning.json

Prints a table by rule and by reason, every case that goes wrong, and as its last line one JSON object.
"""

import datetime
import importlib.metadata
import json
import platform
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from corpus import quality
from corpus.clean import clean
from narae.config import HOME
from narae.watch import machine

PACKAGES = ("numpy", "pyyaml")


@dataclass
class Score:
    """right: did what it had to. wrong: did what it had not to, or did it wrongly. missed: did nothing where it had
    to."""

    cases: int = 0
    right: int = 0
    wrong: int = 0
    missed: int = 0
    faults: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, int | float | None]:
        done, due = self.right + self.wrong, self.right + self.missed
        return {
            "cases": self.cases,
            "right": self.right,
            "wrong": self.wrong,
            "missed": self.missed,
            "precision": round(self.right / done, 4) if done else None,
            "recall": round(self.right / due, 4) if due else None,
        }


def main() -> None:
    cases = HOME / "bench" / "cases"
    began = time.process_time()
    rules = score_cleaning(read(cases / "clean.yaml"))
    reasons = score_verdicts(read(cases / "verdicts.yaml"))
    seconds = time.process_time() - began
    for title, scores in (("cleaning", rules), ("verdicts", reasons)):
        print(f"{title:24}" + "".join(f"{key:>10}" for key in Score().as_dict()))
        for name, score in scores.items():
            row = ("–" if value is None else value for value in score.as_dict().values())
            print(f"{name:24}" + "".join(f"{value:>10}" for value in row))
        print()
    faults = [fault for scores in (rules, reasons) for score in scores.values() for fault in score.faults]
    for fault in faults:
        print("  ".join(f"{key}: {value!r}" for key, value in fault.items()))
    found = {
        "cleaning": {name: score.as_dict() for name, score in rules.items()},
        "verdicts": {name: score.as_dict() for name, score in reasons.items()},
        "faults": faults,
        "seconds": round(seconds, 2),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }
    file = HOME / "bench" / "results" / "cleaning.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    totals = {"cleaning": rules["all"].as_dict(), "verdicts": reasons["all"].as_dict()}
    print(json.dumps({f"{key}_{of}": score[of] for key, score in totals.items() for of in ("precision", "recall")}))


def read(file: Path) -> list[dict[str, str]]:
    cases: list[dict[str, str]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return cases


def score_cleaning(cases: list[dict[str, str]]) -> dict[str, Score]:
    """By rule, and of all: `want` is what cleaning should make of `text`, to the character."""
    scores: dict[str, Score] = defaultdict(Score)
    for case in cases:
        text, want, got = case["text"], case["want"], clean(case["text"])
        for score in (scores[case["rule"]], scores["all"]):
            score.cases += 1
            score.right += text != want == got
            score.wrong += text != got != want
            score.missed += text == got != want
        if got != want:
            scores[case["rule"]].faults.append({**case, "got": got})
    return in_order(scores)


def score_verdicts(cases: list[dict[str, str]]) -> dict[str, Score]:
    """By reason; `all` asks only whether a document was rejected, whatever the reason."""
    scores: dict[str, Score] = defaultdict(Score)
    for case in cases:
        want, got = case["want"], quality.verdict(case["text"], quality.load(case["preset"])) or "keep"
        for score in (scores[want], scores["all"]):
            score.cases += 1
        scores[want].right += want == got
        scores[want].missed += want != got
        scores[got].wrong += want != got
        scores["all"].right += want != "keep" != got
        scores["all"].wrong += want == "keep" != got
        scores["all"].missed += want != "keep" == got
        if want != got:
            scores[want].faults.append({**case, "got": got})
    return in_order(scores)


def in_order(scores: dict[str, Score]) -> dict[str, Score]:
    return {name: scores[name] for name in sorted(scores, key=lambda name: (name == "all", name))}


if __name__ == "__main__":
    main()
