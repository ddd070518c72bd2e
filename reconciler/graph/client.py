"""The Graph API over HTTP: one call, its answer or a typed error. Knows nothing of conversations.

Tokens go in a header, never in a URL: httpx and proxies log URLs. `paging.next` holds the token, so it is never
followed, kept or logged: a cursor is taken out and the URL built anew.
"""

from __future__ import annotations

import hmac
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
import stamina
import structlog
from aiolimiter import AsyncLimiter

from reconciler.graph.errors import BadAnswer, GraphError, GraphUnavailable, error_of
from sql.json_values import UnreadableJsonError, loads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = structlog.get_logger(__name__)

TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=60.0)
ATTEMPTS = 5
MAX_SECONDS = 90.0


class Answer(NamedTuple):
    """One answer: its JSON, Graph's clock at it, and the time from which its data is at the latest."""

    data: dict[str, Any]
    date: datetime
    observed_at: datetime


class GraphClient:
    """Calls the Graph API for any Page. `http` is shared, so that connections are.

    `lag_seconds` is how much older than its `Date` an answer's data may be; `on_call` is told each call's outcome.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        url: str,
        version: str,
        app_secret: str | None,
        calls_per_second: float = 2.0,
        lag_seconds: int = 60,
        on_call: Callable[[str], None] = lambda _outcome: None,
    ) -> None:
        self._http = http
        self._base = f"{url.rstrip('/')}/{version}"
        self._version = version
        self._app_secret = app_secret.encode() if app_secret else None
        self._calls_per_second = calls_per_second
        self._lag = timedelta(seconds=lag_seconds)
        self._limiters: dict[str, AsyncLimiter] = {}
        self._on_call = on_call
        self._other_version: str | None = None
        self.calls: dict[str, int] = {}

    async def get(self, token: str, page_id: str, path: str, params: Mapping[str, str | int]) -> Answer:
        """Call `GET /{version}/{path}` with a Page's token, within that Page's rate; retries what is temporary.

        Raises:
            GraphError: one of its kinds, each of which says what to do.

        """
        async for attempt in stamina.retry_context(
            on=GraphUnavailable, attempts=ATTEMPTS, timeout=MAX_SECONDS, wait_initial=0.5, wait_max=20, wait_jitter=1.0
        ):
            with attempt:
                # one call at a time leaves the bucket, so a Page's calls are spread and never a burst
                async with self._limiter(page_id):
                    pass
                return await self._call(token, page_id, path, params)
        raise AssertionError  # the last attempt returns or raises

    def _limiter(self, page_id: str) -> AsyncLimiter:
        limiter = self._limiters.get(page_id)
        if limiter is None:
            limiter = self._limiters[page_id] = AsyncLimiter(1, 1 / self._calls_per_second)
        return limiter

    async def _call(self, token: str, page_id: str, path: str, params: Mapping[str, str | int]) -> Answer:
        query = {name: str(value) for name, value in params.items()}
        if self._app_secret is not None:
            # proves that the caller has the app's secret; required where "Require App Secret" is on
            query["appsecret_proof"] = hmac.new(self._app_secret, token.encode(), "sha256").hexdigest()
        self.calls[page_id] = self.calls.get(page_id, 0) + 1
        began = time.monotonic()
        try:
            response = await self._http.get(
                f"{self._base}/{path}", params=query, headers={"authorization": f"Bearer {token}"}, timeout=TIMEOUT
            )
        except httpx.TransportError as error:
            self._on_call("unreachable")
            raise GraphUnavailable(f"the Graph API could not be reached: {type(error).__name__}") from None
        took = timedelta(seconds=time.monotonic() - began)
        try:
            body = loads(response.content)
        except UnreadableJsonError:
            body = None
        if response.status_code != 200 or not isinstance(body, dict) or "error" in body:
            failure = self._failure(response.status_code, body)
            self._on_call(type(failure).__name__)
            raise failure
        self._on_call("ok")
        self._compare_version(response.headers.get("facebook-api-version"))
        date = _date(response.headers.get("date"))
        observed_at = (date - took - self._lag).replace(microsecond=0)
        return Answer(body, date, observed_at)

    def _failure(self, status: int, body: Any) -> GraphError:
        if status == 200 and not isinstance(body, dict):
            return GraphUnavailable("HTTP 200 with a body that is not a JSON object: cut short, or not from Graph")
        return error_of(status if status != 200 else 400, body)

    def _compare_version(self, served: str | None) -> None:
        """Warn once when Graph serves another version than asked for: an expired one is replaced silently."""
        if served and served not in (self._version, self._other_version):
            self._other_version = served
            log.warning("graph_version_differs", asked=self._version, served=served)


def new_http_client() -> httpx.AsyncClient:
    """Make the client to share: HTTP/2 where offered, gzip, connections kept, no redirects, no proxy surprises."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=50)
    return httpx.AsyncClient(http2=True, limits=limits, follow_redirects=False)


def next_cursor(edge: object) -> str | None:
    """Return the cursor of an edge's next page, None when there is none.

    An edge has a next page if and only if it has `paging.next`; a page may be short, or empty, and still have one.

    Raises:
        BadAnswer: there is a next page but no cursor to it.

    """
    paging = edge.get("paging") if isinstance(edge, dict) else None
    if not isinstance(paging, dict) or not paging.get("next"):
        return None
    cursors = paging.get("cursors")
    after = cursors.get("after") if isinstance(cursors, dict) else None
    if not after:
        after = next(iter(parse_qs(urlsplit(str(paging["next"])).query).get("after", [])), None)
    if not after:
        raise BadAnswer("a next page without a cursor to it")
    return str(after)


def _date(header: str | None) -> datetime:
    """Read Graph's clock; ours when an answer has none."""
    try:
        return parsedate_to_datetime(header or "").astimezone(UTC)
    except (TypeError, ValueError):
        return datetime.now(UTC)
