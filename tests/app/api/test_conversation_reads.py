"""What is told of conversations and messages, filters of the list, its cursors, and `ETag`s."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api import wire
from tests.app.graph import thread
from tests.app.service import add_page, assert_problem, deliver, running, settings_for, text_delivery

if TYPE_CHECKING:
    import httpx

    from tests.app.graph import FakeGraph
    from tests.app.service import Service

PAGE, OTHER_PAGE = "1001", "1002"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MS = int(NOON.timestamp() * 1000)
LIST = "/api/conversations"


async def tell(service: Service, *items: dict[str, Any], page_id: str = PAGE) -> None:
    body = {"object": "page", "entry": [{"id": page_id, "time": MS, "messaging": list(items)}]}
    assert (await deliver(service.http, json.dumps(body).encode())).status_code == 200


def said(psid: str, mid: str, text: str = "hello", *, seconds: float = 0, **message: Any) -> dict[str, Any]:
    return {**between(psid, PAGE, seconds), "message": {"mid": mid, "text": text, **message}}


def echoed(psid: str, mid: str, *, seconds: float = 0, **message: Any) -> dict[str, Any]:
    return {**between(PAGE, psid, seconds), "message": {"mid": mid, "text": "hi", "is_echo": True, **message}}


def between(sender: str, recipient: str, seconds: float) -> dict[str, Any]:
    return {"sender": {"id": sender}, "recipient": {"id": recipient}, "timestamp": MS + round(seconds * 1000)}


async def ask(service: Service, path: str = LIST, **params: Any) -> Any:
    response = await service.http.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def messages(service: Service, psid: str = "p") -> dict[str, dict[str, Any]]:
    found = (await ask(service, f"{LIST}/{PAGE}/{psid}/messages"))["data"]
    return {message["mid"]: message for message in found}


@pytest.mark.parametrize("our_app", ["4400", None])
async def test_an_echo_tells_whose_it_is_as_far_as_that_is_known(
    database: str, graph: FakeGraph, our_app: str | None
) -> None:
    assert graph
    async with running(settings_for(database, facebook_app_id=our_app)) as service:
        await tell(service, said("p", "m_person"), echoed("p", "m_ours", app_id=4400), echoed("p", "m_nobody"))
        await tell(service, echoed("p", "m_other", app_id=4401))
        for app_id in (263902037430900, 26390203743090, 1217981644879628):
            await tell(service, echoed("p", f"m_{app_id}", app_id=app_id))
        origins = {mid: message["origin"] for mid, message in (await messages(service)).items()}
    assert origins == {
        "m_person": None,
        "m_ours": "our_app" if our_app else "unknown",
        "m_other": "other_app" if our_app else "unknown",
        "m_nobody": "unknown",
        "m_263902037430900": "page_inbox",
        "m_26390203743090": "page_inbox",
        "m_1217981644879628": "page_inbox",
    }


async def test_receipts_tell_what_was_delivered_and_read_of_what_the_page_sent(service: Service) -> None:
    for n in range(3):
        await tell(service, echoed("p", f"m_{n}", seconds=n))
    await tell(service, said("p", "m_person"))
    told = await messages(service)
    assert {(m["is_delivered"], m["is_read"]) for mid, m in told.items() if mid != "m_person"} == {(False, False)}
    assert (told["m_person"]["is_delivered"], told["m_person"]["is_read"]) == (None, None)
    await tell(service, {**between("p", PAGE, 9), "delivery": {"watermark": MS}})
    await tell(service, {**between("p", PAGE, 9), "read": {"watermark": MS + 1000}})
    told = await messages(service)
    # what was read was delivered, receipt or no
    assert [(told[f"m_{n}"]["is_delivered"], told[f"m_{n}"]["is_read"]) for n in range(3)] == [
        (True, True),
        (True, True),
        (False, False),
    ]


async def test_edits_are_told_one_by_one_with_what_was_written_first(service: Service) -> None:
    await tell(service, said("p", "m_1", "first"), said("p", "m_2", "never edited"))
    for number, text in ((2, "third"), (1, "second")):
        edit = {"mid": "m_1", "text": text, "num_edit": number}
        await tell(service, {**between("p", PAGE, number), "message_edit": edit})
    told = await messages(service)
    assert (told["m_1"]["text"], told["m_1"]["original_text"], told["m_1"]["is_edited"]) == ("third", "first", True)
    assert told["m_1"]["edits"] == [
        {"num_edit": 1, "text": "second", "edited_at": "2026-03-01T12:00:01.000000Z"},
        {"num_edit": 2, "text": "third", "edited_at": "2026-03-01T12:00:02.000000Z"},
    ]
    assert (told["m_2"]["edits"], told["m_2"]["original_text"], told["m_2"]["is_edited"]) == ([], None, False)
    await tell(service, {**between("p", PAGE, 9), "message": {"mid": "m_1", "is_deleted": True}})
    told = await messages(service)
    assert (told["m_1"]["edits"], told["m_1"]["text"], told["m_1"]["original_text"]) == ([], None, None)


async def test_a_reply_names_what_it_answers_and_attachments_are_told(service: Service) -> None:
    file = {"type": "image", "payload": {"url": "https://cdn.test/a.png"}}
    await tell(service, said("p", "m_1"), said("p", "m_2", seconds=1, reply_to={"mid": "m_1"}, attachments=[file]))
    told = await messages(service)
    assert (told["m_2"]["reply_to"], told["m_1"]["reply_to"]) == ("m_1", None)
    assert told["m_2"]["attachments"] == [{"type": "image", "url": "https://cdn.test/a.png"}]


async def test_a_message_tells_what_saw_it_first_when_and_how_late(syncing: Service, graph: FakeGraph) -> None:
    await tell(syncing, said("p1", "m_1"))
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_2", "missed", NOON + timedelta(seconds=5))))
    run = await syncing.http.post(f"{LIST}/sync", json={"page_id": PAGE, "wait_seconds": 60})
    assert run.json()["state"] == "succeeded", run.text
    told = await messages(syncing, "p1")
    for mid, via, other in (("m_1", "webhook", "sync"), ("m_2", "sync", "webhook")):
        message = told[mid]
        assert message["first_seen_via"] == via
        assert message["first_seen_at"] == message[f"{via}_seen_at"]
        assert message[f"{other}_seen_at"] is None
        sent, seen = (datetime.fromisoformat(message[name]) for name in ("sent_at", "first_seen_at"))
        assert message["lateness_seconds"] == pytest.approx((seen - sent).total_seconds())


async def test_a_conversation_is_unread_by_graphs_count_or_by_what_came_since(
    syncing: Service, graph: FakeGraph
) -> None:
    unread = {**thread(PAGE, "p1", ("m_1", "a", NOON)), "unread_count": 2}
    read = thread(PAGE, "p2", ("m_2", "b", NOON))
    await add_page(syncing, graph, PAGE, unread, read)
    await syncing.http.post(f"{LIST}/sync", json={"page_id": PAGE, "wait_seconds": 60})

    async def are_unread() -> list[str]:
        listed = [row["psid"] for row in (await ask(syncing, unread="true"))["data"]]
        others = [row["psid"] for row in (await ask(syncing, unread="false"))["data"]]
        assert set(listed) | set(others) == {"p1", "p2"}
        assert not set(listed) & set(others)
        return sorted(listed)

    assert await are_unread() == ["p1"]
    await tell(syncing, said("p2", "m_3", seconds=60))
    assert await are_unread() == ["p1", "p2"]
    await tell(syncing, echoed("p1", "m_4", seconds=60), echoed("p2", "m_5", seconds=120))
    assert await are_unread() == []


async def test_the_list_is_searched_by_words_of_texts_and_names(syncing: Service, graph: FakeGraph) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "Where is my ORDER 1047?", NOON)))
    await syncing.http.post(f"{LIST}/sync", json={"page_id": PAGE, "wait_seconds": 60})
    await tell(syncing, said("p2", "m_2", "größe 42, order please"), said("p3", "m_3", "thanks", seconds=1))

    async def found(words: str) -> set[str]:
        page = await ask(syncing, search=words, count="exact")
        assert page["total"] == len(page["data"])
        return {row["psid"] for row in page["data"]}

    assert await found("order") == {"p1", "p2"}
    assert await found("ord 104") == {"p1"}
    assert await found("GRÖSSE") == set()
    assert await found("Größe") == {"p2"}
    assert await found("person") == {"p1"}  # as Graph names all of them
    assert await found("order thanks") == set()
    assert await found("'; DROP TABLE messages; --") == set()
    assert await found("👍") == set()
    for words in ("", "x" * 201, "a\x00"):
        assert_problem(await syncing.http.get(LIST, params={"search": words}), 422, "search")


async def test_the_list_is_cut_to_a_range_of_time(service: Service) -> None:
    for n in range(4):
        await tell(service, said(f"p{n}", f"m_{n}", seconds=n * 3600))
    cut = await ask(service, updated_from="2026-03-01T13:00:00Z", updated_to="2026-03-01T15:00:00Z", count="exact")
    assert ([row["psid"] for row in cut["data"]], cut["total"]) == (["p2", "p1"], 2)
    for name in ("updated_from", "updated_to"):
        assert_problem(await service.http.get(LIST, params={name: "yesterday"}), 422, name)
    turned = {"updated_from": "2026-03-02", "updated_to": "2026-03-01"}
    assert_problem(await service.http.get(LIST, params=turned), 422, "updated_to")


async def test_a_cursor_is_good_for_the_question_it_was_given_for_only(service: Service) -> None:
    for n in range(3):
        await tell(service, said(f"p{n}", f"m_{n}", seconds=n))
    asked = {"page_id": PAGE, "unread": "true", "limit": "1"}
    cursor = (await ask(service, **asked))["next"]
    assert [row["psid"] for row in (await ask(service, **asked, cursor=cursor))["data"]] == ["p1"]
    # how many are shown, and whether they are counted, is no part of the question
    more = await ask(service, page_id=PAGE, unread="true", limit=9, count="exact", cursor=cursor)
    assert ([row["psid"] for row in more["data"]], more["total"]) == (["p1", "p0"], 3)
    for other in (
        {"page_id": PAGE},
        {"unread": "true"},
        {"page_id": PAGE, "unread": "false"},
        {**asked, "search": "hello"},
        {**asked, "exclude_tags": "a"},
    ):
        assert_problem(await service.http.get(LIST, params={**other, "cursor": cursor}), 422, "cursor")
    assert_problem(await service.http.get(f"{LIST}/{PAGE}/p0/messages", params={"cursor": cursor}), 422, "cursor")


async def test_a_cursor_that_was_cut_or_tampered_with_is_a_422_problem_or_a_place_never_a_failure(
    service: Service,
) -> None:
    for n in range(3):
        await tell(service, said(f"p{n}", f"m_{n}", seconds=n))
    for path, keys in ((LIST, ["1", "2"]), (f"{LIST}/{PAGE}/p2/messages", ["m_1"])):
        await tell(service, said("p2", "m_9", seconds=9))
        cursor = (await ask(service, path, limit=1))["next"]
        for length in range(len(cursor)):
            assert_problem(await service.http.get(path, params={"cursor": cursor[:length]}), 422, "cursor")
        question, at, *_ = wire.from_cursor(cursor, str, datetime, *([str] * len(keys)))
        for place in (
            [at],
            [at, *keys, "x"],
            [at, *keys[:-1], 7],
            [at, *keys[:-1], "\x00"],
            ["soon", *keys],
            [None, *keys],
        ):
            forged = {"cursor": wire.to_cursor(question, *place)}
            assert_problem(await service.http.get(path, params=forged), 422, "cursor")
        for when in ("0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"):
            assert await ask(service, path, cursor=wire.to_cursor(question, when, *keys))


# a text, words that find it, and words that do not
SCRIPTS = [
    ("Tôi muốn mua hàng", "MUỐN tôi", "muon"),  # Vietnamese; accents are not alike
    ("สวัสดีครับ ราคาเท่าไร", "ครับ", "รับค"),  # Thai
    ("你好世界", "世界", "好你"),  # Chinese
    ("こんにちは、価格はiPhone15の", "格はiphone15", "は価"),  # Japanese
    ("مرحبا بالعالم", "بالعالم", "العالم"),  # Arabic
    ("Größe: 42½ «maß»", "42 maß", "ass"),
    ("👍🏽 wow ❤️", "👍 ❤", "👍🏾"),
    ('foo:*&!( <-> \\ it\'s "bar"', "foo:*&!(", "!foo:*&bars"),
    ("a@b.example https://shop.example/x?q=1", "shop.example", "op.example"),
    ("ticket-12345", "12345", "2345"),
    ("black and/or white", "or", "ack"),
    ("ann.lee@post.example", "lee post", "ee"),
    ("+49151234567", "49151", "9151"),
    ("see http://blog.example/deep/page#part", "page part http", "age"),
    ("v2.0.1-beta", "beta", "eta"),
    ("<b>bold</b>", "bold", "old"),
]


async def test_texts_in_any_script_are_found_by_their_words(service: Service) -> None:
    for n, (text, _, _) in enumerate(SCRIPTS):
        await tell(service, said(f"p{n}", f"m_{n}", text))
    for n, (_, found, other) in enumerate(SCRIPTS):
        assert [row["psid"] for row in (await ask(service, search=found, count="exact"))["data"]] == [f"p{n}"], found
        assert (await ask(service, search=other, count="exact"))["total"] == 0, other


@given(search=st.text(min_size=1, max_size=200), count=st.sampled_from(["none", "exact"]))
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_searched_for_is_no_failure(service: Service, search: str, count: str) -> None:
    response = await service.http.get(LIST, params={"search": search, "count": count})
    assert response.status_code == (422 if "\x00" in search else 200), response.text


async def read_again(service: Service, path: str, tag: str) -> httpx.Response:
    return await service.http.get(path, headers={"if-none-match": tag})


async def test_who_has_it_already_is_told_so_until_it_says_something_else(service: Service) -> None:
    await tell(service, said("p", "m_1"))
    paths = (LIST, f"{LIST}?count=exact", f"{LIST}/{PAGE}/p", f"{LIST}/{PAGE}/p/messages")
    tags = []
    for path in paths:
        response = await service.http.get(path)
        tag = response.headers["etag"]
        tags.append(tag)
        for header in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
            again = await read_again(service, path, header)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        twice = [("if-none-match", '"x"'), ("if-none-match", tag)]  # one list, however many lines it has
        assert (await service.http.get(path, headers=twice)).status_code == 304
        assert (await read_again(service, path, '"x"')).json() == response.json()
        assert response.headers["cache-control"] == "private, no-cache"
    assert len(set(tags)) == len(tags)
    reaction = {"mid": "m_1", "action": "react", "emoji": "!"}
    await tell(service, {**between("p", PAGE, 1), "reaction": reaction})
    changed = [(await read_again(service, path, tag)).status_code for path, tag in zip(paths, tags, strict=True)]
    assert changed == [304, 304, 304, 200]
    await tell(service, said("p", "m_2", seconds=60))
    assert {(await read_again(service, path, tag)).status_code for path, tag in zip(paths, tags, strict=True)} == {200}


async def test_a_link_that_was_only_signed_anew_changes_no_tag_and_another_attachment_does(service: Service) -> None:
    path = f"{LIST}/{PAGE}/p/messages"

    def signed(signature: str, expires: datetime) -> dict[str, Any]:
        url = f"https://scontent.xx.fbcdn.net/a.png?_nc_cat=1&oh={signature}&oe={int(expires.timestamp()):x}"
        return said("p", "m_1", attachments=[{"type": "image", "payload": {"url": url}}])

    soon, later = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) + timedelta(days=9)
    await tell(service, signed("one", soon))
    first = await service.http.get(path)
    await tell(service, signed("two", later))
    second = await service.http.get(path)
    links = [response.json()["data"][0]["attachments"][0]["url"] for response in (first, second)]
    assert ["oh=one" in links[0], "oh=two" in links[1]] == [True, True]
    assert first.headers["etag"] == second.headers["etag"]
    assert (await read_again(service, path, first.headers["etag"])).status_code == 304
    other = {"type": "video", "payload": {"url": "https://scontent.xx.fbcdn.net/b.mp4?oh=one"}}
    await tell(service, said("p", "m_1", attachments=[other]))
    changed = await read_again(service, path, first.headers["etag"])
    assert (changed.status_code, changed.json()["data"][0]["attachments"][0]["type"]) == (200, "video")


async def test_a_conversation_tells_its_tags(service: Service) -> None:
    await tell(service, said("p", "m_1"))
    for name in ("b", "a"):
        await service.http.post("/api/tags", json={"name": name})
        await service.http.put(f"{LIST}/{PAGE}/p/tags/{name}")
    assert (await ask(service))["data"][0]["tags"] == (await ask(service, f"{LIST}/{PAGE}/p"))["tags"] == ["a", "b"]


async def test_pages_of_a_filtered_list_go_on_rightly_while_messages_arrive(service: Service) -> None:
    await service.http.post("/api/tags", json={"name": "vip"})
    for n in range(6):
        await deliver(service.http, text_delivery(PAGE, f"p{n}", f"m_{n}", "hello", NOON + timedelta(minutes=n)))
        await service.http.put(f"{LIST}/{PAGE}/p{n}/tags/vip")
    asked: dict[str, Any] = {"include_tags": "vip", "search": "hello", "limit": 2}
    first = await ask(service, **asked)
    await tell(service, said("p5", "m_again", seconds=7200), said("new", "m_new", seconds=7200))
    second = await ask(service, **asked, cursor=first["next"])
    third = await ask(service, **asked, cursor=second["next"])
    assert [row["psid"] for page in (first, second, third) for row in page["data"]] == [
        f"p{n}" for n in range(5, -1, -1)
    ]
    assert third["next"] is None
