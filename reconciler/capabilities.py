"""The open questions about a live Page's Graph (Graph sheet, section 9), asked with few calls.

Nothing relies on an answer but the use of `since`, which is sent only where it is known to be honoured; the others are
for who looks into trouble. A batch of 50 is not tried: it may well use up the Page's limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from reconciler.graph.errors import FieldRefused, GraphError, NotFound, RateLimited, TokenDead
from reconciler.graph.paging import next_cursor, rows_of
from reconciler.reading import read_conversations
from sql.capabilities import Capability, count_doors, put_capabilities, reactions_that_moved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.graph.client import GraphClient
    from reconciler.graph.payload import ConversationNode
    from sql.pool import Pool

SINCE = "since"
_ENDS_THE_ASKING = (TokenDead, RateLimited)
_LIMITS = (500, 200, 100)
_PAGES_OF_ORDER = 3
_PROBED = 25  # conversations: an answer of 100 holds all that are expected, whatever comes in between two calls
# Conversations that it must not hide: among fewer, one that hides some may well hide none. Where there are as few, the
# list is soon walked anyway.
_PROVEN_BY = _PROBED // 2


class SinceProbe(NamedTuple):
    """A time (epoch seconds, as the time paging of other edges takes it) and conversations that are not older."""

    since: int
    expected: tuple[str, ...]

    @classmethod
    def of(cls, newest: Sequence[ConversationNode]) -> SinceProbe | None:
        """Take the middle of the first conversations of the list; None where there are too few to tell."""
        nodes = newest[:_PROBED]
        times = sorted({node.updated_time for node in nodes}, reverse=True)
        if len(times) < 3:
            return None
        middle = times[len(times) // 2]
        return cls(int(middle.timestamp()), tuple(node.id for node in nodes if node.updated_time >= middle))


class Questions:
    """Asks one Page."""

    def __init__(self, pool: Pool, client: GraphClient, page_id: str, token: str) -> None:
        self._pool, self._client, self._page_id, self._token = pool, client, page_id, token

    async def ask_all(self) -> list[Capability]:
        """Ask every question and store the answers.

        Raises:
            GraphError: the token is dead, or Meta asks to wait; what was answered until then is not stored.

        """
        found = [
            await self._same_ids(),
            await self.since(),
            await self._order(),
            await self._most_rows(),
            await self._old_details(),
            await self._reactions_move(),
        ]
        async with self._pool.acquire() as connection:
            await put_capabilities(connection, self._page_id, found)
        return found

    async def since(self) -> Capability:
        """Ask whether the list of conversations heeds `since`: by one call without it and one with it.

        Raises:
            GraphError: the token is dead, or Meta asks to wait.

        """
        try:
            plain = read_conversations(await self._list(limit=25))[0]
            probe = SinceProbe.of(plain)
            if probe is None:
                return Capability(SINCE, "unknown", "too few conversations to tell")
            return await self.heeds(probe)
        except _ENDS_THE_ASKING:
            raise
        except GraphError as error:
            return Capability(SINCE, "unknown", str(error))

    async def heeds(self, probe: SinceProbe) -> Capability:
        """Ask the same by one call, where the list is known without `since`.

        Raises:
            GraphError: the token is dead, or Meta asks to wait.

        """
        try:
            values = await self._list(limit=100, since=probe.since)
        except _ENDS_THE_ASKING:
            raise
        except (NotFound, FieldRefused) as error:
            return Capability(SINCE, "refused", str(error))
        except GraphError as error:
            return Capability(SINCE, "unknown", str(error))
        filtered = read_conversations(values)[0]
        hidden = len(set(probe.expected) - {node.id for node in filtered})
        if hidden:
            return Capability(SINCE, "lying", f"{hidden} conversations that are newer were left out")
        if any(node.updated_time.timestamp() < probe.since for node in filtered):
            return Capability(SINCE, "ignored")
        if len(probe.expected) < _PROVEN_BY:
            return Capability(SINCE, "unknown", "too few conversations to tell")
        return Capability(SINCE, "honoured")

    async def _same_ids(self) -> Capability:
        async with self._pool.acquire() as connection:
            both, webhook, sync = await count_doors(connection, self._page_id)
        detail = f"{both} messages by both doors, {webhook} by webhook alone, {sync} by sync alone"
        return Capability("webhook_mid_is_graph_id", "yes" if both else "unknown", detail)

    async def _reactions_move(self) -> Capability:
        async with self._pool.acquire() as connection:
            moved, unmoved = await reactions_that_moved(connection, self._page_id)
        answer = "unknown" if not moved and not unmoved else "no" if unmoved else "yes"
        return Capability("reactions_move_updated_time", answer, f"{moved} did, {unmoved} did not")

    async def _order(self) -> Capability:
        cursor, last, rows = None, None, 0
        for _ in range(_PAGES_OF_ORDER):
            answer = await self._try(f"{self._page_id}/conversations", {"limit": 25, **_after(cursor)})
            if isinstance(answer, GraphError):
                return Capability("list_order", "unknown", str(answer))
            for row in _listed(answer):
                if last is not None and row["updated_time"] > last:
                    return Capability("list_order", "violated", f"after {rows} conversations")
                last, rows = row["updated_time"], rows + 1
            cursor = next_cursor(answer)
            if cursor is None:
                break
        return Capability("list_order", "newest first" if rows > 1 else "unknown", f"in {rows} conversations")

    async def _most_rows(self) -> Capability:
        reason = "no limit was taken"
        for limit in _LIMITS:
            answer = await self._try(f"{self._page_id}/conversations", {"limit": limit})
            if not isinstance(answer, GraphError):
                return Capability("list_limit", str(limit), f"{len(_listed(answer))} conversations came")
            reason = str(answer)
        return Capability("list_limit", "unknown", reason)

    async def _old_details(self) -> Capability:
        """Whether a message that is not among the 20 newest of its conversation is shown whole."""
        answer = await self._try(
            f"{self._page_id}/conversations", {"limit": 10, "fields": "id,updated_time,messages.limit(30){id,from}"}
        )
        if isinstance(answer, GraphError):
            return Capability("details_beyond_20_messages", "unknown", str(answer))
        for row in _listed(answer):
            nested = row.get("messages")
            messages = nested.get("data") if isinstance(nested, dict) else None
            if isinstance(messages, list) and len(messages) > 20:
                whole = all(isinstance(m, dict) and "from" in m for m in messages[20:])
                return Capability("details_beyond_20_messages", "yes" if whole else "no")
        return Capability("details_beyond_20_messages", "unknown", "no conversation is long enough")

    async def _list(self, **params: str | int) -> list[Any]:
        answer = await self._client.get(
            self._token,
            self._page_id,
            f"{self._page_id}/conversations",
            {"platform": "messenger", "fields": "id,updated_time", **params},
        )
        return rows_of(answer.data)

    async def _try(self, path: str, params: dict[str, str | int]) -> dict[str, Any] | GraphError:
        asked: dict[str, str | int] = {"platform": "messenger", "fields": "id,updated_time", **params}
        try:
            return (await self._client.get(self._token, self._page_id, path, asked)).data
        except _ENDS_THE_ASKING:
            raise
        except GraphError as error:
            return error


def _after(cursor: str | None) -> dict[str, str]:
    return {"after": cursor} if cursor is not None else {}


def _listed(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that have what is compared. Times are compared as text: Graph writes them all in one form and zone."""
    return [
        row
        for row in rows_of(data)
        if isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("updated_time"), str)
    ]
