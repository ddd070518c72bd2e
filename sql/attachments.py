"""Attachments in the one shape that both doors store, and their links, whose signatures expire.

An attachment is `{type, url, mime_type, name, size, title, sticker_id, graph_id, extra}`, absent keys left out.
Facebook signs the links of media anew at every read (`oe` in the query is the expiry, hex seconds). So what is stored
with the attachment is the link without its signature, and the signed one stands beside it, in the register
`{unsigned: [expires_ms, signed, expires_iso]}`: a link that differs only in its signature is no change.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

Links = dict[str, list[Any]]

_CDN = (".fbcdn.net", ".fbsbx.com", ".cdninstagram.com")
_SIGNATURE = {"oe", "oh", "ccb", "signature", "ext", "hash", "edm", "efg", "tn", "cb", "stp", "dl"}
_MAX_EXPIRY = 253_402_300_799  # the year 9999


def plain_link(link: str, links: Links) -> str:
    """Return a link without its signature, and keep the signed one in `links`; an unsigned link stays as it is."""
    try:
        parts = urlsplit(link)
        query = parse_qsl(parts.query, keep_blank_values=True)
        host = parts.hostname or ""
    except ValueError:  # a link that is none, such as "http://[": text to keep
        return link
    names = {name for name, _ in query}
    on_cdn = host.endswith(_CDN)
    if not on_cdn and not {"oe", "oh"} <= names:
        return link
    kept = [(n, v) for n, v in query if n not in _SIGNATURE and not n.startswith("_nc_")]
    # the same file is served by many hosts of the CDN: the first label names the nearest one
    netloc = "*" + next(c for c in _CDN if host.endswith(c)) if on_cdn else parts.netloc
    plain = urlunsplit((parts.scheme, netloc, parts.path, urlencode(kept), ""))
    if plain != link:
        entry = [*_expiry(dict(query).get("oe"))]
        links[plain] = max(links.get(plain, [0, "", None]), [entry[0], link, entry[1]], key=lambda e: (e[0], e[1]))
    return plain


def _expiry(oe: str | None) -> tuple[int, str | None]:
    """Read `oe`: (milliseconds or 0, ISO time or None)."""
    try:
        seconds = int(oe or "", 16)
    except ValueError:
        return 0, None
    if not 0 < seconds <= _MAX_EXPIRY:
        return 0, None
    return seconds * 1000, datetime.fromtimestamp(seconds, UTC).isoformat()


def attachment(type_: str, link: object, links: Links, **fields: Any) -> dict[str, Any]:
    """Build one attachment of the stored shape. `extra` holds what has no field of its own; None is left out.

    Links directly inside `extra` are stored without their signature too.
    """
    shape: dict[str, Any] = {"type": type_}
    if isinstance(link, str) and link:
        shape["url"] = plain_link(link, links)
    extra = {key: _plain_links(value, links) for key, value in (fields.pop("extra", None) or {}).items()}
    shape.update({key: value for key, value in fields.items() if value is not None and value != ""})
    if extra:
        shape["extra"] = extra
    return shape


def _plain_links(value: Any, links: Links) -> Any:
    if isinstance(value, str):
        return plain_link(value, links) if value.startswith(("https://", "http://")) else value
    if isinstance(value, dict):
        return {key: _plain_links(v, links) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain_links(v, links) for v in value]
    return value


def without_sticker_twins(attachments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep one of two attachments that carry the same sticker.

    Until 30 Aug 2026 a sticker came as a `sticker` and an `image` with one sticker_id, in no documented order
    (webhooks reference, EV/messages).
    """
    seen: set[str] = set()
    kept = []
    for a in attachments:
        sticker_id = a.get("sticker_id")
        if sticker_id is not None:
            if sticker_id in seen:
                continue
            seen.add(sticker_id)
        kept.append(a)
    return kept
