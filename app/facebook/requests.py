"""See to what Facebook asked for: find whose conversations are meant, and which tokens are dead.

What can be known. Both callbacks name a person by an id that is our app's alone (app-scoped): it is nobody's PSID, and
exists only for who logged in to our app, as those do who give a Page's token. Meta's ID matching tells such a person's
PSIDs for Pages of the same business (`ids_for_pages`, with the app's own token); it may refuse. What it does not
tell, nobody here can know: then the request is left to the owner, and its page says so.

Which Pages a person gave tokens for is asked of Graph, token by token (`debug_token` names the person it came from).
Where it can't be asked, the Page's next sync is made due: a dead token is found by it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from app.erasing import begin_erasure
from reconciler.graph.errors import GraphError, GraphUnavailable, RateLimited
from reconciler.tokens import TokenUnreadableError
from sql.facebook_requests import claim_request, conversations_of, finish_request, note_outcome
from sql.pace import bring_forward
from sql.pages import list_pages, read_page, stop_page

if TYPE_CHECKING:
    from app.settings import Settings
    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from sql.facebook_requests import FacebookRequest
    from sql.pages import Page
    from sql.pool import Pool

log = structlog.get_logger(__name__)

EVERY_SECONDS = 10.0
AGAIN_AFTER = timedelta(minutes=10)
GIVEN_UP_AFTER = timedelta(days=7)
MOST_PAGES_OF_IDS = 20
LANE = "facebook-requests"  # calls for no Page: a rate of their own
WITHDRAWN = "the person who gave its token took that back at Facebook: add the Page again"


class _Found(NamedTuple):
    """Whose conversations are meant, and why nobody's, where that is so."""

    persons: list[tuple[str, str]]
    trouble: str | None = None


class FacebookRequests:
    """Sees to requests. Any number may run: each takes on what no other has."""

    def __init__(self, pool: Pool, graph: GraphClient, tokens: TokenBox, settings: Settings) -> None:
        self._pool, self._graph, self._tokens = pool, graph, tokens
        self._app_token = settings.app_token

    async def run_once(self, now: datetime | None = None) -> dict[str, int]:
        """See to all that waits; returns how many requests were tried, and how many ended."""
        tried = ended = 0
        now = now or datetime.now(UTC)
        while (request := await self._claim(now)) is not None:
            tried += 1
            done = self._delete(request, now) if request.kind == "data_deletion" else self._deauthorize(request, now)
            ended += await done
        return {"tried": tried, "ended": ended}

    async def _claim(self, now: datetime) -> FacebookRequest | None:
        async with self._pool.acquire() as connection:
            return await claim_request(connection, now, again_after=AGAIN_AFTER)

    # -- that a person's data go ---------------------------------------------------------------------------------

    async def _delete(self, request: FacebookRequest, now: datetime) -> bool:
        try:
            found = await self._persons(request.user_id or "")
        except (GraphUnavailable, RateLimited) as error:
            if now - request.received_at < GIVEN_UP_AFTER:
                async with self._pool.acquire() as connection:
                    await note_outcome(connection, request.code, f"tried again later: {error}")
                return False
            found = _Found([], str(error))
        for page_id, psid in found.persons:
            await begin_erasure(self._pool, page_id, psid, before=request.received_at, requested_by="facebook", now=now)
        state = "unmatched" if found.trouble is not None and not found.persons else "done"
        outcome = found.trouble or f"{len(found.persons)} conversations erased"
        await self._finish(request, state, outcome, now, found.persons)
        return True

    async def _persons(self, user_id: str) -> _Found:
        """Find the person's conversations: by the id itself, and by what Graph tells it is for each Page.

        Raises:
            GraphUnavailable, RateLimited: Graph can't be asked now.

        """
        async with self._pool.acquire() as connection:
            persons = await conversations_of(connection, user_id)
        if self._app_token is None:
            return _Found(persons, "FACEBOOK_APP_ID is not set, so Graph can't be asked whose id this is")
        try:
            ids = await self._ids_for_pages(user_id)
        except (GraphUnavailable, RateLimited):
            raise
        except GraphError as error:
            return _Found(persons, f"Graph does not tell whose id this is: {error}")
        return _Found(sorted({*persons, *ids}))

    async def _ids_for_pages(self, user_id: str) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        params: dict[str, str | int] = {"fields": "id,page", "limit": 100}
        for _ in range(MOST_PAGES_OF_IDS):
            answer = await self._graph.get(self._app_token or "", LANE, f"{user_id}/ids_for_pages", params)
            rows = answer.data.get("data")
            for row in rows if isinstance(rows, list) else []:
                page = row.get("page") if isinstance(row, dict) else None
                if isinstance(page, dict) and page.get("id") and row.get("id"):
                    found.add((str(page["id"]), str(row["id"])))
            after = _after(answer.data.get("paging"))
            if after is None:
                break
            params["after"] = after
        return found

    # -- that a person, or a Page, took back what they allowed ----------------------------------------------------

    async def _deauthorize(self, request: FacebookRequest, now: datetime) -> bool:
        async with self._pool.acquire() as connection:
            pages = [row["page_id"] for row in await list_pages(connection) if row["state"] == "active"]
        stopped = unsure = 0
        for page_id in pages:
            async with self._pool.acquire() as connection:
                page = await read_page(connection, page_id)
            if page is None:
                continue
            is_theirs = page_id == request.page_id or await self._is_theirs(page, request.user_id)
            async with self._pool.acquire() as connection:
                if is_theirs:
                    await stop_page(connection, page, "needs_reauth", WITHDRAWN, now=now)
                    stopped += 1
                elif is_theirs is None:
                    await bring_forward(connection, {page_id: now})
                    unsure += 1
        outcome = f"{stopped} of {len(pages)} Pages need a new token; {unsure} are synced at once to find out"
        await self._finish(request, "done", outcome, now)
        return True

    async def _is_theirs(self, page: Page, user_id: str | None) -> bool | None:
        """Tell whether a Page's token came from this person, or is dead; None where Graph does not tell."""
        if self._app_token is None:
            return None
        try:
            token = self._tokens.open(page.token_encrypted)
            data = await self._graph.debug_token(self._app_token, LANE, token)
        except (TokenUnreadableError, GraphError):
            return None
        if data is None or "is_valid" not in data:
            return None
        return not data["is_valid"] or (user_id is not None and str(data.get("user_id")) == user_id)

    async def _finish(
        self,
        request: FacebookRequest,
        state: str,
        outcome: str,
        now: datetime,
        persons: list[tuple[str, str]] | None = None,
    ) -> None:
        async with self._pool.acquire() as connection:
            await finish_request(connection, request.code, state=state, outcome=outcome, persons=persons or (), now=now)
        log.info("facebook_request_ended", kind=request.kind, code=request.code, state=state, outcome=outcome)


def _after(paging: Any) -> str | None:
    cursors = paging.get("cursors") if isinstance(paging, dict) and paging.get("next") else None
    after = cursors.get("after") if isinstance(cursors, dict) else None
    return after if isinstance(after, str) and after else None
