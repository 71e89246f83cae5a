"""Lines that are boilerplate, rule by rule, and lines of text that look like it."""

import pytest

from corpus.boilerplate import LONGEST, PAIRS, rule_of, without_boilerplate

GONE = {
    "copyright": """
        <저작권자 ⓒ 나래뉴스, 무단 전재-재배포 금지>
        저작권자(c) 나래통신, 무단 전재-재배포, AI 학습 및 활용 금지
        [ⓒ 나래경제 & narae.example, 무단 전재, 재배포 및 AI학습 이용 금지]
        - Copyrights ⓒ 나래일보 & example.com, 무단 전재 및 재배포 금지 -
        Copyright ⓒ NRB. All rights reserved. 무단 전재, 재배포 및 AI학습 이용 금지
        무단전재 및 재배포 금지
        무단 복제 및 배포를 금합니다.
        본 기사의 저작권은 나래일보에 있으며 무단 전재와 재배포를 금합니다.
        ALL RIGHTS RESERVED
        © 2024 나래출판사
        Copyright (c) 2019-2024 Narae Inc. All Rights Reserved.
        ⓒ 나래뉴스1""",
    "byline": """
        홍가람 기자 garam@example.com
        홍가람 기자 <전자우편>
        garam@example.com 홍가람 기자
        나래일보 홍가람 기자 garam@example.com
        [나래일보 홍가람 기자]
        [ 홍가람 기자 ]
        /홍가람 기자
        서울=나래통신 홍가람 기자
        글·사진=홍가람 기자""",
    "credit": """
        사진=나래뉴스
        [사진 제공=나래통신]""",
    "fixed": """
        ▶ 관련기사: 나래시, 새 다리 놓는다
        다음글 : 여름 잔치가 열린다
        첫 댓글을 남겨보세요""",
    "related": """
        [관련기사]
        이 시각 많이 본 뉴스
        기사제보 및 보도자료 news@example.com
        ▶ 제보는 카톡 narae""",
    "link": """
        ▶ 나래일보 네이버 채널 구독하기
        ☞ 나래뉴스 앱 바로가기""",
    "buttons": """
        로그인
        로그인 | 회원가입
        공유하기
        댓글 12
        댓글 (3)
        조회수 1,234
        조회 : 77 | 추천 : 3 | 댓글 : 1
        작성자: 나래 | 등록일 2024-03-15 | 조회 55
        홈 | 사이트맵 | 로그인 | 회원가입 | 고객센터
        개인정보처리방침 | 이용약관 | 이메일무단수집거부
        페이스북 트위터 카카오톡 공유하기
        글자크기 조절
        구독 좋아요 알림설정
        홈 > 뉴스 > 사회
        더보기 +""",
    "time stamp": """
        기사입력 2024.03.15. 오전 9:30 최종수정 2024.03.15. 오전 10:02
        입력 2024-03-15 09:30:11 | 수정 2024-03-15 10:00:00
        2024.03.15 09:30 입력""",
    "page number": """
        - 12 -
        -12-
        ― 305 ―
        Page 3 of 10
        3 / 10 페이지""",
    "colophon": """
        초판 1쇄 발행 2024년 3월 15일
        2판 3쇄 2021년 5월 1일 발행
        펴낸곳 나래출판사
        펴낸이: 홍가람
        출판등록 제2010-000012호""",
}
KEPT = """
    무단 전재와 재배포를 금지하는 조항이 논란이 되고 있다.
    그는 저작권자의 허락을 받지 못했다.
    저작권법 제3조제2항
    저작권 2019년 개정 내용
    저작권자 보호와 침해 금지
    © 기호는 어디에 쓰나
    홍가람 기자가 보도합니다.
    그는 신문사 기자
    <기자>
    ◀ 리포트 ▶
    이름=홍가람
    사진 한 장
    사진=빛으로 그린 그림이다.
    관련 기사 세 편
    주요 내용
    추천 도서
    ▶ 첫째, 물을 끓인다
    ▶ 구독자 1만 명 돌파
    로그인 화면의 설계
    - 로그인
    ## 로그인
    회원가입을 하면 쿠폰을 준다.
    댓글 12개가 달렸다.
    조회수가 하루 만에 만 번을 넘었다.
    공유
    공유가 나온 영화
    목록
    1 2 3 4
    다음 글을 읽고 물음에 답하시오.
    이전글에서 본 대로 이번에는 둘째 방법을 쓴다.
    2024년 3월 15일
    수정 2024
    12
    - 12
    12쪽
    - 하나 -
    - 3 - 4 -
    이 페이지
    발행인 홍가람은 고개를 저었다.
    펴낸곳을 알 수 없는 책
    인쇄술의 발명
    """


@pytest.mark.parametrize(("rule", "lines"), GONE.items())
def test_lines_that_go(rule: str, lines: str) -> None:
    for line in lines.strip().split("\n"):
        assert rule_of(line) == rule, line


@pytest.mark.parametrize("line", KEPT.strip().split("\n"))
def test_lines_that_stay(line: str) -> None:
    assert rule_of(line.strip()) == ""


def test_only_whole_lines_and_only_short_ones() -> None:
    notice = "무단 전재 및 재배포 금지"
    assert without_boilerplate(f"비가 왔다. {notice}") == f"비가 왔다. {notice}"
    assert without_boilerplate(f"비가 왔다.\n\n{notice}\n\n해가 났다.") == "비가 왔다.\n\n\n해가 났다."
    owner = "저작권자 나래 "
    assert rule_of(owner + "가" * (LONGEST - len(owner + notice) - 50) + notice) == "copyright"
    assert rule_of(notice + "!" * (LONGEST + 1 - len(notice))) == ""


def test_a_rule_is_asked_for_by_its_bit() -> None:
    assert rule_of("로그인", PAIRS["그인"]) == "buttons"
    assert rule_of("로그인", ~PAIRS["그인"]) == ""
