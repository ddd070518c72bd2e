"""Ask Graph for a Page's conversations and messages: as much at a time as it gives, and only what it knows.

How much Graph gives differs by Page and by day. So there are ladders: a step down when an answer was too heavy, with
the same cursor, and a step up again after some that were not. Below each ladder is the least to ask for: one
conversation or message that Graph can't show is told by it from a Graph that is away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import structlog

from reconciler.capabilities import SINCE
from reconciler.graph.errors import BadAnswer, FieldRefused, GraphUnavailable, NotFound, TooHeavy
from sql.capabilities import Capability, put_capabilities
from sql.pages import drop_field

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from reconciler.graph.client import Answer, GraphClient
    from reconciler.graph.errors import GraphError
    from sql.pages import Page
    from sql.pool import Pool

log = structlog.get_logger(__name__)

STEP_UP_AFTER = 8  # answers in a row
MOST_ROWS, NESTED = 100, 20  # of an answer; recent messages in each listed conversation
_CONVERSATION_FIELDS = ("id", "updated_time", "participants", "message_count", "unread_count", "can_reply")
_MESSAGE_FIELDS = (
    "id",
    "created_time",
    "from",
    "to",
    "message",
    "attachments",
    "sticker",
    "shares{id,link,name,description}",
    "reply_to",
)
_LEAN_MESSAGE_FIELDS = ("id", "created_time", "from", "to", "message")
_NEEDED_FIELDS = {"id", "updated_time", "created_time"}
_PART_OF = {"link": "shares", "name": "shares", "description": "shares"}  # of which field it was asked for


class Rung(NamedTuple):
    """How much to ask for: rows, recent messages nested in each, and of a message only the least."""

    limit: int
    nested: int = 0
    is_lean: bool = False


_LIST = (*(Rung(limit, NESTED) for limit in (MOST_ROWS, 50, 25, 10, 5, 1)), Rung(1, 5))
_ONE = (Rung(1, NESTED), Rung(1, 5))
_MESSAGES = tuple(Rung(limit) for limit in (MOST_ROWS, 50, 25, 10, 5, 1))


class Ladder:
    """Where we stand between asking for much and for little; `least` is what is left when even the lowest is too much.

    The least is asked for once, by whoever needs it: what it leaves out would be missing from every other answer.
    """

    def __init__(self, rungs: Sequence[Rung], least: Rung, at: int = 0) -> None:
        self._rungs, self._least = rungs, least
        self.at = min(max(at, 0), len(rungs) - 1)
        self._in_a_row = 0

    @property
    def rung(self) -> Rung:
        """What to ask for now."""
        return self._rungs[self.at]

    def went_well(self, rung: Rung) -> None:
        """Go a step up after some answers in a row."""
        self._in_a_row = self._in_a_row + 1 if rung == self.rung else 0
        if self._in_a_row >= STEP_UP_AFTER and self.at > 0:
            self.at -= 1
            self._in_a_row = 0

    def below(self, rung: Rung) -> Rung | None:
        """Go a step below `rung`, None when there is nothing below. Others who ask may have gone there already."""
        self._in_a_row = 0
        if rung == self._least:
            return None
        if rung == self._rungs[-1]:
            return self._least
        self.at = max(self.at, self._rungs.index(rung) + 1)
        return self.rung

    def apart(self, rung: Rung) -> Rung | None:
        """What to ask for instead of `rung` to tell a row that can't be shown; None when there is nothing less.

        The least tells the threads of a list; a message stands alone on the lowest rung already, with all its fields.
        """
        if rung == self._least:
            return None
        if self._least.limit > 1 or rung == self._rungs[-1]:
            return self._least
        self.at = len(self._rungs) - 1
        return self.rung


class Told(NamedTuple):
    """An answer, and what was asked for.

    `has_reactions`: only then an absent list of them is an empty one. `is_lean`: what is heavy was left out.
    """

    answer: Answer
    has_reactions: bool = False
    is_lean: bool = False


class Asker:
    """Asks in one Page's name. `at` is where its ladders stood, from a run's checkpoint.

    `since` is sent along with the list's calls, for a Page that honours it: an answer then ends there. Nothing else
    depends on it.
    """

    def __init__(
        self,
        pool: Pool,
        client: GraphClient,
        page: Page,
        token: str,
        *,
        asks_reactions: bool,
        at: dict[str, int],
        since: datetime | None = None,
    ) -> None:
        self._pool, self._client, self._page, self._token = pool, client, page, token
        self._since = since
        self._dropped = set(page.dropped_fields)
        self._asks_reactions = asks_reactions
        self._list = Ladder(_LIST, Rung(25, 0), at.get("list", 0))
        self._messages = Ladder(_MESSAGES, Rung(1, is_lean=True), at.get("messages", 0))

    @property
    def at(self) -> dict[str, int]:
        """Where the ladders stand, for the checkpoint."""
        return {"list": self._list.at, "messages": self._messages.at}

    @property
    def sends_since(self) -> bool:
        """Whether `since` is sent along, for the checkpoint."""
        return self._since is not None

    @property
    def calls(self) -> int:
        """How many calls were made for this Page, in this process."""
        return self._client.calls.get(self._page.page_id, 0)

    async def conversations(self, cursor: str | None) -> Told:
        """Ask for a page of the Page's list, with recent messages nested.

        Raises:
            GraphError: of any kind; too heavy means that even the least was.

        """
        path = f"{quote(self._page.page_id, safe='')}/conversations"
        params = {"platform": "messenger"} | ({"after": cursor} if cursor is not None else {})
        refusal = None
        if self._since is not None:
            since = str(int(self._since.timestamp()))
            try:
                return await self._ask(path, params | {"since": since}, self._list, self._node)
            except (NotFound, BadAnswer) as error:
                refusal = error
        told = await self._ask(path, params, self._list, self._node)
        if refusal is not None:  # else the cursor was stale, or whatever it was
            await self._stop_sending_since(refusal)
        return told

    async def _stop_sending_since(self, refusal: GraphError) -> None:
        log.warning("since_refused", page_id=self._page.page_id, reason=str(refusal))
        self._since = None
        async with self._pool.acquire() as connection:
            await put_capabilities(connection, self._page.page_id, [Capability(SINCE, "refused", str(refusal))])

    async def conversation(self, thread_id: str) -> Told:
        """Ask for one conversation by its id, with recent messages nested."""
        return await self._ask(quote(thread_id, safe=""), {}, Ladder(_ONE, Rung(1, 0)), self._node)

    async def messages(self, thread_id: str, cursor: str | None) -> Told:
        """Ask for a page of a conversation's messages.

        Where Graph refuses the details of old ones as if they were deleted (documented for all but the 20 newest of a
        conversation), and with them the whole page, it is asked for their ids and times alone: stubs.

        Raises:
            GraphError: of any kind; too heavy means that even the least was.

        """
        path = f"{quote(thread_id, safe='')}/messages"
        params = {"after": cursor} if cursor is not None else {}
        try:
            return await self._ask(path, params, self._messages, self._message)
        except NotFound as error:
            if "deleted" not in str(error):
                raise
            log.info("details_refused", page_id=self._page.page_id, thread_id=thread_id, reason=str(error))
        return await self._ask(path, params, self._messages, lambda _rung: "id,created_time")

    async def _ask(self, path: str, params: dict[str, str], ladder: Ladder, fields: Callable[[Rung], str]) -> Told:
        rung = ladder.rung
        while True:
            wanted = fields(rung)
            asked: dict[str, str | int] = {**params, "fields": wanted}
            if "/" in path:
                asked["limit"] = rung.limit
            try:
                answer = await self._client.get(self._token, self._page.page_id, path, asked)
            except TooHeavy as error:
                below = ladder.below(rung)
                if below is None:
                    raise
                log.info("graph_too_heavy", page_id=self._page.page_id, asked=rung, reason=str(error))
                rung = below
            except GraphUnavailable as error:
                # Graph answers, but again and again not this: a row of it may be what it can't show
                below = ladder.apart(rung) if error.code is not None else None
                if below is None:
                    raise
                log.warning("graph_asked_for_less", page_id=self._page.page_id, path=path, reason=str(error))
                rung = below
            except FieldRefused as error:
                await self._drop(error)
            else:
                ladder.went_well(rung)
                return Told(answer, "reactions" in wanted, rung.is_lean)

    async def _drop(self, error: FieldRefused) -> None:
        """Go on without a field that Graph does not know for this Page, and remember it."""
        field = _PART_OF.get(error.field or "", error.field)
        known = {_name(f) for f in (*_CONVERSATION_FIELDS, *_MESSAGE_FIELDS, "reactions", "messages")}
        if field is None or field in self._dropped | _NEEDED_FIELDS or field not in known:
            raise BadAnswer(f"Graph refuses a field that can't be left out: {error}") from error
        log.warning("field_dropped", page_id=self._page.page_id, field=field)
        self._dropped.add(field)
        async with self._pool.acquire() as connection:
            await drop_field(connection, self._page.page_id, field)

    def _message(self, rung: Rung) -> str:
        names = [*(_LEAN_MESSAGE_FIELDS if rung.is_lean else _MESSAGE_FIELDS)]
        names += ["reactions"] if self._asks_reactions and not rung.is_lean else []
        return ",".join(name for name in names if _name(name) not in self._dropped)

    def _node(self, rung: Rung) -> str:
        own = ",".join(name for name in _CONVERSATION_FIELDS if name not in self._dropped)
        if not rung.nested or "messages" in self._dropped:
            return own
        return f"{own},messages.limit({rung.nested}){{{self._message(rung)}}}"


def _name(field: str) -> str:
    return field.partition("{")[0]
