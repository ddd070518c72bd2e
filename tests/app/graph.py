"""A Graph API small enough to see through: Pages with a token each, threads with messages, and a gate to hold it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class FakePage(NamedTuple):
    page_id: str
    name: str
    threads: list[dict[str, Any]]


def graph_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


def thread(page_id: str, psid: str, *messages: tuple[str, str, datetime]) -> dict[str, Any]:
    """A thread with its messages (mid, text, at), newest first, all from the person."""
    person, page = {"id": psid, "name": f"Person {psid}"}, {"id": page_id, "name": "Page"}
    nodes = [
        {"id": mid, "created_time": graph_time(at), "from": person, "to": {"data": [page]}, "message": text}
        for mid, text, at in messages
    ]
    return {
        "id": f"t_{psid}",
        "updated_time": nodes[0]["created_time"],
        "participants": {"data": [person, page]},
        "message_count": len(nodes),
        "unread_count": 0,
        "can_reply": True,
        "messages": {"data": nodes},
    }


class FakeGraph:
    """Answers by token. Calls of a list wait at the gate; `refusal` is answered to everything while it is set."""

    def __init__(self) -> None:
        self.pages: dict[str, FakePage] = {}
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Semaphore(0)
        self.paths: list[str] = []
        self.persons: dict[str, list[dict[str, Any]]] = {}  # {user token: rows of /me/accounts}, two a page
        self.token_types: dict[str, str] = {}  # what `debug_token` says of a token; without, it is not known there
        self.knows_fields = True  # False: `fields` of /me are passed over, as by many a stand-in
        self.subscribed: dict[str, list[str]] = {}  # {page_id: fields}

    def add(self, token: str, page_id: str, *threads: dict[str, Any], name: str = "A Page") -> None:
        self.pages[token] = FakePage(page_id, name, list(threads))

    async def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        self.paths.append(path)
        if path.endswith("/conversations"):
            self.waiting.release()
            await self.gate.wait()
        if self.refusal is not None:
            return self.refusal
        token = authorization.removeprefix("Bearer ")
        page = self.pages.get(token)
        if page is None:
            return 400, graph_error(190, f"Malformed access token {token}")
        _, _, rest = path.lstrip("/").partition("/")  # without the version
        if rest == "me":
            return 200, {"id": page.page_id, "name": page.name}
        if rest == f"{page.page_id}/conversations":
            return 200, {"data": page.threads}
        return 400, graph_error(100, f"Unsupported get request: {rest}")

    async def respond(self, request: httpx.Request) -> httpx.Response:
        """As a side effect of respx."""
        if self.is_away:
            raise httpx.ConnectError("no route", request=request)
        authorization = request.headers.get("authorization", "")
        if request.url.path.endswith("/subscribed_apps") and self.refusal is None:
            status, body = self._subscription(request, authorization)
        elif request.url.path.endswith("/me/accounts") and self.refusal is None:
            status, body = self._accounts(request, authorization)
        elif request.url.path.endswith("/debug_token") and request.url.params["input_token"] in self.token_types:
            status, body = 200, {"data": {"type": self.token_types[request.url.params["input_token"]]}}
        elif request.url.path.endswith("/me") and authorization.removeprefix("Bearer ") in self.persons:
            status, body = self._person(request.url.params.get("fields", ""))
        else:
            status, body = await self.answer(request.url.path, authorization)
        return httpx.Response(status, json=body, headers={"date": format_datetime(datetime.now(UTC), usegmt=True)})

    def _subscription(self, request: httpx.Request, authorization: str) -> tuple[int, dict[str, Any]]:
        page = self.pages.get(authorization.removeprefix("Bearer "))
        if page is None:
            return 400, graph_error(190, "Malformed access token")
        self.paths.append(f"{request.method} {request.url.path}")
        if request.method == "DELETE":
            self.subscribed.pop(page.page_id, None)
        elif request.method == "POST":
            self.subscribed[page.page_id] = request.url.params["subscribed_fields"].split(",")
        else:
            fields = self.subscribed.get(page.page_id)
            return 200, {"data": [{"id": "4400", "subscribed_fields": fields}] if fields else []}
        return 200, {"success": True}

    def _person(self, fields: str) -> tuple[int, dict[str, Any]]:
        if self.knows_fields and "category" in fields:
            return 400, graph_error(100, "(#100) Tried accessing nonexisting field (category) on node type (User)")
        return 200, {"id": "10215", "name": "Ada"}

    def _accounts(self, request: httpx.Request, authorization: str) -> tuple[int, dict[str, Any]]:
        rows = self.persons.get(authorization.removeprefix("Bearer "))
        if rows is None:
            return 400, graph_error(190, "Malformed access token")
        self.paths.append(str(request.url))
        start = int(request.url.params.get("after", "0"))
        paging: dict[str, Any] = {"cursors": {"after": str(start + 2)}}
        if start + 2 < len(rows):
            paging["next"] = "https://graph.test/next"
        return 200, {"data": rows[start : start + 2], "paging": paging}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["type"] != "http":
            raise RuntimeError(scope["type"])
        await receive()
        address = f"https://graph.test{scope['path']}?{scope['query_string'].decode()}"
        answer = await self.respond(httpx.Request(scope["method"], address, headers=scope["headers"]))
        headers = [(b"content-type", b"application/json"), (b"date", answer.headers["date"].encode())]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content})


def graph_error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "trace"}}
