"""Words are found in scripts that put no spaces between them, and letters in whatever form they came."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from sql.upsert import Connection

# letters that no form of Unicode puts together or in another order, and how many of them a piece has
SCRIPTS = {
    "Thai": ("กขคงจาิเแ", 3),
    "Lao": ("ກຂຄງຈາິເແ", 3),
    "Khmer": ("កខគឃងាិុ", 3),
    "Burmese": ("ကခဂဃငာို၁", 3),
    "Chinese": ("你好世界𠮷的", 2),
    "Japanese": ("あいうアイウー価格", 2),
}
COMMON = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

# a text, and what finds it
FOUND = [
    ("สวัสดีครับ ราคาเท่าไร", ["ครับ", "เท่า", "ไร", "ร", "ดีครับ ราคา", "สวัสดีครับ"]),
    ("น้ำดื่ม ๑๕๐ บาท", ["ดื่ม", "น้ำ", "๑๕๐", "ำ"]),
    ("ສະບາຍດີ ລາຄາເທົ່າໃດ", ["ບາຍ", "ເທົ່າ", "ໃດ"]),
    ("តើតម្លៃប៉ុន្មាន", ["តម្លៃ", "ប៉ុន្មាន", "ន"]),
    ("តើ\u200bតម្លៃ\u200bប៉ុន្មាន", ["តើតម្លៃ", "តម្លៃ", "លៃ\u200bប៉ុ"]),  # spaces of no width
    ("ဈေးဘယ်လောက်လဲ။ ၁၅၀၀၀ကျပ်", ["ဘယ်လောက်", "လောက်", "၅၀၀", "ကျပ်", "လဲ"]),
    ("你好世界", ["世界", "好世", "界", "你好世界", "世界 你好"]),
    ("𠮷野家の牛丼", ["野家", "𠮷", "牛丼", "丼"]),
    ("こんにちは世界。価格はいくら", ["世界", "格は", "いくら", "にちは", "価格 世界"]),
    ("ヴァイオリン・レッスン", ["オリン", "レッスン", "ッス"]),
    ("ｶﾞｲﾄﾞﾌﾞｯｸ", ["ガイド", "ブック", "ｶﾞｲﾄﾞ"]),  # half as wide
    ("iPhone15保護殼", ["iphone15", "IPHONE", "保護", "護殼", "殼", "iphone 護殼", "iPhone15保護殼"]),
    ("ＡＢＣ１２３", ["abc", "abc123"]),  # noqa: RUF001 - twice as wide, as Japanese write them
    ("𝗕𝗜𝗚 𝙎𝘼𝙇𝙀", ["big", "sale"]),  # noqa: RUF001 - how shops write in bold
    (unicodedata.normalize("NFD", "Café für Phạm"), ["café", "phạm für", unicodedata.normalize("NFD", "phạm")]),
    (unicodedata.normalize("NFD", "안녕하세요"), ["안녕", "안"]),
    ("Café für Phạm", [unicodedata.normalize("NFD", word) for word in ("café", "phạm für")]),
    ("ok 👍🏽 great❤️", ["👍", "👍🏽", "❤", "❤️", "great", "ok 👍"]),
]
# a text, and what does not find it, though all of its letters are there
NOT_FOUND = [
    ("สวัสดีครับ", ["รับค", "ดส", "ครบ"]),
    ("你好世界", ["好你", "界你", "你世"]),
    ("ヴァイオリン・レッスン", ["ンレ"]),
    ("iPhone15保護殼", ["phone15", "殼保"]),
    ("Café für", ["cafe", "fur"]),
    ("👍🏽 wow", ["👎", "🏽👍"]),
]


async def is_found(connection: Connection, text: str, wanted: str) -> bool:
    return bool(await connection.fetchval("SELECT words_of($1) @@ search_words($2)", text, wanted))


async def test_words_are_found_wherever_they_stand_and_however_they_are_written(connection: Connection) -> None:
    for text, wanted in FOUND:
        assert [w for w in wanted if not await is_found(connection, text, w)] == [], text


async def test_letters_in_another_order_are_other_words(connection: Connection) -> None:
    for text, wanted in NOT_FOUND:
        assert [w for w in wanted if await is_found(connection, text, w)] == [], text


@pytest.mark.parametrize("script", SCRIPTS)
@given(data=st.data())
@COMMON
async def test_every_part_of_a_run_is_found_and_short_ones_nowhere_else(
    connection: Connection, script: str, data: st.DataObject
) -> None:
    letters, size = SCRIPTS[script]
    text = data.draw(st.text(f"{letters} a.", min_size=1, max_size=40))
    runs = "".join(c if c in letters else " " for c in text).split() or [letters]
    run = data.draw(st.sampled_from(runs))
    start = data.draw(st.integers(0, len(run) - 1))
    part = run[start : data.draw(st.integers(start + 1, len(run)))]
    assert await is_found(connection, text, part) or part not in text
    other = data.draw(st.text(letters, min_size=1, max_size=size))
    assert await is_found(connection, text, other) == (other in text)


async def test_what_is_sought_in_pieces_is_asked_for_by_as_few_as_tell_it(connection: Connection) -> None:
    for wanted, pieces in (
        ("殼", {"殼"}),
        ("保護殼", {"保護", "護殼"}),
        ("รา", {"รา"}),
        ("ราคา", {"ราค", "าคา"}),
        ("an anna", {"an", "anna"}),
    ):
        query = await connection.fetchval("SELECT search_words($1)::text", wanted)
        assert {piece.strip("':*") for piece in query.split(" & ")} == pieces, wanted


ODD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=60)


@given(text=ODD, times=st.sampled_from([1, 200, 3000]))
@COMMON
async def test_no_text_of_any_length_is_refused(connection: Connection, text: str, times: int) -> None:
    await connection.fetchval("SELECT words_of($1)", text * times)


async def test_the_longest_texts_are_stored_as_any(connection: Connection) -> None:
    for text in ("\ufdfa", "界", "น้ำ", "👍🏽", "é", "e\u0301", "\u0e4d", "㍿", "界 ", "\u200b", "a界น"):
        await connection.execute(
            """
            INSERT INTO conversation_names (page_id, psid, name) VALUES ('1', 'p', $1)
            ON CONFLICT (page_id, psid) DO UPDATE SET name = excluded.name
            """,
            text * 200_000,
        )
