"""Look over an installation: settings, spool, database, Graph, each Page's token and webhooks, the public address."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import httpx

from app.webhook.signature import HEADER, sign
from reconciler.capabilities import Questions
from reconciler.graph.errors import GraphError
from reconciler.tokens import TokenUnreadableError
from reconciler.watchdog import WANTED_FIELDS, subscribed_fields
from sql.health import look_at
from sql.pages import read_page
from sql.spool_folder import look_into, trouble_of

if TYPE_CHECKING:
    from app.settings import Settings
    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from sql.pool import Pool

MOST_SKEW_SECONDS = 30.0
LONGEST_WAIT_SECONDS = 60.0
NEEDED_SCOPES = frozenset({"pages_messaging", "pages_manage_metadata", "pages_read_engagement"})
PROBE_WITHIN_SECONDS = 10.0
# what Meta's own test button sends: acknowledged and journaled, never made into rows
PROBE = b'{"object":"page","entry":[{"id":"0","time":1700000000000,"changes":[{"field":"messages","value":{}}]}]}'


class Verdict(Enum):
    """How a finding is meant."""

    FINE = "fine"
    NOTE = "note"
    WRONG = "wrong"


class Finding(NamedTuple):
    """One thing looked at, and what to do where it is wrong."""

    verdict: Verdict
    name: str
    text: str


def _finding(is_fine: object, name: str, text: str, remedy: str = "") -> Finding:
    return Finding(Verdict.FINE if is_fine else Verdict.WRONG, name, text if is_fine else f"{text}{remedy}")


async def examine_database(pool: Pool) -> list[Finding]:
    """Look at the database: version, schema, clock, durability, journal."""
    try:
        async with pool.acquire() as connection:
            seen = await look_at(connection)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [Finding(Verdict.WRONG, "database", f"does not answer: {type(error).__name__}")]
    skew = abs((seen.now - datetime.now(UTC)).total_seconds())
    return [
        Finding(Verdict.FINE, "database", f"Postgres {seen.version}, {seen.size}"),
        _finding(
            seen.is_current,
            "schema",
            "as this version needs it" if seen.is_current else "of another version",
            ": run `messenger-mirror migrate`",
        ),
        _finding(seen.fsync == "on", "fsync", seen.fsync, ": a power cut may lose what was answered 200"),
        _finding(skew < MOST_SKEW_SECONDS, "database clock", f"{skew:.1f} s from ours", ": set both by NTP"),
        _finding(not seen.dead_letters, "dead letters", str(seen.dead_letters), ": `messenger-mirror replay --dead`"),
    ]


def examine_spool(settings: Settings, now: datetime) -> list[Finding]:
    """Look into the spool: whether it could take a delivery, and what waits there."""
    trouble = trouble_of(settings.spool_folder)
    found = [
        _finding(
            trouble is None, "spool", trouble or f"{settings.spool_folder}", ": see to it before Postgres is ever away"
        )
    ]
    seen = look_into(settings.spool_folder)
    if seen.oldest_at is not None:
        age = (now - seen.oldest_at).total_seconds()
        text = f"{seen.deliveries} waiting, {seen.bytes} bytes, the oldest {age:.0f} s old"
        found.append(_finding(age < LONGEST_WAIT_SECONDS, "spooled", text, ": is Postgres away? is `serve` running?"))
    if seen.unreadable:
        found.append(Finding(Verdict.WRONG, "spool files", f"can't be read: {', '.join(seen.unreadable)}"))
    return found


async def examine_page(
    pool: Pool, graph: GraphClient, tokens: TokenBox, settings: Settings, page_id: str, *, asks: bool
) -> list[Finding]:
    """Look at a Page; `asks` also puts the open questions about its Graph, and stores the answers."""
    async with pool.acquire() as connection:
        page = await read_page(connection, page_id)
    if page is None:
        return [Finding(Verdict.WRONG, "state", "not known, or removed: `messenger-mirror pages add`")]
    found = [_finding(page.state == "active", "state", page.state, f": {page.state_reason}")]
    try:
        token = tokens.open(page.token_encrypted)
        found += await _token(graph, settings, page_id, token)
        fields = await subscribed_fields(graph, token, page_id, settings.facebook_app_id)
        missing = sorted(set(WANTED_FIELDS) - fields)
        found.append(
            _finding(
                not missing,
                "webhooks",
                f"{len(fields)} fields subscribed",
                f", not {', '.join(missing)}: `messenger-mirror pages check` subscribes them",
            )
        )
        if asks:
            answers = await Questions(pool, graph, page_id, token).ask_all()
            found += [Finding(Verdict.NOTE, a.name, a.answer + (f" ({a.detail})" if a.detail else "")) for a in answers]
    except (TokenUnreadableError, GraphError) as error:
        found.append(Finding(Verdict.WRONG, "Graph", str(error)))
    return found


async def _token(graph: GraphClient, settings: Settings, page_id: str, token: str) -> list[Finding]:
    answer = await graph.get(token, page_id, "me", {"fields": "id"})
    skew = abs((answer.date - datetime.now(UTC)).total_seconds())
    found = [
        _finding(answer.data.get("id") == page_id, "token", f"of Page {answer.data.get('id')}", ": add the Page again"),
        _finding(skew < MOST_SKEW_SECONDS, "clock", f"{skew:.1f} s from Graph's", ": set it by NTP"),
    ]
    if settings.app_token is None:
        return [*found, Finding(Verdict.NOTE, "scopes", "set FACEBOOK_APP_ID to have scopes and expiry looked at")]
    return found + _debugged(await graph.debug_token(settings.app_token, page_id, token))


def _debugged(data: dict[str, Any] | None) -> list[Finding]:
    """What `debug_token` says (Graph sheet, section 5): times in epoch seconds, 0 for never."""
    if data is None:
        return [Finding(Verdict.NOTE, "scopes", "Graph does not tell")]
    scopes = data.get("scopes")
    missing = sorted(NEEDED_SCOPES - set(map(str, scopes if isinstance(scopes, list) else [])))
    found = [
        _finding(data.get("is_valid"), "validity", "valid" if data.get("is_valid") else "invalid", ": get a new one"),
        _finding(
            not missing,
            "scopes",
            "all that are needed" if not missing else f"missing {', '.join(missing)}",
            ": grant them and get a new token",
        ),
    ]
    for name, key in (("expires", "expires_at"), ("data access", "data_access_expires_at")):
        at = data.get(key)
        if isinstance(at, int) and at > 0:
            left = (datetime.fromtimestamp(at, UTC) - datetime.now(UTC)).days
            found.append(_finding(left > 7, name, f"in {left} days", ": get a new token before"))
        else:
            found.append(Finding(Verdict.FINE, name, "never"))
    return found


async def probe(settings: Settings, url: str) -> list[Finding]:
    """Do as Meta does with the public address: the handshake, and a signed delivery of a test event."""
    challenge = str(secrets.randbelow(10**9))
    query = {"hub.mode": "subscribe", "hub.verify_token": settings.verify_tokens[0], "hub.challenge": challenge}
    address = f"{url.rstrip('/')}/webhook"
    try:
        async with httpx.AsyncClient(timeout=PROBE_WITHIN_SECONDS) as http:
            shaken = await http.get(address, params=query)
            signature = sign(PROBE, settings.app_secrets[0].encode()).decode()
            posted = await http.post(address, content=PROBE, headers={HEADER: signature})
            unsigned = await http.post(address, content=PROBE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [Finding(Verdict.WRONG, "public address", f"{address} can't be reached: {type(error).__name__}")]
    return [
        _finding(
            shaken.text == challenge,
            "handshake",
            f"HTTP {shaken.status_code}",
            ": another FACEBOOK_VERIFY_TOKEN there?",
        ),
        _finding(posted.status_code == 200, "signed delivery", f"HTTP {posted.status_code}", ": another secret there?"),
        _finding(unsigned.status_code == 403, "unsigned delivery", f"HTTP {unsigned.status_code}", ": must be 403"),
    ]
