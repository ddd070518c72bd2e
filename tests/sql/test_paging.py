"""Pages of a list, while rows arrive between them, are those of a model that knows all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from sql.conversation_lists import Wanted, list_conversations
from sql.messages import list_messages
from sql.tags import create_tag, tag_conversations
from tests.sql.doors import PAGE, at, delivered, item, write
from tests.sql.mirrored import empty
from tests.sql.test_confluence import examples

if TYPE_CHECKING:
    from datetime import datetime

    from sql.conversation_lists import After
    from sql.upsert import Connection

PERSONS = 6
TAGGED = {f"p{n}" for n in range(0, PERSONS, 2)}
STEP_SECONDS = 97  # some lie within one of the spans by which tags are ordered
LISTS = {"all": Wanted(), "of a Page": Wanted(PAGE), "of a tag": Wanted(include_tags=("vip",))}

said = st.tuples(st.integers(0, PERSONS - 1), st.integers(0, 30))
# messages that arrive before the walk, and then in turns a page of so many rows and more messages
walks = st.tuples(st.lists(said, max_size=12), st.lists(st.tuples(st.integers(1, 3), st.lists(said, max_size=3))))


class Model:
    """Every message that was written: by person, when and as what."""

    def __init__(self, mirror: Connection) -> None:
        self._mirror = mirror
        self.said: dict[str, list[tuple[datetime, str]]] = {}

    async def say(self, messages: list[tuple[int, int]]) -> set[str]:
        """Write messages; tells who wrote."""
        for number, step in messages:
            person, mid = f"p{number}", f"m_{sum(map(len, self.said.values())):03}"
            seconds = step * STEP_SECONDS
            told = item("message", {"mid": mid, "text": "hello"}, seconds=seconds, person=person)
            await write(self._mirror, delivered(told))
            self.said.setdefault(person, []).append((at(seconds), mid))
        return {f"p{number}" for number, _ in messages}

    def places(self, wanted: Wanted) -> list[tuple[datetime, str, str]]:
        """The list, newest activity first."""
        persons = [person for person in self.said if not wanted.include_tags or person in TAGGED]
        return sorted(((max(self.said[person])[0], PAGE, person) for person in persons), reverse=True)


async def walk(
    mirror: Connection, model: Model, wanted: Wanted, turns: list[tuple[int, list[tuple[int, int]]]]
) -> None:
    """Follow a list to its end, and look at each page and at all of them."""
    there, moved = {place[2] for place in model.places(wanted)}, set[str]()
    seen: list[tuple[datetime, str, str]] = []
    for limit, arriving in [*turns, (99, [])]:
        after: After | None = seen[-1] if seen else None
        rows = (await list_conversations(mirror, wanted, after=after, limit=limit)).rows
        page = [(row["last_message_at"], row["page_id"], row["psid"]) for row in rows]
        assert page == [place for place in model.places(wanted) if after is None or place < after][:limit]
        seen += page
        moved |= await model.say(arriving)
    persons = [place[2] for place in seen]
    assert len(set(persons)) == len(persons)
    assert there - moved <= set(persons)


@examples(40)
@given(name=st.sampled_from(sorted(LISTS)), told=walks)
async def test_pages_of_conversations_repeat_and_lose_nobody_while_messages_arrive(
    mirror: Connection, name: str, told: tuple[list[tuple[int, int]], list[tuple[int, list[tuple[int, int]]]]]
) -> None:
    await empty(mirror)
    await mirror.execute("DELETE FROM tags")
    model = Model(mirror)
    await model.say([(n, 0) for n in range(PERSONS)])
    await create_tag(mirror, "vip", None)
    await tag_conversations(mirror, [(PAGE, person) for person in TAGGED], add=["vip"])
    before, turns = told
    await model.say(before)
    await walk(mirror, model, LISTS[name], turns)
    await mirror.execute("DELETE FROM tags")


@examples(40)
@given(told=walks)
async def test_pages_of_messages_repeat_and_lose_none_while_others_arrive(
    mirror: Connection, told: tuple[list[tuple[int, int]], list[tuple[int, list[tuple[int, int]]]]]
) -> None:
    await empty(mirror)
    model = Model(mirror)
    before, turns = told
    await model.say([(0, step) for _, step in before])
    there = set(model.said.get("p0", ()))
    seen: list[tuple[datetime, str]] = []
    for limit, arriving in [*turns, (99, [])]:
        after = seen[-1] if seen else None
        rows = await list_messages(mirror, PAGE, "p0", after=after, limit=limit)
        page = [(row["sent_at"], row["mid"]) for row in rows]
        below = sorted((m for m in model.said.get("p0", ()) if after is None or m < after), reverse=True)
        assert page == below[:limit]
        seen += page
        await model.say([(0, step) for _, step in arriving])
    assert len(set(seen)) == len(seen)
    assert there <= set(seen)
