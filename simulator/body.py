"""The body of a delivery, byte for byte as Meta writes it, and its signature (webhooks sheet, sections 2 and 4)."""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulator.items import Item

_IN_SECONDS = {"changes", "calls"}


def envelope(items: Iterable[Item], sent_at_ms: int, *, share_entries: bool = False) -> dict[str, Any]:
    """Put items into a delivery, an entry for each; with `share_entries`, neighbours of one Page and list share one."""
    entries: list[dict[str, Any]] = []
    for item in items:
        if share_entries and entries and entries[-1]["id"] == item.page_id and item.via in entries[-1]:
            entries[-1][item.via].append(item.value)
            continue
        time = sent_at_ms // 1000 if item.via in _IN_SECONDS else sent_at_ms
        entries.append({"id": item.page_id, "time": time, item.via: [item.value]})
    return {"object": "page", "entry": entries}


def escaped(payload: Any) -> bytes:
    r"""Write JSON as Meta does: ASCII only, `\u00e4` in lower case, slashes as `\/`, no spaces."""
    return json.dumps(payload, ensure_ascii=True, separators=(",", ":")).replace("/", "\\/").encode("ascii")


def signature(body: bytes, app_secret: str) -> str:
    """The value of X-Hub-Signature-256 over a body's bytes."""
    return "sha256=" + hmac.new(app_secret.encode(), body, "sha256").hexdigest()
