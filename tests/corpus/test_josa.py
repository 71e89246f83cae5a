import pytest

from corpus.josa import attach, familiar, final
from corpus.verbs import conjugate

CASES = """
솔내 은 솔내는|달빛골 은 달빛골은|민준 이 민준이|지아 이 지아가|밤 을 밤을|사과 을 사과를|닭 과 닭과|염소 과 염소와
서울 으로 서울로|솔내 으로 솔내로|마을 으로 마을로|하늘목 으로 하늘목으로|약사 으로서 약사로서
시계공 으로서 시계공으로서
민준 이라 민준이라|지아 이라 지아라|꿀 이에요 꿀이에요|녹차 이에요 녹차예요|민준 아 민준아|지아 아 지아야
밤 이나 밤이나|사과 이나 사과나|민준 이랑 민준이랑|지아 이랑 지아랑|닭 이다 닭이다|어부 이다 어부다
닭 입니다 닭입니다|어부 입니다 어부입니다|눈 이었다 눈이었다|비 이었다 비였다|눈 이었어요 눈이었어요
비 이었어요 비였어요
값 이 값이|흙 을 흙을|여덟 은 여덟은|꽃 으로 꽃으로|물 으로 물로|쌀 으로서 쌀로서
0 은 0은|1 은 1은|2 은 2는|3 은 3은|4 은 4는|5 은 5는|6 은 6은|7 은 7은|8 은 8은|9 은 9는
1 으로 1로|3 으로 3으로|6 으로 6으로|7 으로 7로|8 으로 8로|9 으로 9로|10 으로 10으로|10 이 10이|100 을 100을
1,000 은 1,000은|10,000 은 10,000은|3,500원 이에요 3,500원이에요|12 은 12는|2024 은 2024는|1,230 은 1,230은
110 은 110은
100000000 이 100000000이|1000000000000 이 1000000000000가|3.0 이 3.0이|2.5 이 2.5가|010 으로 010으로
A 은 A는|L 은 L은|L 으로 L로|M 은 M은|M 으로 M으로|N 을 N을|R 을 R을|R 으로 R로|S 을 S를|X 이 X가|PDF 을 PDF를
XML 을 XML을
KTX 은 KTX는|LTE 은 LTE는|SRT 으로 SRT로|web 은 web은|server 은 server는|game 을 game을|file 으로 file로
test 을 test를
book 이 book이|internet 은 internet은|com 이다 com이다|line 으로 line으로
「나래」 은 「나래」는|"책" 을 "책"을|(서울) 으로 (서울)로|‘물’ 이라고 ‘물’이라고|『봄』 이라는 『봄』이라는
나무) 과 나무)와
"""


@pytest.mark.parametrize("case", [case for case in CASES.replace("\n", "|").split("|") if case])
def test_particle(case: str) -> None:
    word, kind, expected = case.split(" ")
    assert attach(word, kind) == expected


def test_given_names_get_i_after_a_consonant() -> None:
    assert [attach(familiar(name), "은") for name in ("민준", "지아", "하늘")] == ["민준이는", "지아는", "하늘이는"]


def test_nothing_to_read_counts_as_a_vowel() -> None:
    assert (final(""), final("—"), final("ㅋ")) == ("", "", "")


VERBS = """
살다 산다 살아요 삽니다 살아 살았다|하다 한다 해요 합니다 해 했다|돕다 돕는다 도와요 돕습니다 도와 도왔다
줍다 줍는다 주워요 줍습니다 주워 주웠다|입다 입는다 입어요 입습니다 입어 입었다
걷다 걷는다 걸어요 걷습니다 걸어 걸었다
짓다 짓는다 지어요 짓습니다 지어 지었다|기르다 기른다 길러요 기릅니다 길러 길렀다
고르다 고른다 골라요 고릅니다 골라 골랐다
따르다 따른다 따라요 따릅니다 따라 따랐다|모으다 모은다 모아요 모읍니다 모아 모았다|쓰다 쓴다 써요 씁니다 써 썼다
마시다 마신다 마셔요 마십니다 마셔 마셨다|되다 된다 돼요 됩니다 돼 됐다|쉬다 쉰다 쉬어요 쉽니다 쉬어 쉬었다
보다 본다 봐요 봅니다 봐 봤다|피다 핀다 피어요 핍니다 피어 피었다|먹다 먹는다 먹어요 먹습니다 먹어 먹었다
있다 있다 있어요 있습니다 있어 있었다|앉다 앉는다 앉아요 앉습니다 앉아 앉았다
잠그다 잠근다 잠가요 잠급니다 잠가 잠갔다
"""


@pytest.mark.parametrize("case", [case for case in VERBS.replace("\n", "|").split("|") if case])
def test_conjugation(case: str) -> None:
    lemma, *expected = case.split()
    forms = [conjugate(lemma, style) for style in ("한다", "해요", "합니다", "해")]
    assert [*forms, conjugate(lemma, "한다", "past")] == expected


def test_describing_words_and_questions() -> None:
    assert [conjugate(word, "한다", adjective=True) for word in ("크다", "좋다", "푸르다")] == [
        "크다",
        "좋다",
        "푸르다",
    ]
    assert [conjugate(word, "해요", adjective=True) for word in ("가깝다", "하얗다", "푸르다")] == [
        "가까워요",
        "하얘요",
        "푸르러요",
    ]
    assert [conjugate(word, "합니다", "ask") for word in ("살다", "먹다", "아니다")] == [
        "삽니까",
        "먹습니까",
        "아닙니까",
    ]
    assert conjugate("가다", "해요", "will") == "가겠어요"
