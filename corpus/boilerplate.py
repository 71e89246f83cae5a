"""Lines that a page carries around its text: copyright notices, signatures of reporters, buttons, page numbers.

Only whole lines go, and only short ones of a fixed form. A line that ends like a sentence stays, whatever words it
holds. What cannot be told from text without its neighbours stays as well: running heads, a bare `12`, `홍길동 기자`.
"""

import re

from corpus.privacy import EMAIL, EMAIL_FORM

LONGEST = 120  # characters; copyright notices of newspapers reach 100


def _any(words: str) -> str:
    """Alternatives, one per word; `_` is a space that may be left out."""
    return "(?:" + "|".join(words.split()).replace("_", " ?") + ")"


_MAIL = rf"(?:[A-Za-z0-9]{EMAIL_FORM}|{EMAIL})"
_DAY = r"(?:19|20)\d\d ?[-./년] ?\d{1,2} ?[-./월] ?\d{1,2} ?[일.]?(?: ?\([월화수목금토일]\))?"
_TIME = r",? ?(?:오전|오후)? ?\d{1,2}:\d\d(?::\d\d)?"
_OWNER = r"(?:copyrights?|저작권자|ⓒ|©|\(c\))"
_SIGN = r"(?:copyrights?|ⓒ|©|\(c\))"
_USE = _any("전재 복제 재?배포 도용 사용 게재 수집 인용 이용 활용 학습 캡처 변형")
_PRESS = _any("뉴스1? 뉴시스 신문 일보 통신 방송 출판사 닷컴 코리아 제공 DB")
_REPORTER = rf"(?:{_any('인턴 수습 선임 전문 객원 의학전문 사진')}? ?기자|특파원|논설위원|리포터|아나운서)"
_NEWS = _any("뉴스 기사 이슈 콘텐츠")
_ARROW = "[▶▷►▸☞⇒→➡■◆●※★]"
_OPENED = r"[▶▷►▸☞⇒→➡■◆●※★\[(<【 ]"
_ACT = _any(
    "구독 구독하기 구독_신청 바로_가기 클릭 더_보기 보러_가기 받아_보기 다운로드 팔로우 팔로우하기 "
    "채널_추가 친구_추가 이웃_추가"
)
_BUTTON = _any(
    "로그인 로그아웃 회원_가입 비밀번호_찾기 (?:기사_)?공유하기 (?:URL|링크)_복사(?:하기)? (?:기사_)?스크랩(?:하기)? "
    "(?:인쇄|프린트)하기 글[자씨]_(?:크기|크게|작게|확대|축소)(?:_(?:조절|변경|크게|작게))? 본문_(?:내용_)?바로_가기 "
    "메뉴_(?:바로_가기|열기|닫기) 댓글_(?:쓰기|달기|보기|등록|입력|닫기) 답글(?:_(?:쓰기|달기))? (?:이전|다음)_글 "
    "목록_보기 목록으로 전체_보기 더_보기 장바구니(?:_담기)? 마이_페이지 사이트_맵 개인정보_(?:처리|취급)_방침 "
    "이용_약관 청소년_보호_정책 이메일_(?:주소_)?무단_수집_거부 이미지_(?:확대|크게)(?:_보기)? 동영상_고정_취소 "
    r"맨_위로 Advertisement (?:조회|(?:전체_)?댓글|스크랩|첨부_파일)_(?:수|개수)?(?:_[:(]?_\d[\d,]{0,9}_[회개건]?\)?)?"
)
# Buttons only beside one of those, or three together.
_BESIDE = _any(
    "홈 공유 인쇄 프린트 이전 다음 목록 신고 신고하기 수정 삭제 등록 추천 추천수 추천하기 비추천 좋아요 공감 반대 구독 "
    "구독하기 알림_설정 검색 닫기 페이스북 트위터 카카오톡 카카오_스토리 네이버 네이버_블로그 네이버_밴드 밴드 "
    "인스타그램 메일 위로 TOP 고객_센터 회사_소개 광고_문의 아이디_찾기 아이디"
)
_DETAIL = _any(r"(?:작성|등록|게시|수정)일 날짜 (?:작성자|글쓴이|이름)_[:|]?_\S{1,10} \d[\d,]{0,9}")
_BETWEEN = r"[ |/·ㆍ•,:()\[\]<>+▲▼△▽»›]{0,4}+"
_STAMP = _any("입력 승인 송고 등록 수정 업데이트 게시 작성 발행 전송")
_PRINTED = _any("발행 인쇄 펴낸 찍은 펴냄 찍음")

# Each with words of which every such line holds one. Atomic groups wherever a form could be read in two ways.
_RULES: tuple[tuple[str, str, str], ...] = (
    (
        "fixed",
        "관련|연관|전글|음글| 글|댓글",
        rf"(?:{_OPENED}{{1,4}}(?:관련|연관) ?{_NEWS}\W|(?:관련|연관) ?{_NEWS} ?:|(?:이전|다음) ?글 ?[:|▲▼△▽]).{{1,90}}"
        r"|(?:첫 ?)?댓글을 (?:남겨|입력해|작성해|달아) ?(?:보|주)세요\W{0,3}",
    ),
    (
        "copyright",
        "무단|yright|저작|ⓒ|©|ghts|(c)",
        rf"\W{{0,6}}(?:(?:본|이|해당) {_any('기사 콘텐츠 저작물 글 사진 게시물 뉴스')}.{{0,50}}"
        rf"|(?:{_OWNER}|[^.]{{1,12}}{_PRESS}).{{0,70}})?"
        rf"무단 ?{_USE}(?>[^가-힣\n]|및|와|과|또는|무단|{_USE}|[을를등]|상업적|데이터){{0,25}}+"
        rf"{_any('금지 금함 불허 금합니다 금지합니다 금지됩니다 불허합니다')}\W{{0,6}}"
        rf"|\W{{0,6}}{_OWNER}.{{0,90}}rights reserved\W{{0,6}}"
        r"|\W{0,4}all rights reserved\W{0,4}"
        rf"|\W{{0,4}}{_SIGN} ?{_SIGN}? ?(?:19|20)\d\d(?: ?[-–~] ?(?:(?:19|20)\d\d)?)?[ ,.]{{0,2}}[^.!?]{{0,40}}\.?"
        rf"|\W{{0,4}}[ⓒ©] ?[^.!?]{{0,20}}{_PRESS}\W{{0,3}}",
    ),
    (
        "byline",
        "기자|특파|논설|리포터|운서",
        rf"\W{{0,3}}(?:.{{1,30}}[ =·])?[가-힣]{{2,4}} ?{_REPORTER}\W{{0,4}}{_MAIL}\W{{0,3}}"
        rf"|{_MAIL}\W{{0,3}}[가-힣]{{2,4}} ?{_REPORTER}"
        rf"|[\[(【<〈] ?(?:[^\]]{{1,25}}[ =·])?[가-힣]{{2,4}} {_REPORTER} ?[\])】>〉]"
        rf"|/ ?(?:[^/]{{1,20}}[ =·])?[가-힣]{{2,4}} {_REPORTER}"
        rf"|(?:[^=]{{1,20}} ?=|(?:글|사진|영상|그래픽)(?:[·,/ ]{{1,2}}(?:글|사진|영상|그래픽))? ?[/:]) ?"
        rf"(?:[^=]{{1,15}} )?[가-힣]{{2,4}} {_REPORTER} ?=?",
    ),
    ("credit", "사진", r"\W{0,3}사진 ?(?:제공)? ?[=ⓒ©] ?[^=.!?]{1,30}"),
    (
        "related",
        "관련|연관| 본|주요|추천|인기|제보|핫이|핫 |좋은|볼만",
        rf"{_OPENED}{{0,4}}(?:(?:관련|연관|추천|인기|주요) ?{_NEWS}|핫 ?이슈"
        rf"|(?:이 시각|오늘의?|실시간|가장)? ?(?:많이 본|주요|인기) ?{_NEWS}"
        rf"|함께 (?:보면 좋은|읽으면 좋은|볼만한|많이 본) ?(?:{_NEWS}|글))\W{{0,4}}"
        r"|\W{0,4}(?:기사 ?제보|제보는 카(?:카오)?톡|카(?:카오)?톡 ?제보)(?:\W.{0,60})?",
    ),
    ("link", "구독|가기|클릭|보기|추가|팔로|운로", rf"{_ARROW} ?.{{0,70}}{_ACT}\W{{0,4}}"),
    (
        "buttons",
        "그인|그아|가입|찾기|공유|복사|크랩|쇄하|린트|글자|글씨|본문|메뉴|댓글|답글|전글|음글| 글|목록|보기|장바|마이|"
        "이트|방침|약관|정책|거부|확대|크게|고정|dvert|조회|위로|첨부|"
        "구독|신고|삭제|홈 |홈>|HO|Ho",
        rf"(?>{_BETWEEN}(?!{_BUTTON}(?!\w))(?:{_DAY}|{_TIME}|{_BESIDE}|{_DETAIL})(?!\w)){{0,12}}+{_BETWEEN}{_BUTTON}(?!\w)"
        rf"(?>{_BETWEEN}(?:{_BUTTON}|{_DAY}|{_TIME}|{_BESIDE}|{_DETAIL})(?!\w)){{0,12}}+{_BETWEEN}"
        rf"|(?>{_BETWEEN}{_BESIDE}(?!\w)){{3,12}}+{_BETWEEN}|(?:홈|home) ?[>›»].{{1,60}}",
    ),
    (
        "time stamp",
        "입력|승인|송고|등록|수정|업데|게시|작성|발행|전송",
        rf"\W{{0,2}}(?:기사|최초|최종)?(?: ?{_STAMP}(?:일시?|시간|시각)?(?: ?[:|])? ?"
        rf"{_DAY}(?:{_TIME})?[ |/·,]{{0,3}}(?:최종)?){{1,3}}\W{{0,2}}"
        rf"|{_DAY}(?:{_TIME})? ?{_STAMP}",
    ),
    (
        "page number",
        "|".join(f"{digit}{sign}" for digit in range(10) for sign in " -–—―") + "|페이|age",
        r"([-–—―]) ?\d{1,4} ?\1|\W{0,3}(?:page|페이지) ?\d{1,4}(?: ?(?:/|of) ?\d{1,4})?\W{0,3}"
        r"|\d{1,4} ?/ ?\d{1,4} ?페이지",
    ),
    (
        "colophon",
        "펴낸|발행|인쇄|제작|출판|찍은|찍음|펴냄",
        rf"\W{{0,3}}(?:(?:초판|개정판|제?\d+판) ?)?(?:제?\d+쇄 ?)?{_PRINTED}(?:일| ?날)?\W{{0,4}}{_DAY}\W{{0,2}}"
        rf"|\W{{0,3}}(?:초판|개정판|제?\d+판)? ?(?:제?\d+쇄)? ?{_DAY} ?{_PRINTED}"
        rf"|{_any('펴낸_이 펴낸_곳 발행_인 발행_처 인쇄_처 제작_처 출판_등록 출판_신고')}"
        r"(?: ?[:|│·] ?| )[^.!?]{1,40}",
    ),
)
_FORMS = [re.compile(pattern, re.IGNORECASE) for _, _, pattern in _RULES]
# Two characters each (or one), and a bit for each rule whose lines hold them. A line without any of them is no
# boilerplate: so a whole batch is looked through at once.
PAIRS: dict[str, int] = {}
for _bit, (_, _words, _) in enumerate(_RULES):
    for _word in f"{_words}|{_words.upper()}|{_words.lower()}".split("|"):
        PAIRS[_word[:2]] = PAIRS.get(_word[:2], 0) | 1 << _bit
_FIXED = 1


def rule_of(line: str, rules: int = -1) -> str:
    """Which rule the line falls under, of those that are asked for by their bits; "" for a line of text."""
    if not 2 < len(line) <= LONGEST:
        return ""
    line = line.strip(" ")
    end = line.rstrip(".!?…\"'”’) ")
    if end.endswith(tuple("다요죠까네")) and not end.endswith(("합니다", "됩니다")):
        rules &= _FIXED  # a sentence, or an invitation that looks like one
    for place, (name, _, _) in enumerate(_RULES):
        if rules >> place & 1 and _FORMS[place].fullmatch(line):
            # A form reads © and CopyRight as well; what the pairs do not say is nobody's boilerplate.
            return name if any(pair in line for pair, bits in PAIRS.items() if bits >> place & 1) else ""
    return ""


def without_boilerplate(text: str) -> str:
    lines = text.split("\n")
    kept = [line for line in lines if not rule_of(line)]
    return text if len(kept) == len(lines) else "\n".join(kept)
