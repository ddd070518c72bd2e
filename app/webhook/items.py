"""Take a delivery apart: every item of every entry, with what its envelope says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from app.webhook.payload import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTS = ("messaging", "standby", "changes", "calls")
ERASED = "erased"  # `{"erased": true}` stands in the journal where something was that was erased
ENVELOPE = {"id", "uid", "time", ERASED, *LISTS}
_PLATFORMS = {"instagram": "instagram", "permissions": "permissions"}  # by the delivery's `object`
TEST_ID = "0"  # what the App Dashboard's "Test" button puts where ids go (webhooks reference, section 4)


class RawItem(NamedTuple):
    """One item, not yet looked into. `path` says where in the body it stands.

    `platform` is messenger or instagram, or permissions for what concerns the app's own rights.
    """

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
    if _is_erased(payload):
        return
    entries = payload.get("entry") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(entries, list):
        yield Misshapen("", "not a delivery: no list under `entry`")
        return
    kind = payload.get("object")
    platform = _PLATFORMS.get(kind, "messenger") if isinstance(kind, str) else "messenger"
    for n, entry in enumerate(entries):
        path = f"entry[{n}]"
        if _is_erased(entry):
            continue
        if not isinstance(entry, dict):
            yield Misshapen(path, "an entry must be an object")
        else:
            yield from _explode_entry(path, entry, platform)


def _explode_entry(path: str, entry: dict[str, Any], platform: str) -> Iterator[RawItem | Misshapen]:
    page_id, time = text_id(entry.get("id")) or "", entry.get("time")
    for via in LISTS:
        values = entry.get(via)
        if values is None or _is_erased(values):
            continue
        if not isinstance(values, list):
            yield Misshapen(f"{path}.{via}", "must be a list")
            continue
        for n, value in enumerate(values):
            if not _is_erased(value):
                yield _item(f"{path}.{via}[{n}]", via, page_id, platform, time, value)
    # some samples carry their fields directly on the entry (call_permission_reply, call_settings)
    rest = {key: value for key, value in entry.items() if key not in ENVELOPE}
    if rest:
        yield _item(path, "entry", page_id, platform, time, rest)


def _is_erased(value: object) -> bool:
    return isinstance(value, dict) and value.get(ERASED) is True and len(value) == 1


def _item(path: str, via: str, page_id: str, platform: str, time: Any, value: object) -> RawItem | Misshapen:
    if not isinstance(value, dict):
        return Misshapen(path, "an item must be an object")
    page_id = page_id or _page_of(value)
    if not page_id:
        return Misshapen(path, "names no Page: the entry has no `id`, and neither sender nor recipient tells")
    if len(page_id) > MAX_ID:
        return Misshapen(path, f"the Page's id has more than {MAX_ID} characters")
    return RawItem(path, via, page_id, platform, time, value)


def _page_of(value: dict[str, Any]) -> str:
    """Find whose item it is where the entry has no id: the Page receives, except what it sent itself."""
    message = value.get("message")
    side = "sender" if isinstance(message, dict) and message.get("is_echo") else "recipient"
    party = value.get(side)
    return text_id(party.get("id")) or "" if isinstance(party, dict) else ""


def text_id(value: object) -> str | None:
    """Return an id as text (samples have them as numbers too), or None for what is no id."""
    return str(value) or None if isinstance(value, (str, int)) and not isinstance(value, bool) else None
