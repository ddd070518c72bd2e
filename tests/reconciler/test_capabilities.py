from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.capabilities import Questions
from reconciler.graph.errors import RateLimited
from simulator import parse_fault
from sql.capabilities import list_capabilities

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Literal

    from tests.reconciler.stage import Stage


def questions(stage: Stage) -> Questions:
    return Questions(stage.pool, stage.client(), stage.page.id, stage.page.access_token)


async def answers(stage: Stage) -> dict[str, str]:
    await questions(stage).ask_all()
    async with stage.pool.acquire() as connection:
        return {row["name"]: row["answer"] for row in await list_capabilities(connection, stage.page.id)}


@pytest.mark.parametrize("behaves", ["ignored", "honoured", "refused", "lying"])
async def test_what_a_graph_does_with_since_is_found_out(
    make_stage: Callable[..., Awaitable[Stage]], behaves: Literal["ignored", "honoured", "refused", "lying"]
) -> None:
    stage = await make_stage(conversations=60)
    stage.graph.behaviour.since = behaves
    assert (await questions(stage).since()).answer == behaves


async def test_too_few_conversations_tell_nothing_of_since(make_stage: Callable[..., Awaitable[Stage]]) -> None:
    stage = await make_stage(conversations=2)
    assert (await questions(stage).since()).answer == "unknown"


async def test_answers_are_stored_per_page_and_replaced_when_asked_again(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage(conversations=60, messages=40)
    found = await answers(stage)
    assert found == {
        "details_beyond_20_messages": "yes",
        "list_limit": "500",
        "list_order": "newest first",
        "reactions_move_updated_time": "unknown",
        "since": "ignored",
        "webhook_mid_is_graph_id": "unknown",
    }
    stage.graph.behaviour.since = "honoured"
    stage.graph.behaviour.twenty_newest = True
    stage.graph.behaviour.order = "shuffled"
    again = await answers(stage)
    changed = {name for name, answer in again.items() if answer != found[name]}
    assert changed == {"since", "details_beyond_20_messages", "list_order"}


async def test_few_calls_are_made(make_stage: Callable[..., Awaitable[Stage]]) -> None:
    stage = await make_stage(conversations=100)
    await answers(stage)
    assert len(stage.graph.calls_of(stage.page.id)) <= 8


async def test_a_message_that_both_doors_brought_under_one_id_answers_the_first_question(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage()
    await stage.sync()
    await stage.do("UPDATE messages SET webhook_seen_at = sync_seen_at WHERE mid = (SELECT min(mid) FROM messages)")
    assert (await answers(stage))["webhook_mid_is_graph_id"] == "yes"


@pytest.mark.parametrize("answer", ["yes", "no"])
async def test_a_reaction_younger_than_all_messages_answers_whether_it_moves_updated_time(
    make_stage: Callable[..., Awaitable[Stage]], answer: str
) -> None:
    stage = await make_stage()
    await stage.sync()
    row = await stage.one("SELECT * FROM messages WHERE sent_at IS NOT NULL ORDER BY sent_at DESC, mid LIMIT 1")
    reacted = max(row["sent_at"], datetime(2031, 1, 1, tzinfo=UTC)) + timedelta(hours=1)
    await stage.do(
        """
        INSERT INTO message_reactions (page_id, mid, actor, emoji, is_removed, reacted_at, updated_at)
        VALUES ($1, $2, $3, 'x', false, $4, now())
        """,
        *(row["page_id"], row["mid"], row["psid"], reacted),
    )
    updated = reacted if answer == "yes" else row["sent_at"]
    ms = [int(at.timestamp() * 1000) for at in (updated, reacted + timedelta(hours=1))]
    await stage.do(
        "UPDATE conversations SET graph = $2::text::jsonb WHERE psid = $1",
        *(row["psid"], json.dumps({"updated_time": [ms[0], ms[1], ms[0]]})),
    )
    assert (await answers(stage))["reactions_move_updated_time"] == answer


async def test_a_limit_ends_the_asking(make_stage: Callable[..., Awaitable[Stage]]) -> None:
    stage = await make_stage(conversations=60)
    stage.faults.add(parse_fault("throttled#3"))
    with pytest.raises(RateLimited):
        await questions(stage).ask_all()
    assert len(stage.graph.calls_of(stage.page.id)) == 3
