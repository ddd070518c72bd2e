"""The whole application in this process, and the settings it runs with."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import httpx
import uvicorn

from app.asgi import State, make_app
from app.settings import Settings
from app.webhook.signature import sign

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from app.endpoint import Endpoint
    from tests.app.graph import FakeGraph

API_KEY, OLD_API_KEY = "ops-key-current-f2f6", "ops-key-before-91ad"
APP_SECRET = "app-secret-5e0c7f"
VERIFY_TOKEN = "verify-word-77b1"
ENCRYPTION_KEY = "Y2hhbmdlLW1lLXRoaXMtaXMtMzItYnl0ZXMtbG9uZyE="
PAGE_TOKEN = "EAApage-token-3c41d9"
GRAPH_HOST = "graph.test"
SECRETS = (API_KEY, OLD_API_KEY, APP_SECRET, VERIFY_TOKEN, ENCRYPTION_KEY, PAGE_TOKEN)
AUTHORIZATION = {"authorization": f"Bearer {API_KEY}"}


def settings_for(dsn: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": dsn,
        "facebook_app_secret": APP_SECRET,
        "facebook_verify_token": VERIFY_TOKEN,
        "graph_api_url": f"https://{GRAPH_HOST}",
        "graph_api_version": "v26.0",
        "ops_api_key": f"{API_KEY}, {OLD_API_KEY}",
        "token_encryption_key": ENCRYPTION_KEY,
        "reconciler_enabled": False,
        "sync_interval_seconds": 3600,
        "graph_calls_per_second_per_page": 1000,
        "graph_lag_seconds": 0,
        "api_requests_per_second": 0,
        "log_level": "info",
        "spool_dir": "/dev/null/spool",  # nothing can be written there: a test that spools names a folder
    }
    return Settings(_env_file=None, **{**values, **changes})


class Service(NamedTuple):
    """A running application: ask it through `http`, which sends the key."""

    http: httpx.AsyncClient
    app: ASGIApp
    state: State
    settings: Settings


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """Run the application with its lifespan, without a socket."""
    app = make_app(settings)
    async with app.router.lifespan_context(app) as lifespan_state:
        state = cast("State", lifespan_state)

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = dict(state)
            await app(scope, receive, send)

        transport = httpx.ASGITransport(with_state, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://mirror.test", headers=AUTHORIZATION) as http:
            yield Service(http, with_state, state, settings)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to whoever runs the tests."""
        yield


@asynccontextmanager
async def served(app: ASGIApp, *, lifespan: Literal["on", "off"] = "on") -> AsyncIterator[str]:
    """Serve an application on a loopback port, by uvicorn as in production; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as uvloop does it in production
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan=lifespan, timeout_graceful_shutdown=5)
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


def text_delivery(page_id: str, psid: str, mid: str, text: str, at: datetime | None = None) -> bytes:
    """One message of a person, as Facebook posts it."""
    ms = int((at or datetime.now(UTC)).timestamp() * 1000)
    item = {
        "sender": {"id": psid},
        "recipient": {"id": page_id},
        "timestamp": ms,
        "message": {"mid": mid, "text": text},
    }
    return json.dumps({"object": "page", "entry": [{"id": page_id, "time": ms, "messaging": [item]}]}).encode()


def signed(body: bytes, secret: str = APP_SECRET) -> dict[str, str]:
    """The headers of a delivery."""
    return {"content-type": "application/json", "x-hub-signature-256": sign(body, secret.encode()).decode()}


async def columns(service: Service, table: str) -> set[str]:
    """The names of a table's columns."""
    async with service.state["pool"].acquire() as connection:
        rows = await connection.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = $1", table)
    return {row["column_name"] for row in rows}


async def add_page(service: Service, graph: FakeGraph, page_id: str, *threads: dict[str, Any]) -> None:
    """Add a Page that Graph knows, with a token of its own."""
    token = f"{PAGE_TOKEN}-{page_id}"
    graph.add(token, page_id, *threads)
    response = await service.http.post("/api/pages", json={"access_token": token, "page_id": page_id, "name": "A Page"})
    assert response.status_code == 201, response.text


async def deliver(http: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await http.post("/webhook", content=body, headers=signed(body))


def any_path(prefix: str, endpoint: Endpoint) -> str:
    """A path that an endpoint takes, of nothing that there is."""
    with_ids = re.sub(r"\{\w+:uuid\}", "00000000-0000-0000-0000-000000000000", endpoint.path)
    return prefix + re.sub(r"\{\w+\}", "1", with_ids)


def assert_problem(response: httpx.Response, status: int, field: str | None = None) -> str:
    """Check that a response is a problem of this status about this field; returns its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body.get("field") == field
    return str(body["detail"])
