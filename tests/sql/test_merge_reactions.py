"""Reactions: the newest wins, a removal leaves a stone, and Graph's list replaces what is older than it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sql.rows import SENT_UNKNOWN
from tests.sql.doors import (
    PAGE,
    PERSON,
    answered,
    at,
    delivered,
    edited,
    item,
    node,
    reacted,
    said,
    unreacted,
    unsent,
    write,
)
from tests.sql.mirrored import after, mirrored

if TYPE_CHECKING:
    from sql.rows import Row
    from sql.upsert import Connection


def listed(observed: float, **reactions: str) -> list[Row]:
    """Graph's list of reactions: the person's and the Page's."""
    data = [{"reaction": r, "users": [{"id": {"person": PERSON, "page": PAGE}[who]}]} for who, r in reactions.items()]
    return answered(node(reactions={"data": data}), observed=observed, reactions_asked=True)


async def test_the_newest_reaction_of_an_actor_wins(mirror: Connection) -> None:
    stored = await after(mirror, delivered(reacted("❤", seconds=1)), delivered(reacted("😀", seconds=2)))
    assert stored.reactions == {PERSON: "😀"}


async def test_a_removal_leaves_a_stone_that_an_older_reaction_does_not_move(mirror: Connection) -> None:
    stored = await after(mirror, delivered(reacted("❤", seconds=1)), delivered(unreacted(seconds=2)))
    assert stored.reactions == {}
    [stone] = stored["message_reactions"]
    assert (stone["is_removed"], stone["reacted_at"], stone["emoji"]) == (True, at(2), None)


async def test_who_reacts_again_after_a_removal_reacts(mirror: Connection) -> None:
    told = [delivered(unreacted(seconds=2)), delivered(reacted("❤", seconds=3)), delivered(reacted("😀", seconds=1))]
    assert (await after(mirror, *told)).reactions == {PERSON: "❤"}


async def test_at_equal_times_the_removal_wins_then_the_greater_emoji(mirror: Connection) -> None:
    both = [delivered(reacted("❤", seconds=1)), delivered(reacted("😀", seconds=1))]
    assert (await after(mirror, *both)).reactions == {PERSON: "😀"}
    assert (await after(mirror, *both, delivered(unreacted(seconds=1)))).reactions == {}


async def test_a_reaction_without_a_time_of_its_own_loses_to_one_that_has_it(mirror: Connection) -> None:
    real = delivered(reacted("❤", seconds=1))
    estimated = [delivered(reacted(emoji, seconds=None), entry_time=t) for emoji, t in (("😀", 30), ("👍", 31))]
    assert (await after(mirror, real, *estimated)).reactions == {PERSON: "❤"}
    assert (await after(mirror, *estimated)).reactions == {PERSON: "😀"}


async def test_of_estimates_a_microsecond_apart_the_least_wins(mirror: Connection) -> None:
    told = [
        delivered(reacted(emoji, seconds=None), entry_time=None, received=received)
        for emoji, received in (("❤", 60.000001), ("😀", 60.000002))
    ]
    stored = await after(mirror, *told)
    assert stored.reactions == {PERSON: "❤"}
    assert stored["message_reactions"][0]["reacted_at"] == at(60.000001)


async def test_each_actor_has_a_reaction_of_its_own(mirror: Connection) -> None:
    pages = item("reaction", {"mid": "m_one", "action": "react", "emoji": "😀", "reaction": "smile"}, from_page=True)
    assert (await after(mirror, delivered(reacted("❤")), delivered(pages))).reactions == {PAGE: "😀", PERSON: "❤"}


async def test_a_reaction_before_its_message_makes_a_placeholder(mirror: Connection) -> None:
    await write(mirror, delivered(reacted("❤")))
    [placeholder] = (await mirrored(mirror))["messages"]
    assert (placeholder["psid"], placeholder["sent_at"], placeholder["sent_at_rank"]) == (PERSON, None, SENT_UNKNOWN)
    stored = await after(mirror, delivered(reacted("❤")), delivered(said("hi")))
    assert (stored.message["text"], stored.reactions) == ("hi", {PERSON: "❤"})


async def test_nothing_is_stored_on_an_unsent_message(mirror: Connection) -> None:
    told = [delivered(reacted("❤", seconds=9)), delivered(unsent(seconds=1)), listed(5, page="love")]
    assert (await after(mirror, *told))["message_reactions"] == []


# -- Graph's list -------------------------------------------------------------------------------------------------


async def test_graphs_list_replaces_what_is_older(mirror: Connection) -> None:
    stored = await after(mirror, delivered(reacted("❤", seconds=1)), listed(5, page="😀"))
    assert stored.reactions == {PAGE: "😀"}
    assert stored.message["reactions_observed_at"] == at(5)


async def test_graphs_empty_list_takes_away_what_is_older(mirror: Connection) -> None:
    told = [delivered(reacted("❤", seconds=4.999)), delivered(unreacted(seconds=3))]
    assert (await after(mirror, *told, listed(5)))["message_reactions"] == []


async def test_what_is_as_new_as_graphs_list_stands_beside_it(mirror: Connection) -> None:
    stored = await after(mirror, delivered(reacted("❤", seconds=5)), listed(5, person="😀", page="love"))
    assert stored.reactions == {PERSON: "❤", PAGE: "love"}


async def test_a_removal_newer_than_graphs_list_beats_it(mirror: Connection) -> None:
    assert (await after(mirror, listed(5, person="❤"), delivered(unreacted(seconds=6)))).reactions == {}


async def test_an_estimate_loses_to_graphs_list(mirror: Connection) -> None:
    estimated = delivered(reacted("❤", seconds=None), entry_time=999)
    assert (await after(mirror, estimated, listed(5, page="😀"))).reactions == {PAGE: "😀"}


async def test_of_two_lists_the_newer_reading_stands(mirror: Connection) -> None:
    stored = await after(mirror, listed(5, person="❤", page="😀"), listed(6, person="😀"))
    assert stored.reactions == {PERSON: "😀"}


async def test_of_two_lists_read_at_once_one_stands_whole(mirror: Connection) -> None:
    stored = await after(mirror, listed(5, person="❤"), listed(5, person="😀"))
    assert stored.reactions == {PERSON: "😀"}


async def test_a_list_stands_though_a_newer_one_of_the_webhooks_was_older(mirror: Connection) -> None:
    told = [listed(5, person="love"), delivered(reacted("😀", seconds=6)), listed(7, person="wow")]
    assert (await after(mirror, *told)).reactions == {PERSON: "wow"}


async def test_reactions_that_were_not_asked_for_are_no_list(mirror: Connection) -> None:
    stored = await after(mirror, delivered(reacted("❤", seconds=1)), answered(node(), observed=5))
    assert stored.reactions == {PERSON: "❤"}
    assert stored.message["reactions_observed_at"] is None


async def test_another_change_of_the_message_leaves_reactions_as_they_are(mirror: Connection) -> None:
    told: list[Any] = [listed(5, person="❤"), delivered(unreacted(seconds=6)), delivered(edited("new", seconds=7))]
    stored = await after(mirror, *told)
    assert (stored.message["text"], stored.reactions) == ("new", {})


async def test_a_name_of_graphs_is_a_reaction_and_any_other_text_an_emoji(mirror: Connection) -> None:
    rows = (await after(mirror, listed(5, person="love", page="❤")))["message_reactions"]
    assert [(r["actor"], r["reaction"], r["emoji"]) for r in rows] == [(PAGE, None, "❤"), (PERSON, "love", None)]
