"""The watchdog: asks Graph whether each Page's webhooks are still subscribed, and subscribes again what is missing.

Meta drops subscriptions with no error anywhere: an admin edits them, or an hour of failed deliveries ends them
(webhooks sheet, section 3; Graph sheet, section 5). One field that is not permitted may fail the whole call, so after
a refusal each is asked for alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog

from reconciler.graph.errors import GraphError, GraphUnavailable, RateLimited, TokenDead
from reconciler.tokens import TokenUnreadableError
from sql.pace import bring_forward
from sql.pages import read_page
from sql.subscriptions import (
    claim_checks,
    read_wish,
    record_check,
    record_failed_check,
    want_no_webhooks,
    want_webhooks,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from sql.pool import Pool

log = structlog.get_logger(__name__)

EVERY_SECONDS = 5.0  # a Page that was just added waits no longer for its webhooks
CHECKS_AT_A_TIME = 50
# for a full mirror (webhooks sheet, section 5). Without `response_feedback`: subscribing it shows thumbs on every
# message that the app sends.
WANTED_FIELDS = (
    "business_integrity",
    "inbox_labels",
    "message_context",
    "message_deliveries",
    "message_echoes",
    "message_edits",
    "message_reactions",
    "message_reads",
    "messages",
    "messaging_account_linking",
    "messaging_customer_information",
    "messaging_feedback",
    "messaging_handovers",
    "messaging_in_thread_lead_form_submit",
    "messaging_integrity",
    "messaging_optins",
    "messaging_optouts",
    "messaging_policy_enforcement",
    "messaging_postbacks",
    "messaging_referrals",
    "send_cart",
    "standby",
)
_NOT_ABOUT_THE_FIELDS = (TokenDead, RateLimited, GraphUnavailable)


class Subscription(NamedTuple):
    """What a check found: fields subscribed now, those that had been missing, those that Graph refuses, and why."""

    subscribed: frozenset[str]
    missing: frozenset[str]
    refused: frozenset[str]
    error: str | None


class Watchdog:
    """Checks the subscriptions of Pages that are due. `app_id` is ours among the apps that a Page may have."""

    def __init__(
        self,
        pool: Pool,
        client: GraphClient,
        tokens: TokenBox,
        *,
        app_id: str | None,
        on_repair: Callable[[str], None] = lambda _page_id: None,
    ) -> None:
        self._pool, self._client, self._tokens, self._app_id, self._on_repair = pool, client, tokens, app_id, on_repair

    async def run_once(self) -> dict[str, int]:
        """Check what is due; returns how many Pages were checked, and how many had lost something."""
        async with self._pool.acquire() as connection:
            due = await claim_checks(connection, limit=CHECKS_AT_A_TIME)
        repaired = 0
        for page_id in due:
            found = await self.check(page_id)
            repaired += bool(found and found.missing)
        return {"checked": len(due), "repaired": repaired}

    async def check(self, page_id: str) -> Subscription | None:
        """Check one Page and mend what is missing; None when Graph could not be asked, which is kept as its error."""
        async with self._pool.acquire() as connection:
            page = await read_page(connection, page_id)
            wish = await read_wish(connection, page_id)
        if page is None:
            return None
        try:
            token = self._tokens.open(page.token_encrypted)
            if not wish.is_wanted:
                present = await subscribed_fields(self._client, token, page_id, self._app_id)
                return Subscription(present, frozenset(), frozenset(), None)
            found = await self._mended(token, page_id, wish.refused)
        except (TokenUnreadableError, GraphError) as error:
            log.warning("subscription_not_checked", page_id=page_id, reason=str(error))
            async with self._pool.acquire() as connection:
                await record_failed_check(connection, page_id, str(error))
            return None
        async with self._pool.acquire() as connection:
            await record_check(
                connection,
                page_id,
                subscribed=found.subscribed,
                refused=found.refused,
                missing=found.missing,
                error=found.error,
            )
            if found.missing:  # what they would have brought is missing, too
                await bring_forward(connection, {page_id: datetime.now(UTC)})
        if found.missing:
            log.warning(
                "subscription_repaired",
                page_id=page_id,
                missing=sorted(found.missing),
                restored=sorted(found.missing & found.subscribed),
                error=found.error,
            )
            self._on_repair(page_id)
        return found

    async def subscribe(self, page_id: str) -> Subscription | None:
        """Subscribe a Page's webhooks because its owner wants them; None as `check` says."""
        async with self._pool.acquire() as connection:
            await want_webhooks(connection, page_id)
        return await self.check(page_id)

    async def unsubscribe(self, page_id: str) -> bool:
        """End a Page's webhooks because its owner wants none; returns whether there is such a Page.

        Raises:
            TokenUnreadableError, GraphError: they could not be ended.

        """
        async with self._pool.acquire() as connection:
            page = await read_page(connection, page_id)
        if page is None:
            return False
        await self._client.delete(self._tokens.open(page.token_encrypted), page_id, f"{page_id}/subscribed_apps", {})
        async with self._pool.acquire() as connection:
            await want_no_webhooks(connection, page_id)
        return True

    async def _mended(self, token: str, page_id: str, refused: frozenset[str]) -> Subscription:
        """Subscribe what is missing. Fields refused before are asked for again, but no longer each alone."""
        present = await subscribed_fields(self._client, token, page_id, self._app_id)
        wanted = frozenset(WANTED_FIELDS)
        missing = wanted - present
        if not missing:
            return Subscription(present, frozenset(), frozenset(), None)
        try:
            # the call replaces the whole list: what is there already has to be named again
            await self._subscribe(token, page_id, present | wanted)
        except _NOT_ABOUT_THE_FIELDS:
            raise
        except GraphError as error:
            present, refused = await self._one_by_one(token, page_id, present, missing, refused)
            return Subscription(present, missing - refused, refused, str(error) if refused else None)
        return Subscription(present | wanted, missing, frozenset(), None)

    async def _one_by_one(
        self, token: str, page_id: str, present: frozenset[str], missing: frozenset[str], refused: frozenset[str]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Subscribe each missing field beside what is there; returns what is subscribed then, and what was refused."""
        refused &= missing
        for field in sorted(missing - refused):
            try:
                await self._subscribe(token, page_id, present | {field})
            except _NOT_ABOUT_THE_FIELDS:
                raise
            except GraphError:
                refused |= {field}
            else:
                present |= {field}
        return present, refused

    async def _subscribe(self, token: str, page_id: str, fields: frozenset[str]) -> None:
        await self._client.post(
            token, page_id, f"{page_id}/subscribed_apps", {"subscribed_fields": ",".join(sorted(fields))}
        )


async def subscribed_fields(client: GraphClient, token: str, page_id: str, app_id: str | None) -> frozenset[str]:
    """Ask which webhook fields our app gets of a Page; without `app_id`, which any app gets.

    Raises:
        GraphError: Graph did not answer.

    """
    answer = await client.get(token, page_id, f"{page_id}/subscribed_apps", {})
    apps = answer.data.get("data")
    fields: set[str] = set()
    for app in apps if isinstance(apps, list) else []:
        if isinstance(app, dict) and (app_id is None or str(app.get("id")) == app_id):
            listed = app.get("subscribed_fields")
            fields.update(map(str, listed if isinstance(listed, list) else []))
    return frozenset(fields)
