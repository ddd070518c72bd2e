"""The Graph API over HTTP: one call, its answer or a typed error. Knows nothing of conversations.

Tokens go in a header, never in a URL: httpx and proxies log URLs.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import stamina
import structlog
from aiolimiter import AsyncLimiter

from reconciler.graph.errors import GraphError, GraphUnavailable, RateLimited, TokenDead, error_of
from reconciler.graph.usage import FULL, Usage, http_date, usage_of, wait_of
from sql.json_values import UnreadableJsonError, loads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

log = structlog.get_logger(__name__)

TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=30.0)
CALL_WITHIN_SECONDS = 60.0  # a body that drips would outlast every timeout of the connection
ATTEMPTS = 5
MAX_SECONDS = 90.0
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 20.0
# a server counts arrivals, and the network brings two calls closer together than they were sent
MARGIN = 1.04
_APP = "app"


class Answer(NamedTuple):
    """One answer: its JSON, Graph's clock at it, and the time from which its data is at the latest."""

    data: dict[str, Any]
    date: datetime
    observed_at: datetime


class _Lane:
    """One Page's way out: one call at a time leaves it, so that a Page's calls are spread and never a burst."""

    def __init__(self, calls_per_second: float) -> None:
        self.lock = asyncio.Lock()
        self.limiter = AsyncLimiter(1, MARGIN / calls_per_second)
        self.delay = 0.0


class GraphClient:
    """Calls the Graph API for any Page. `http` is shared, so that connections are.

    `lag_seconds` is how much older than its `Date` an answer's data may be; `on_call` is told each call's outcome.
    Durations are told by `clock`, and `sleep` waits near a limit.
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
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self._base = f"{url.rstrip('/')}/{version}"
        self._version = version
        self._app_secret = app_secret.encode() if app_secret else None
        self._calls_per_second = calls_per_second
        self._lag = timedelta(seconds=lag_seconds)
        self._on_call, self._clock, self._sleep = on_call, clock, sleep
        self._lanes: dict[str, _Lane] = {}
        self._closed_until: dict[str, tuple[float, RateLimited]] = {}
        self._other_versions: set[str] = set()
        self.calls: dict[str, int] = {}
        self.percent_used: dict[str, float] = {}  # of each Page's limit, as its last answer told; 0: it told nothing

    async def get(self, token: str, page_id: str, path: str, params: Mapping[str, str | int]) -> Answer:
        """Call `GET /{version}/{path}` with a Page's token, within that Page's rate; retries what is temporary.

        Once Meta asked to wait, or a limit is used up, calls raise RateLimited without being made until that is over.

        Raises:
            GraphError: one of its kinds, each of which says what to do.

        """
        return await self._tried("GET", token, page_id, path, params)

    async def post(self, token: str, page_id: str, path: str, params: Mapping[str, str | int]) -> Answer:
        """Call `POST` likewise; only for what may be done twice: an answer that is lost is asked for again."""
        return await self._tried("POST", token, page_id, path, params)

    async def delete(self, token: str, page_id: str, path: str, params: Mapping[str, str | int]) -> Answer:
        """Call `DELETE` likewise: what is not there any more is as it should be."""
        return await self._tried("DELETE", token, page_id, path, params)

    async def debug_token(self, app_token: str, lane: str, token: str) -> dict[str, Any] | None:
        """What Graph tells the app of a token (Graph sheet, section 5), within the rate of `lane`; None: nothing.

        Meta offers no other way than naming the token in the query; nothing here logs a URL.

        Raises:
            GraphError: one of its kinds.

        """
        told = (await self.get(app_token, lane, "debug_token", {"input_token": token})).data.get("data")
        return told if isinstance(told, dict) else None

    async def _tried(self, method: str, token: str, page_id: str, path: str, params: Mapping[str, str | int]) -> Answer:
        failures = count()

        def backoff(error: Exception) -> float | bool:
            """Full jitter: many Pages that failed together don't come back together."""
            if not isinstance(error, GraphUnavailable):
                return False
            longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** next(failures))
            return random.uniform(0.0, longest)  # noqa: S311 - jitter, no secret

        async for attempt in stamina.retry_context(on=backoff, attempts=ATTEMPTS, timeout=MAX_SECONDS):
            with attempt:
                await self._turn(page_id)
                return await self._call(method, token, page_id, path, params)
        raise AssertionError  # the last attempt returns or raises

    async def _turn(self, page_id: str) -> None:
        """Wait for this Page's next call.

        Raises:
            RateLimited: there is none to come for now.

        """
        lane = self._lanes.get(page_id)
        if lane is None:
            lane = self._lanes[page_id] = _Lane(self._calls_per_second)
        async with lane.lock:
            self._check_open(page_id)
            await lane.limiter.acquire()
            if lane.delay:
                await self._sleep(lane.delay)
            self._check_open(page_id)

    def _check_open(self, page_id: str) -> None:
        for scope in (_APP, page_id):
            until, limit = self._closed_until.get(scope, (0.0, None))
            if limit is None:
                continue
            left = until - self._clock()
            if left <= 0:
                del self._closed_until[scope]
                continue
            raise RateLimited(
                str(limit), code=limit.code, scope=limit.scope, pause=limit.pause, wait=timedelta(seconds=left)
            )

    def _close(self, page_id: str, limit: RateLimited) -> None:
        """Make no call until the limit is over: calls that are refused count, too (Graph sheet, 3.2)."""
        wait = limit.pause.first if limit.wait is None else limit.wait
        scope = _APP if limit.scope == "app" else page_id
        self._closed_until[scope] = (self._clock() + wait.total_seconds(), limit)

    async def _call(self, method: str, token: str, page_id: str, path: str, params: Mapping[str, str | int]) -> Answer:
        if not (token.isascii() and token.isprintable()):
            raise TokenDead("the stored token holds characters that no token has")
        query = {name: str(value) for name, value in params.items()}
        if self._app_secret is not None:
            # proves that the caller has the app's secret; required where "Require App Secret" is on
            query["appsecret_proof"] = hmac.new(self._app_secret, token.encode(), "sha256").hexdigest()
        self.calls[page_id] = self.calls.get(page_id, 0) + 1
        began = self._clock()
        try:
            async with asyncio.timeout(CALL_WITHIN_SECONDS):
                response = await self._http.request(
                    method,
                    f"{self._base}/{path}",
                    params=query,
                    headers={"authorization": f"Bearer {token}"},
                    timeout=TIMEOUT,
                )
        except (httpx.HTTPError, TimeoutError) as error:
            self._on_call("unreachable")
            # only the kind: its text may quote the header that could not be sent
            raise GraphUnavailable(f"the Graph API could not be reached: {type(error).__name__}") from None
        took = timedelta(seconds=self._clock() - began)
        try:
            body = loads(response.content)
        except UnreadableJsonError:
            body = None
        usage = usage_of(response.headers)
        self._note_usage(page_id, usage)
        if usage.page or response.is_success:
            self.percent_used[page_id] = usage.page
        if response.status_code != 200 or not isinstance(body, dict) or "error" in body:
            failure = _failure(response, body, token)
            if isinstance(failure, RateLimited):
                self._close(page_id, failure)
            self._on_call(type(failure).__name__)
            raise failure
        self._on_call("ok")
        self._compare_version(response.headers.get("facebook-api-version"))
        date = http_date(response.headers.get("date")) or datetime.now(UTC)
        observed_at = (date - took - self._lag).replace(microsecond=0)
        return Answer(body, date, observed_at)

    def _note_usage(self, page_id: str, usage: Usage) -> None:
        """Slow down near a limit, and stop at it: the next call would be refused, and counted all the same."""
        self._lanes[page_id].delay = usage.delay
        if usage.app >= FULL:
            self._close(page_id, RateLimited(f"the app's limit is used up: {usage.app:g} %", scope="app"))
        if usage.page >= FULL:
            self._close(page_id, RateLimited(f"the Page's limit is used up: {usage.page:g} %", wait=usage.regain))

    def _compare_version(self, served: str | None) -> None:
        """Warn once when Graph serves another version than asked for: an expired one is replaced silently."""
        if served and served != self._version and served not in self._other_versions:
            self._other_versions.add(served)
            log.warning("graph_version_differs", asked=self._version, served=served)


def new_http_client() -> httpx.AsyncClient:
    """Make the client to share: HTTP/2 where offered, gzip, connections kept, no redirects.

    A proxy of the environment is used, but not towards this machine itself.
    """
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=50)
    direct = dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]"))
    return httpx.AsyncClient(http2=True, limits=limits, follow_redirects=False, mounts=direct)


def _failure(response: httpx.Response, body: Any, token: str) -> GraphError:
    status = response.status_code
    if status == 200 and not isinstance(body, dict):
        return GraphUnavailable("HTTP 200 with a body that is not a JSON object: cut short, or not from Graph")
    wait = wait_of(response.headers, datetime.now(UTC))
    return error_of(status if status != 200 else 400, body, token=token, wait=wait)
