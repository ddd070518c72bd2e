"""Whether a Page's list of conversations heeds `since`: every audit proves it again.

Meta documents that this edge has no time paging. Where it is found to have one, incremental runs send `since` and are
spared the old end of the list. So a `since` that hides something costs messages, until an audit sees them; then it is
not sent any more, and no audit trusts it again by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from reconciler.capabilities import SINCE, Questions, SinceProbe
from sql.capabilities import Capability, list_capabilities, put_capabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.graph.client import GraphClient
    from reconciler.graph.payload import ConversationNode
    from sql.pages import Page
    from sql.pool import Pool

log = structlog.get_logger(__name__)

_HONOURED, _LYING, _UNKNOWN = "honoured", "lying", "unknown"


class SinceProof:
    """One audit's. `saved` is its part of the run's checkpoint."""

    def __init__(self, pool: Pool, client: GraphClient, page: Page, token: str, saved: dict[str, Any] | None) -> None:
        self._pool, self._page = pool, page
        self._questions = Questions(pool, client, page.page_id, token)
        self.is_done = bool(saved and saved["is_done"])
        self._probe = SinceProbe(saved["since"], tuple(saved["expected"])) if saved and saved["expected"] else None
        self._is_trusted = page.honours_since

    @property
    def saved(self) -> dict[str, Any]:
        """For the checkpoint."""
        since, expected = self._probe or (None, ())
        return {"is_done": self.is_done, "since": since, "expected": list(expected)}

    @property
    def cost(self) -> int:
        """How many calls the proof will make."""
        return 1 if self._probe else 2

    def note_newest(self, nodes: Sequence[ConversationNode]) -> None:
        """Note what the list begins with, read without `since`."""
        self._probe = SinceProbe.of(nodes)

    async def note_missed(self, missed: int) -> None:
        """Note conversations that earlier runs should have seen: where these sent `since`, it has hidden them."""
        if missed and self._is_trusted:
            await self._put(Capability(SINCE, _LYING, f"an audit found {missed} conversations that it had hidden"))

    async def prove(self) -> None:
        """Ask for the list with `since`; what can't be told leaves what is known.

        Raises:
            GraphError: the token is dead, or Meta asks to wait.

        """
        async with self._pool.acquire() as connection:
            known = {c["name"]: c["answer"] for c in await list_capabilities(connection, self._page.page_id)}
        if known.get(SINCE) != _LYING:
            found = await (self._questions.heeds(self._probe) if self._probe else self._questions.since())
            if found.answer != _UNKNOWN or SINCE not in known:
                await self._put(found)
        self.is_done = True
        self._probe = None

    async def _put(self, found: Capability) -> None:
        if self._is_trusted and found.answer != _HONOURED:
            log.warning("since_not_trusted", page_id=self._page.page_id, answer=found.answer, reason=found.detail)
        self._is_trusted = found.answer == _HONOURED
        async with self._pool.acquire() as connection:
            await put_capabilities(connection, self._page.page_id, [found])
