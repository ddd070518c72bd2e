"""The Graph API over the world: paths, tokens, limits, faults, headers. What a node looks like is in `nodes`."""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

import orjson
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from simulator.accounts import debug_token, me_accounts, subscribed_apps
from simulator.behaviour import Behaviour
from simulator.faults import Faults, Trouble
from simulator.graph_errors import GraphFailure, bad_parameter, bad_token, not_found
from simulator.objects import many, read, user_node
from simulator.reading import Reading, read_window
from simulator.usage import Limits, Usage
from simulator.versions import DEFAULT_VERSION, is_version, served_version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from simulator.page import Page
    from simulator.world import World

_SECRETS = {"access_token", "appsecret_proof", "input_token"}
_HTML = b"<!DOCTYPE html><html><body><h1>Sorry, something went wrong.</h1></body></html>"
_KEPT_CALLS = 100_000


class Call(NamedTuple):
    """One call that was made, without its secrets. `page_id` is whose token it bore, None when none is known."""

    page_id: str | None
    method: str
    path: str
    params: dict[str, str]
    status: int
    error_code: int | None


async def hang_until_the_client_leaves(request: Request) -> None:
    """Never answer: what the fault `timeout` does."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Graph:
    """The Graph API of a world; `app` is what a server runs.

    `app_secret` None: `appsecret_proof` is not looked at; else a wrong one is an error, and a missing one too unless
    `requires_proof` is false. `limits` None: nothing is enforced. `calls` holds the newest 100,000 calls, `answered`
    counts all; `hooks` are run after each call is answered, so that a test can change the world in the midst of a walk.
    `sleep` and `hang` are how latency and timeouts are waited for.
    """

    def __init__(
        self,
        world: World,
        *,
        app_id: str = "1517776481860111",
        app_secret: str | None = None,
        requires_proof: bool = True,
        behaviour: Behaviour | None = None,
        faults: Faults | None = None,
        limits: Limits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        hang: Callable[[Request], Awaitable[None]] = hang_until_the_client_leaves,
    ) -> None:
        self.world, self.app_id, self.app_secret, self.requires_proof = world, app_id, app_secret, requires_proof
        self.behaviour = behaviour or Behaviour()
        self.faults = faults or Faults(seed=world.seed)
        world.changes_move_updated_time = self.behaviour.updated_time == "changes"
        self.usage = Usage(limits, world.people)
        self.calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self.answered = 0
        self.hooks: list[Callable[[Call], Awaitable[None] | None]] = []
        self._sleep, self._hang = sleep, hang
        self._tokens: dict[str, Page] = {}
        methods = ["GET", "POST", "DELETE"]
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    def calls_of(self, page_id: str, path: str = "") -> list[Call]:
        """Return the calls made with a Page's token whose path holds `path`."""
        return [call for call in self.calls if call.page_id == page_id and path in call.path]

    def after_list_call(self, n: int, action: Callable[[], object]) -> None:
        """Do something once the n-th call of a list of conversations from now on was answered."""
        left = n

        def count(call: Call) -> None:
            nonlocal left
            left -= call.path.endswith("/conversations")
            if left <= 0:
                self.hooks.remove(count)
                action()

        self.hooks.append(count)

    async def _answer(self, request: Request) -> Response:
        version, path = _split(request.url.path)
        params = await _params(request)
        token = _token(request, params)
        page = self._page_of(token)
        trouble = self.faults.of(page.id if page else None, path, has_cursor="after" in params)
        if trouble.latency:
            await self._sleep(trouble.latency)
        if "timeout" in trouble.names:
            await self._hang(request)
        now = self.world.now()
        status, body = 200, b""
        code = None
        try:
            result = self._result(request, version, path, params, token, page, trouble)
            body = orjson.dumps(result)
        except GraphFailure as failure:
            status, code, body = failure.status, failure.code, orjson.dumps(failure.body())
        headers = {
            "content-type": "application/json; charset=UTF-8",
            "date": format_datetime(now, usegmt=True),
            "facebook-api-version": "v22.0" if "old_version" in trouble.names else served_version(version, now),
            **self._usage_headers(page, now.timestamp(), trouble),
        }
        if "html" in trouble.names:
            status, body, headers["content-type"] = 502, _HTML, "text/html; charset=UTF-8"
        elif "cut_body" in trouble.names:
            body = body[: len(body) // 2]
        elif "empty_body" in trouble.names:
            body = b""
        await self._record(page, request.method, path, params, status, code, trouble)
        return Response(body, status, headers)

    def _usage_headers(self, page: Page | None, now: float, trouble: Trouble) -> dict[str, str]:
        if page is None:
            return {}
        if "app_limit" in trouble.names:
            return {"x-app-usage": '{"call_count":100,"total_time":25,"total_cputime":25}'}
        if trouble.regain_minutes is None:
            return self.usage.headers(page.id, now)
        entry = {
            "type": "messenger",
            "call_count": 100,
            "total_cputime": 60,
            "total_time": 70,
            "estimated_time_to_regain_access": trouble.regain_minutes,
        }
        return {"x-business-use-case-usage": orjson.dumps({page.id: [entry]}).decode()}

    async def _record(
        self,
        page: Page | None,
        method: str,
        path: str,
        params: dict[str, str],
        status: int,
        code: int | None,
        trouble: Trouble,
    ) -> None:
        shown = {name: value for name, value in params.items() if name not in _SECRETS}
        call = Call(page.id if page else None, method, path, shown, status, code)
        self.calls.append(call)
        self.answered += 1
        if "bump" in trouble.names and page is not None and path.endswith("/conversations"):
            self._bump(page)
        for hook in list(self.hooks):
            waiting = hook(call)
            if waiting is not None:
                await waiting

    def _bump(self, page: Page) -> None:
        """Somebody from the lower half of the list writes; the webhook of it is lost."""
        threads = list(self.world.threads(page))
        if threads:
            self.world.person_sends(page.id, threads[len(threads) * 3 // 4].psid)

    def _result(
        self,
        request: Request,
        version: str,
        path: str,
        params: dict[str, str],
        token: str | None,
        page: Page | None,
        trouble: Trouble,
    ) -> Any:
        if trouble.failure is not None:
            raise trouble.failure
        if path == "debug_token":
            return debug_token(self.world, self.app_id, self.app_secret, params, token)
        is_user = token == self.world.user_token
        self._check_token(token, page, params, is_user=is_user)
        if path == "me/accounts" and is_user:
            window = read_window(params, self.behaviour)
            return me_accounts(self.world, window, params.get("fields"), _base(request, version))
        if page is None:
            return user_node(path, params)
        ids = [i for i in params.get("ids", "").split(",") if i] if not path else []
        parts = [part for part in path.split("/") if part]
        if parts and parts[0] == "me":  # with a Page's token, "me" is the Page
            parts[0] = page.id
        is_conversations = parts not in ([page.id], [page.id, "subscribed_apps"])
        self.usage.count(
            page.id, self.world.now().timestamp(), calls=max(1, len(ids)), is_conversations=is_conversations
        )
        if parts == [page.id, "subscribed_apps"]:
            return subscribed_apps(page, self.app_id, request.method, params)
        if request.method != "GET":
            raise not_found(path, request.method.lower())
        reading = self._reading(request, version, token or "", page)
        if ids:
            return many(reading, ids, params)
        return read(reading, parts, params)

    def _check_token(self, token: str | None, page: Page | None, params: dict[str, str], *, is_user: bool) -> None:
        if token is None:
            raise GraphFailure(104, "An access token is required to request this resource.", status=401)
        if page is None and not is_user:
            raise bad_token()
        if page is not None and page.dead_token is not None:
            raise bad_token(page.dead_token)
        if self.app_secret is None:
            return
        proof = params.get("appsecret_proof")
        if proof is None:
            if self.requires_proof:
                raise bad_parameter("API calls from the server require an appsecret_proof argument")
            return
        right = hmac.new(self.app_secret.encode(), token.encode(), "sha256").hexdigest()
        if not hmac.compare_digest(proof.encode(), right.encode()):
            raise GraphFailure(104, "Incorrect signature: invalid appsecret_proof provided in the API argument")

    def _reading(self, request: Request, version: str, token: str, page: Page) -> Reading:
        at = int((self.world.now().timestamp() - self.behaviour.read_lag_seconds) * 1000)
        if not self.behaviour.read_lag_seconds:
            at = _ALL
        now = int(self.world.now().timestamp())
        return Reading(self.world, page, self.behaviour, _base(request, version), token, at, now)

    def _page_of(self, token: str | None) -> Page | None:
        if token is None:
            return None
        page = self._tokens.get(token)
        if page is None or page.access_token != token:
            self._tokens = {page.access_token: page for page in self.world.pages}
            page = self._tokens.get(token)
        return page


_ALL = (1 << 63) - 1


def _base(request: Request, version: str) -> str:
    """What links to this API begin with: the address that the caller used."""
    return f"{request.url.scheme}://{request.url.netloc}/{version}"


def _split(path: str) -> tuple[str, str]:
    first, _, rest = path.strip("/").partition("/")
    return (first, rest) if is_version(first) else (DEFAULT_VERSION, path.strip("/"))


async def _params(request: Request) -> dict[str, str]:
    params = dict(request.query_params)
    if request.method == "POST":
        params.update(parse_qsl((await request.body()).decode("utf-8", "replace")))
    return params


def _token(request: Request, params: dict[str, str]) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in {"bearer", "oauth"} and token:
        return token.strip()
    return params.get("access_token") or None
