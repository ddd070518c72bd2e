"""Take a delivery apart: every item of every entry, with what its envelope says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTS = ("messaging", "standby", "changes", "calls")
_ENVELOPE = {"id", "time", *LISTS}
TEST_ID = "0"  # what the App Dashboard's "Test" button puts where ids go (webhooks reference, section 4)


class RawItem(NamedTuple):
    """One item, not yet looked into. `path` says where in the body it stands."""

    path: str
    via: str
    page_id: str
    platform: str
    entry_time: Any
    value: dict[str, Any]


class Misshapen(NamedTuple):
    """A place in the body that is not of the shape of any item."""

    path: str
    reason: str


def explode(payload: object) -> Iterator[RawItem | Misshapen]:
    """Yield all that a body holds, in its order; never raises."""
    entries = payload.get("entry") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(entries, list):
        yield Misshapen("", "not a delivery: no list under `entry`")
        return
    platform = "instagram" if payload.get("object") == "instagram" else "messenger"
    for n, entry in enumerate(entries):
        path = f"entry[{n}]"
        if not isinstance(entry, dict):
            yield Misshapen(path, "an entry must be an object")
        else:
            yield from _explode_entry(path, entry, platform)


def _explode_entry(path: str, entry: dict[str, Any], platform: str) -> Iterator[RawItem | Misshapen]:
    page_id, time = _text_id(entry.get("id")), entry.get("time")
    for via in LISTS:
        if via not in entry:
            continue
        values = entry[via]
        if not isinstance(values, list):
            yield Misshapen(f"{path}.{via}", "must be a list")
            continue
        for n, value in enumerate(values):
            yield _item(f"{path}.{via}[{n}]", via, page_id, platform, time, value)
    # some samples carry their fields directly on the entry (call_permission_reply, call_settings)
    rest = {key: value for key, value in entry.items() if key not in _ENVELOPE}
    if rest:
        yield _item(path, "entry", page_id, platform, time, rest)


def _item(path: str, via: str, page_id: str, platform: str, time: Any, value: object) -> RawItem | Misshapen:
    if not isinstance(value, dict):
        return Misshapen(path, "an item must be an object")
    page_id = page_id or _page_of(value)
    if not page_id:
        return Misshapen(path, "names no Page: the entry has no `id`, and neither sender nor recipient tells")
    return RawItem(path, via, page_id, platform, time, value)


def _page_of(value: dict[str, Any]) -> str:
    """Find whose item it is where the entry has no id: the Page receives, except what it sent itself."""
    message = value.get("message")
    side = "sender" if isinstance(message, dict) and message.get("is_echo") else "recipient"
    party = value.get(side)
    return _text_id(party.get("id")) if isinstance(party, dict) else ""


def _text_id(value: object) -> str:
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
