from __future__ import annotations

import tracemalloc
from collections import defaultdict
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import pytest

from simulator import Attachment, Life, TurnedClock, World, WorldError
from simulator.attachments import KINDS as KINDS_OF_ATTACHMENTS
from simulator.attachments import graph_node, graph_share, webhook_forms
from simulator.events import KINDS
from simulator.history import OTHER_APP_ID, OUR_APP_ID, PAGE_INBOX_APP_ID
from simulator.items import ALL_FIELDS, FIELDS

if TYPE_CHECKING:
    from simulator import Item


def living(seed: int) -> tuple[World, list[Item]]:
    clock = TurnedClock()
    world = World(seed, pages=3, conversations_per_page=20, messages_per_conversation=6, now=clock)
    life, items = Life(world, seed=seed), []
    for _ in range(300):
        clock.advance(0.7)
        items += life.happen()
    return world, items


def test_the_same_seed_and_calls_make_the_same_world() -> None:
    (one, said), (other, said_again) = living(3), living(3)
    assert [item.value for item in said] == [item.value for item in said_again]
    for page, twin in zip(one.pages, other.pages, strict=True):
        assert page == twin
        assert one.truth(page.id) == other.truth(twin.id)


def test_another_seed_makes_another_world() -> None:
    one, other = World(1, now=TurnedClock()), World(2, now=TurnedClock())
    page_id = one.pages[0].id
    mids = {m.mid for m in one.true_messages(page_id)}
    assert mids.isdisjoint(m.mid for m in other.true_messages(other.pages[0].id))
    assert {page.id for page in one.pages}.isdisjoint(page.id for page in other.pages)
    people = [{c.psid for c in world.true_conversations(world.pages[0].id)} for world in (one, other)]
    assert people[0].isdisjoint(people[1])


def test_a_conversations_messages_come_in_order_and_some_share_a_second() -> None:
    world = World(5, pages=1, now=TurnedClock())
    shared = 0
    for _, group in groupby(world.true_messages(world.pages[0].id), key=lambda m: m.thread_id):
        times = [m.sent_at_ms for m in group]
        assert times == sorted(times)
        assert times[-1] < world.now_ms()
        seconds = [t // 1000 for t in times]
        shared += len(seconds) - len(set(seconds))
    assert shared > 0


def test_conversations_are_listed_newest_first_also_after_new_messages(world: World, clock: TurnedClock) -> None:
    page = world.pages[0]
    for psid in [t.psid for t in world.threads(page)][10:50:7]:
        clock.advance(3)
        world.person_sends(page.id, psid)
    updated = [c.updated_time_ms for c in world.true_conversations(page.id)]
    assert updated == sorted(updated, reverse=True)
    assert len(updated) == 60


def test_ids_lead_back_to_what_they_name(world: World) -> None:
    for page in world.pages:
        for message in world.true_messages(page.id):
            found = world.find_message(message.mid)
            assert found is not None
            assert found[0].message(found[1]).mid == message.mid
            thread = world.find_thread(message.thread_id)
            person = world.find_person(message.psid)
            assert thread is not None
            assert person is not None
            assert (thread.page, thread.number) == (person.page, person.number) == (found[0].page, found[0].number)


@pytest.mark.parametrize("mid", ["", "m_", "m_" + "A" * 86, "m_" + "é" * 86, "x" * 88])
def test_an_id_of_nothing_finds_nothing(world: World, mid: str) -> None:
    assert world.find_message(mid) is None
    assert world.find_thread(mid) is None
    assert world.find_person(mid) is None


def test_a_mid_with_one_letter_in_other_case_finds_nothing(world: World) -> None:
    mid = next(world.true_messages(world.pages[0].id)).mid
    n = next(n for n, c in enumerate(mid) if n > 60 and c.isalpha())
    assert world.find_message(mid[:n] + mid[n].swapcase() + mid[n + 1 :]) is None


def test_an_edit_shows_its_text_and_counts_up_to_five(world: World) -> None:
    page_id = world.pages[0].id
    mid = world.person_sends(page_id, text="first")[0].mid
    assert mid is not None
    for n in range(1, 6):
        (item,) = world.edit(mid, f"text {n}")
        assert item.value["message_edit"] == {"mid": mid, "text": f"text {n}", "num_edit": n}
    with pytest.raises(WorldError, match="edited 5 times"):
        world.edit(mid)
    (truth,) = [m for m in world.true_messages(page_id) if m.mid == mid]
    assert (truth.text, truth.num_edit) == ("text 5", 5)


def test_an_unsent_message_keeps_who_and_when_and_nothing_else(world: World) -> None:
    page_id = world.pages[0].id
    sent = world.person_sends(page_id, attachments=world.some_attachments())[0]
    assert sent.mid is not None
    world.react(sent.mid)
    (item,) = world.unsend(sent.mid)
    assert item.value["message"] == {"mid": sent.mid, "is_deleted": True}
    (truth,) = [m for m in world.true_messages(page_id) if m.mid == sent.mid]
    assert truth.is_deleted
    assert not truth.in_graph
    assert (truth.text, truth.attachments, truth.reactions) == (None, (), ())
    assert (truth.psid, truth.sent_at_ms, truth.direction) == (sent.psid, sent.at_ms, "inbound")
    with pytest.raises(WorldError):
        world.react(sent.mid)


def test_the_last_reaction_of_a_person_stands_and_can_be_taken_back(world: World) -> None:
    page_id = world.pages[0].id
    mid = world.page_sends(page_id)[0].mid
    assert mid is not None
    first, second = world.react(mid, "love")[0], world.react(mid, "wow")[0]
    assert first.at_ms < second.at_ms  # also when the clock stands
    (truth,) = [m for m in world.true_messages(page_id) if m.mid == mid]
    assert [(r.actor, r.reaction) for r in truth.reactions] == [(first.psid, "wow")]
    world.unreact(mid)
    (truth,) = [m for m in world.true_messages(page_id) if m.mid == mid]
    assert truth.reactions == ()
    with pytest.raises(WorldError, match="no reaction"):
        world.unreact(mid)


def test_after_a_handover_items_come_as_standby_without_payloads(world: World) -> None:
    page_id = world.pages[0].id
    psid = world.somebody(page_id)
    (handed,) = world.hand_over(page_id, psid)
    assert handed.via == "messaging"
    (tap,) = world.postback(page_id, psid, title="Start", payload="SECRET")
    assert (tap.via, tap.field) == ("standby", "standby")
    assert tap.value["postback"] == {"mid": tap.mid, "title": "Start"}
    (echo,) = world.page_sends(page_id, psid)
    assert f"m_{echo.value['message']['mid']}" == echo.mid  # as in Meta's sample, without its prefix
    world.take_back(page_id, psid)
    assert world.person_sends(page_id, psid)[0].via == "messaging"


def test_a_conversation_that_is_taken_over_is_in_standby_too(world: World) -> None:
    page_id = world.pages[0].id
    psid = world.somebody(page_id)
    (taken,) = world.take_over(page_id, psid)
    assert taken.value["take_thread_control"]["new_owner_app_id"] == int(PAGE_INBOX_APP_ID)
    assert world.person_sends(page_id, psid)[0].via == "standby"
    (given,) = world.take_back(page_id, psid)
    assert given.value["pass_thread_control"]["previous_owner_app_id"] == PAGE_INBOX_APP_ID


def test_receipts_and_owner_of_an_earlier_moment_can_be_asked(world: World, clock: TurnedClock) -> None:
    page_id = world.pages[0].id
    psid = world.somebody(page_id)
    expected = []
    for do in (world.read, world.delivery, world.hand_over, world.read, world.delivery, world.take_back):
        (item,) = do(page_id, psid)
        of_now = next(c for c in world.true_conversations(page_id) if c.psid == psid)
        expected.append((world.now_ms(), of_now))
        if item.kind in {"read", "delivery"}:
            told = item.value[item.kind]["watermark"]
            assert told == (of_now.read_watermark_ms if item.kind == "read" else of_now.delivered_watermark_ms)
        clock.advance(10)
    assert len({conversation for _, conversation in expected}) == 6
    for moment, conversation in expected:
        assert conversation in world.true_conversations(page_id, moment)
    assert expected[0][1].owner_app_id is None
    assert [expected[2][1].owner_app_id, expected[5][1].owner_app_id] == [PAGE_INBOX_APP_ID, OUR_APP_ID]


def test_the_truth_of_an_earlier_moment_can_be_asked(world: World, clock: TurnedClock) -> None:
    page_id = world.pages[0].id
    mid = world.person_sends(page_id, text="before")[0].mid
    assert mid is not None
    moment = world.now_ms()
    clock.advance(10)
    world.edit(mid, "after")
    psid = world.new_person(page_id)
    world.person_sends(page_id, psid)
    world.unsend(mid)
    then = {m.mid: m for m in world.true_messages(page_id, moment)}
    assert (then[mid].text, then[mid].is_deleted) == ("before", False)
    assert psid not in {c.psid for c in world.true_conversations(page_id, moment)}
    assert psid in {c.psid for c in world.true_conversations(page_id)}


def test_what_is_unsupported_has_nothing_but_its_id(world: World) -> None:
    page_id = world.pages[0].id
    (item,) = world.person_sends(page_id, is_unsupported=True)
    assert item.value["message"] == {"mid": item.mid, "is_unsupported": True}
    with pytest.raises(WorldError):
        world.person_sends(page_id, text="hello", is_unsupported=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_without_trace_has_a_field_to_subscribe_to_and_changes_no_truth(world: World, kind: str) -> None:
    page_id = world.pages[0].id
    before = world.truth(page_id)
    (item,) = world.event(page_id, kind, next(world.threads(world.pages[0])).psid)
    assert item.field in ALL_FIELDS
    assert item.page_id == page_id
    assert world.truth(page_id) == before


def test_an_event_of_no_known_kind_is_refused_with_the_list(world: World) -> None:
    with pytest.raises(WorldError, match=", ".join(KINDS)):
        world.event(world.pages[0].id, "wedding")


def test_life_brings_every_kind_of_item_and_of_attachment() -> None:
    world, items = World(2, now=TurnedClock()), []
    life = Life(world, seed=2)
    for _ in range(6_000):
        items += life.happen()
    assert {item.kind for item in items} == set(FIELDS)
    assert {item.via for item in items} == {"messaging", "standby", "changes", "calls"}
    attachments = [a for item in items for a in item.value.get("message", {}).get("attachments", ())]
    assert {a["type"] for a in attachments} == {Attachment(kind, 1).webhook_type for kind in KINDS_OF_ATTACHMENTS}
    keys = {key for item in items for key in item.value}
    assert {"pass_thread_control", "take_thread_control", "request_thread_control", "app_roles"} <= keys
    by_kind: dict[str, set[str]] = defaultdict(set)
    for item in items:
        by_kind[item.kind] |= set(item.value.get("message", item.value.get("postback", ())))
    assert {"text", "attachments", "reply_to", "quick_reply", "referral", "is_unsupported"} <= by_kind["message"]
    assert {"text", "attachments", "app_id", "metadata"} <= by_kind["echo"]
    assert {"title", "payload", "referral"} <= by_kind["postback"]
    senders = {item.value["message"].get("app_id") for item in items if item.kind == "echo"}
    assert senders == {int(OUR_APP_ID), int(OTHER_APP_ID), int(PAGE_INBOX_APP_ID), None}


def test_feedback_comes_without_a_timestamp_as_in_metas_sample(world: World) -> None:
    page = world.pages[0]
    psid = next(world.threads(page)).psid
    untimed = {kind for kind in KINDS if "timestamp" not in world.event(page.id, kind, psid)[0].value}
    assert untimed == {"feedback", "inbox_label"}


def test_a_call_is_told_when_it_begins_or_ends(world: World) -> None:
    page = world.pages[0]
    psid = next(world.threads(page)).psid
    calls = [world.event(page.id, "call", psid)[0].value for _ in range(30)]
    assert {call["event"] for call in calls} == {"connect", "terminate"}
    assert {call["to"] for call in calls if call["event"] == "connect"} == {page.id}


@pytest.mark.parametrize("kind", KINDS_OF_ATTACHMENTS)
def test_an_attachments_identity_stands_in_both_doors_forms_of_it_and_in_no_others(world: World, kind: str) -> None:
    one, other = Attachment(kind, 123_456_789_012_345), Attachment(kind, 987_654_321_098_765)
    for pairs in (False, True):
        forms = webhook_forms(one, world.cdn, 1_788_000_000, sticker_pairs=pairs)
        assert all(one.identity in str(form) and other.identity not in str(form) for form in forms)
        assert len(forms) == (2 if pairs and kind == "sticker" else 1)
    shown = [graph_node(one, world.cdn, 1_788_000_000), graph_share(one)]
    by_graph = [str(form) for form in shown if form is not None]
    assert all(one.identity in form for form in by_graph)
    assert (one.graph_type is None) == (not by_graph and kind != "sticker")


@pytest.mark.parametrize(
    ("name", "value"), [("pages", 0), ("conversations_per_page", -1), ("messages_per_conversation", 0)]
)
def test_a_size_out_of_range_is_refused_by_name(name: str, value: int) -> None:
    sizes: dict[str, Any] = {name: value}
    with pytest.raises(WorldError, match=name):
        World(1, **sizes)


def test_what_cannot_happen_is_refused(world: World) -> None:
    page_id, other = (page.id for page in world.pages)
    with pytest.raises(WorldError, match="no Page"):
        world.person_sends("12")
    with pytest.raises(WorldError, match="no person"):
        world.person_sends(page_id, world.somebody(other))
    echo = world.page_sends(page_id)[0].mid
    assert echo is not None
    with pytest.raises(WorldError, match="only a person's text"):
        world.edit(echo)


def test_a_million_messages_cost_less_than_200_mb() -> None:
    tracemalloc.start()
    try:
        world = World(1, pages=10, conversations_per_page=1_000, messages_per_conversation=100, now=TurnedClock())
        said = sum(world.history.count(page.number, c) for page in world.pages for c in range(1_000))
        for page in world.pages:
            for thread in islice(world.threads(page), 0, None, 10):
                assert next(thread.newest_first(), None) is not None
                world.person_sends(page.id, thread.psid)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert said > 950_000
    assert peak < 200 * 1024 * 1024
