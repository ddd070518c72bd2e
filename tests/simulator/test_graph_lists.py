from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from simulator import Attachment

if TYPE_CHECKING:
    from simulator import Graph, MessageTruth, TurnedClock, World
    from tests.simulator.conftest import Caller


def shown(world: World, page_id: str) -> dict[str, MessageTruth]:
    return {m.mid: m for m in world.true_messages(page_id) if m.in_graph}


def seconds(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


async def test_without_fields_a_conversation_is_its_id_and_time_and_a_page_of_the_list_is_25(call: Caller) -> None:
    edge = await call.json(f"{call.page.id}/conversations")
    assert len(edge["data"]) == 25
    assert all(row.keys() == {"id", "updated_time"} for row in edge["data"])
    assert edge["paging"].keys() == {"cursors", "next"}


@pytest.mark.parametrize("limit", [1, 7, 25, 100])
async def test_paging_with_any_limit_lists_every_conversation_once_newest_first(call: Caller, limit: int) -> None:
    rows = await call.all(f"{call.page.id}/conversations", limit=limit)
    truth = list(call.graph.world.true_conversations(call.page.id))
    assert [row["id"] for row in rows] == [c.thread_id for c in truth]
    assert [row["updated_time"] for row in rows] == [seconds(c.updated_time_ms) for c in truth]


async def test_the_next_link_holds_token_and_fields_and_leads_to_the_next_page(call: Caller) -> None:
    first = await call.json(f"{call.page.id}/conversations", limit=10, fields="id,snippet")
    link = first["paging"]["next"]
    query = parse_qs(urlsplit(link).query)
    assert query["access_token"] == [call.page.access_token]
    assert query["fields"] == ["id,snippet"]
    by_link = (await call.http.get(link)).json()
    by_cursor = await call.json(
        f"{call.page.id}/conversations", limit=10, fields="id,snippet", after=first["paging"]["cursors"]["after"]
    )
    assert by_link["data"] == by_cursor["data"]
    assert "previous" in by_link["paging"]
    back = (await call.http.get(by_link["paging"]["previous"])).json()
    assert back["data"] == first["data"]


async def test_messages_are_listed_newest_first_and_all_of_them_once(call: Caller) -> None:
    threads = await call.all(f"{call.page.id}/conversations", limit=100)
    read = [row for thread in threads[:20] for row in await call.all(f"{thread['id']}/messages", limit=4)]
    ids = {thread["id"] for thread in threads[:20]}
    truth = [m for m in shown(call.graph.world, call.page.id).values() if m.thread_id in ids]
    assert {row["id"] for row in read} == {m.mid for m in truth}
    assert len(read) == len(truth)
    for thread in threads[:20]:
        times = [row["created_time"] for row in await call.all(f"{thread['id']}/messages")]
        assert times == sorted(times, reverse=True)


async def test_nested_messages_have_a_paging_of_their_own(call: Caller) -> None:
    fields = "updated_time,messages.limit(3){id,from{id}}"
    for row in (await call.json(f"{call.page.id}/conversations", fields=fields, limit=20))["data"]:
        nested = row["messages"]
        assert len(nested["data"]) <= 3
        assert all(message.keys() == {"id", "from"} for message in nested["data"])
        assert all(message["from"].keys() == {"id"} for message in nested["data"])
        ids = [message["id"] for message in nested["data"]]
        while "next" in nested["paging"]:
            link = urlsplit(nested["paging"]["next"])
            assert link.path == f"/v26.0/{row['id']}/messages"
            assert parse_qs(link.query)["fields"] == ["id,from{id}"]
            nested = (await call.http.get(nested["paging"]["next"])).json()
            ids += [message["id"] for message in nested["data"]]
        assert ids == [message["id"] for message in await call.all(f"{row['id']}/messages")]


async def test_a_message_is_shown_as_it_is(call: Caller) -> None:
    world = call.graph.world
    fields = "id,created_time,from,to,message,attachments,sticker,shares{link,name},reactions,tags"
    nested = f"messages.limit(60){{{fields}}}"
    rows = await call.all(f"{call.page.id}/conversations", fields=nested, limit=50)
    messages = [message for row in rows for message in row["messages"]["data"]]
    truth = shown(world, call.page.id)
    assert {message["id"] for message in messages} == truth.keys()
    for message in messages:
        true = truth[message["id"]]
        sender = call.page.id if true.direction == "outbound" else true.psid
        assert message["from"]["id"] == sender
        assert message["from"]["email"] == f"{sender}@facebook.com"
        assert {p["id"] for p in message["to"]["data"]} == {call.page.id, true.psid} - {sender}
        assert message["created_time"] == seconds(true.graph_sent_at_ms)
        assert message["message"] == (true.text or "")
        users = [
            user["id"] for reaction in message.get("reactions", {"data": []})["data"] for user in reaction["users"]
        ]
        assert users == [r.actor for r in true.reactions]
        text = str(message)
        assert all(a.identity in text for a in true.attachments)
        assert message.get("attachments") != {"data": []}  # no data, no field


async def test_a_field_without_data_is_left_out(call: Caller) -> None:
    (item,) = call.graph.world.person_sends(call.page.id, text="plain")
    node = await call.json(f"{item.mid}", fields="id,message,attachments,sticker,shares,reactions,story,is_unsupported")
    assert node == {"id": item.mid, "message": "plain"}


async def test_shares_have_no_more_than_their_id_unless_asked_for(call: Caller) -> None:
    world = call.graph.world
    attachments: Any = ()
    while [a.kind for a in attachments] != ["fallback"]:
        attachments = world.some_attachments()
    mid = world.person_sends(call.page.id, attachments=attachments)[0].mid
    assert (await call.json(f"{mid}", fields="shares"))["shares"]["data"] == [{"id": str(attachments[0].asset)}]
    asked = await call.json(f"{mid}", fields="shares{link,name}")
    assert asked["shares"]["data"][0]["link"] == attachments[0].link


async def test_links_differ_at_each_reading_and_by_door_but_not_in_their_file(call: Caller) -> None:
    world = call.graph.world
    attachments: Any = ()
    while [a.kind for a in attachments] != ["image"]:
        attachments = world.some_attachments()
    (item,) = world.person_sends(call.page.id, attachments=attachments)
    by_webhook = item.value["message"]["attachments"][0]["payload"]["url"]
    nodes = [await call.json(f"{item.mid}", fields="attachments") for _ in range(2)]
    links = [by_webhook, *(n["attachments"]["data"][0]["image_data"]["url"] for n in nodes)]
    assert len(set(links)) == 3
    assert len({urlsplit(link).hostname for link in links}) > 1
    for link in links:
        assert urlsplit(link).path.endswith(attachments[0].file_name)
        expires = int(parse_qs(urlsplit(link).query)["oe"][0], 16)
        assert expires - world.now().timestamp() == pytest.approx(35 * 3600)


async def test_attachments_are_an_edge_with_a_paging_of_its_own(call: Caller) -> None:
    world = call.graph.world
    attachments: Any = ()
    while len(attachments) < 3:
        attachments = world.some_attachments()
    mid = world.person_sends(call.page.id, attachments=attachments)[0].mid
    node = await call.json(f"{mid}", fields="attachments.limit(1){id,name}")
    edge = node["attachments"]
    assert edge["data"][0].keys() == {"id", "name"}
    ids = [edge["data"][0]["id"]]
    while edge["data"]:
        edge = (await call.http.get(edge["paging"]["next"])).json()  # it is there behind the last one too
        ids += [row["id"] for row in edge["data"]]
    assert len(set(ids)) == len(ids) == len(attachments)
    assert len(await call.all(f"{mid}/attachments", limit=2)) == len(attachments)


async def test_of_what_stands_in_a_fields_value_only_what_is_asked_for_is_shown(call: Caller) -> None:
    world = call.graph.world
    mid = world.person_sends(call.page.id, attachments=[Attachment("image", 123_456)])[0].mid
    world.react(f"{mid}")
    node = await call.json(f"{mid}", fields="attachments{image_data{width,url}},reactions{users{id}}")
    (attachment,) = node["attachments"]["data"]
    assert attachment.keys() == {"id", "image_data"}
    assert attachment["image_data"].keys() == {"width", "url"}
    assert [user.keys() for user in node["reactions"]["data"][0]["users"]] == [{"id"}]


async def test_the_size_of_an_image_may_be_null(call: Caller) -> None:
    images = [Attachment("image", 1_000 + n) for n in range(20)]
    mid = call.graph.world.person_sends(call.page.id, attachments=images)[0].mid
    rows = (await call.json(f"{mid}", fields="attachments{size}"))["attachments"]["data"]
    assert {type(row["size"]) for row in rows} == {int, type(None)}


async def test_who_never_wrote_has_no_conversation_and_no_profile(call: Caller) -> None:
    world = call.graph.world
    psid = next(psid for psid in iter(lambda: world.new_person(call.page.id), "") if int(psid) % 11)
    world.read(call.page.id, psid)
    path = f"{call.page.id}/conversations"
    assert (await call.json(path, user_id=psid))["data"] == []
    assert (await call.error(psid))["error_subcode"] == 33
    world.person_sends(call.page.id, psid)
    assert len((await call.json(path, user_id=psid))["data"]) == 1
    assert (await call.json(psid))["id"] == psid


async def test_what_is_live_is_seen_at_once_and_only_messages_move_updated_time(
    call: Caller, clock: TurnedClock
) -> None:
    world = call.graph.world
    last = list(world.threads(call.page))[-1]
    mid = world.person_sends(call.page.id, last.psid, text="first")[0].mid
    assert mid is not None
    before = (await call.json(f"{call.page.id}/conversations", limit=1))["data"][0]
    assert before == {"id": last.thread_id, "updated_time": seconds(world.now_ms())}
    clock.advance(60)
    world.edit(mid, "second")
    world.react(mid)
    world.read(call.page.id, last.psid)
    assert (await call.json(f"{call.page.id}/conversations", limit=1))["data"][0] == before
    node = await call.json(mid, fields="message,reactions")
    assert node["message"] == "second"
    assert node["reactions"]["data"] == [{"reaction": "love", "users": [{"id": last.psid, "username": last.name}]}]
    world.unsend(mid)
    assert (await call.json(f"{call.page.id}/conversations", limit=1))["data"][0] == before
    assert mid not in {row["id"] for row in await call.all(f"{last.thread_id}/messages")}
    assert (await call.error(mid))["error_subcode"] == 33


async def test_a_postback_is_a_message_with_the_buttons_title(call: Caller) -> None:
    (item,) = call.graph.world.postback(call.page.id, title="Menu", payload="SHOW_MENU")
    node = await call.json(f"{item.mid}", fields="message,from{id}")
    assert node == {"id": item.mid, "message": "Menu", "from": {"id": item.psid}}


async def test_a_row_that_is_bumped_in_mid_walk_is_not_skipped_nor_does_it_hide_another(
    call: Caller, clock: TurnedClock
) -> None:
    world, last = call.graph.world, list(call.graph.world.threads(call.page))[-1]
    seen: list[str] = []
    async for rows in call.pages(f"{call.page.id}/conversations", limit=10):
        seen += [row["id"] for row in rows]
        if len(seen) == 20:
            clock.advance(1)
            world.person_sends(call.page.id, last.psid)
    everything = {c.thread_id for c in world.true_conversations(call.page.id)}
    assert set(seen) == everything - {last.thread_id}
    assert (await call.json(f"{call.page.id}/conversations", limit=1))["data"][0]["id"] == last.thread_id


async def test_several_ids_are_read_in_one_call_and_one_bad_one_fails_all(call: Caller) -> None:
    mids = list(shown(call.graph.world, call.page.id))[:3]
    answer = await call.json("", ids=",".join(mids), fields="id,message")
    assert answer.keys() == set(mids)
    assert (await call.error("", ids=f"{mids[0]},m_none"))["code"] == 100
    assert "Maximum: 50" in (await call.error("", ids=",".join(["1"] * 51)))["message"]


async def test_a_person_is_found_and_has_a_profile_or_none(call: Caller) -> None:
    refused = 0
    for thread in call.graph.world.threads(call.page):
        found = await call.json(f"{call.page.id}/conversations", user_id=thread.psid)
        assert [row["id"] for row in found["data"]] == [thread.thread_id]
        response = await call.get(thread.psid)
        if response.status_code == 200:
            assert response.json()["name"] == thread.name
        else:
            refused += response.json()["error"]["error_subcode"] == 2018218
    assert refused > 0


async def test_another_pages_conversations_messages_and_people_are_not_to_be_seen(call: Caller, graph: Graph) -> None:
    other = graph.world.pages[1]
    thread = next(graph.world.threads(other))
    message = next(thread.newest_first()).message.mid
    for path in (f"{other.id}/conversations", thread.thread_id, f"{thread.thread_id}/messages", message, thread.psid):
        error = await call.error(path)
        assert (error["code"], error["error_subcode"]) == (100, 33)
