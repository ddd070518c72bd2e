"""What the API answers is of the shape that it is documented to have, with rows of every kind behind it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from app.facebook.signed_request import sign_request
from app.routes import all_endpoints
from tests.app.graph import thread
from tests.app.service import APP_SECRET, add_page, deliver, text_delivery

if TYPE_CHECKING:
    from app.endpoint import Endpoint
    from tests.app.graph import FakeGraph
    from tests.app.service import Service

PAGE, PERSON = "1001", "7001"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
READ = [
    (prefix, endpoint)
    for prefix, endpoint in all_endpoints()
    if endpoint.method == "GET" and endpoint.role is not None and endpoint.answers[200].model is not None
]
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).date()
QUERIES = {"/conversations": "?count=exact", "/loss": f"?until={TOMORROW}"}


def delivery(**item: Any) -> bytes:
    parties = {"sender": {"id": PERSON}, "recipient": {"id": PAGE}, "timestamp": int(NOON.timestamp() * 1000)}
    return json.dumps(
        {"object": "page", "entry": [{"id": PAGE, "time": 1, "messaging": [{**parties, **item}]}]}
    ).encode()


@pytest.fixture
async def ids(syncing: Service, graph: FakeGraph) -> dict[str, str]:
    """A mirror with one of everything: the ids that paths take."""
    http = syncing.http
    await add_page(syncing, graph, PAGE, thread(PAGE, PERSON, ("m_2", "again", NOON), ("m_1", "hello", NOON)))
    picture = {"type": "image", "payload": {"url": "https://cdn.example/a.jpg?oe=7fffffff"}}
    for body in (
        text_delivery(PAGE, PERSON, "m_1", "hello", NOON),
        text_delivery(PAGE, PERSON, "m_9", "just now"),
        delivery(message={"mid": "m_3", "attachments": [picture], "reply_to": {"mid": "m_1"}}),
        delivery(message_edit={"mid": "m_1", "text": "hello!", "num_edit": 1}),
        delivery(reaction={"mid": "m_1", "action": "react", "emoji": "❤", "reaction": "love"}),
        delivery(read={"watermark": int(NOON.timestamp() * 1000)}),
        delivery(message={"mid": []}),
    ):
        assert (await deliver(http, body)).status_code == 200
    run: dict[str, Any] = {}
    for mode in ("full", "audit"):
        asked = {"page_id": PAGE, "mode": mode, "wait_seconds": 60}
        run = (await http.post("/api/conversations/sync", json=asked)).json()
        assert run["state"] == "succeeded", run
    backfill = (await http.post("/api/backfills", json={"all": True, "since": "2026-01-01"})).json()
    await http.post("/api/tags", json={"name": "vip", "colour": "#aabbcc"})
    assert (await http.put(f"/api/conversations/{PAGE}/{PERSON}/tags/vip")).status_code == 204
    await http.post("/api/keys", json={"name": "somebody", "role": "read"})
    request = sign_request(b'{"algorithm": "HMAC-SHA256", "user_id": "5"}', APP_SECRET.encode())
    assert (await http.post("/facebook/data-deletion", content=f"signed_request={request}")).status_code == 200
    journal = (await http.get("/api/deliveries?state=dead")).json()["data"]
    return {
        "page_id": PAGE,
        "psid": PERSON,
        "run_id": str(run["id"]),
        "backfill_id": backfill["id"],
        "delivery_id": journal[0]["id"],
        "tag": "vip",
    }


async def test_every_answer_is_of_the_shape_that_is_documented_and_none_is_empty(
    syncing: Service, ids: dict[str, str]
) -> None:
    for prefix, endpoint in READ:
        path = prefix + re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], endpoint.template)
        response = await syncing.http.get(path + QUERIES.get(endpoint.path, ""))
        assert response.status_code == 200, (path, response.text)
        check(endpoint, response.content)
        data = response.json().get("data")
        assert data is None or data, f"{path} lists nothing"


def check(endpoint: Endpoint, content: bytes) -> None:
    model = endpoint.answers[200].model
    assert model is not None
    model.model_validate_json(content, strict=True)
