"""Precision and recall are counted as their names promise."""

from bench.cleaning import score_cleaning, score_verdicts


def test_cleaning_is_scored_by_what_changed() -> None:
    cases = [
        {"rule": "spaces", "text": "칸이   여럿", "want": "칸이 여럿"},  # right
        {"rule": "spaces", "text": "칸이   여럿", "want": "칸이여럿"},  # changed into something else: wrong
        {"rule": "spaces", "text": "칸이   여럿", "want": "칸이   여럿"},  # changed for nothing: wrong
        {"rule": "spaces", "text": "칸이 여럿", "want": "칸이여럿"},  # missed
        {"rule": "html", "text": "칸이 여럿", "want": "칸이 여럿"},  # left alone, rightly
    ]
    scores = score_cleaning(cases)
    assert list(scores) == ["html", "spaces", "all"]
    wanted = {"cases": 4, "right": 1, "wrong": 2, "missed": 1, "precision": 0.3333, "recall": 0.5}
    assert scores["spaces"].as_dict() == wanted
    assert scores["all"].as_dict() == {**wanted, "cases": 5}
    assert scores["html"].as_dict() == {
        "cases": 1, "right": 0, "wrong": 0, "missed": 0, "precision": None, "recall": None
    }  # fmt: skip
    assert [fault["got"] for fault in scores["spaces"].faults] == ["칸이 여럿", "칸이 여럿", "칸이 여럿"]


def test_verdicts_are_scored_by_reason_and_by_whether_they_reject() -> None:
    prose = "나래는 아침 일찍 장터에 갔다. 사과 세 개와 배 두 개를 샀다."
    cases = [
        {"want": "keep", "preset": "sample", "text": prose},
        {"want": "symbols", "preset": "sample", "text": prose},
        {"want": "symbols", "preset": "sample", "text": "★" * 30},
        {"want": "symbols", "preset": "sample", "text": "x" * 30},  # rejected, for another reason
        {"want": "keep", "preset": "sample", "text": "끝."},
    ]
    scores = {name: score.as_dict() for name, score in score_verdicts(cases).items()}
    assert scores == {
        "keep": {"cases": 2, "right": 1, "wrong": 1, "missed": 1, "precision": 0.5, "recall": 0.5},
        "little Hangul": {"cases": 0, "right": 0, "wrong": 1, "missed": 0, "precision": 0.0, "recall": None},
        "symbols": {"cases": 3, "right": 1, "wrong": 0, "missed": 2, "precision": 1.0, "recall": 0.3333},
        "too short": {"cases": 0, "right": 0, "wrong": 1, "missed": 0, "precision": 0.0, "recall": None},
        "all": {"cases": 5, "right": 2, "wrong": 1, "missed": 1, "precision": 0.6667, "recall": 0.6667},
    }
