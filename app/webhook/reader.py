"""Read a body: its items turned into rows, each with its place; what can't be read, with the reason."""

from __future__ import annotations

import traceback
from typing import NamedTuple

import structlog

from app.webhook.items import TEST_ID, Misshapen, explode
from app.webhook.projection import Door, ItemError, project
from sql.ingest import ItemRows
from sql.json_values import UnreadableJsonError, loads

log = structlog.get_logger(__name__)

MAX_ITEMS = 5_000  # Meta's own maximum is 1,000 updates (webhooks reference, section 3)


class Reading(NamedTuple):
    """What a body holds."""

    items: list[ItemRows]
    dead_letters: list[tuple[str, str]]
    kinds: list[str]
    unknown: list[str]
    tests: int


def read_body(body: bytes, door: Door) -> Reading:
    """Turn a body into rows, item by item; one that can't be read never costs its neighbours. Never raises."""
    reading = Reading([], [], [], [], 0)
    try:
        payload = loads(body)
    except UnreadableJsonError as error:
        reading.dead_letters.append(("", str(error)))
        return reading
    tests = 0
    for count, item in enumerate(explode(payload)):
        if count == MAX_ITEMS:
            reading.dead_letters.append((item.path, f"more than {MAX_ITEMS} items: from here on it was not read"))
            break
        if isinstance(item, Misshapen):
            reading.dead_letters.append((item.path, item.reason))
            continue
        if item.page_id == TEST_ID:
            tests += 1
            continue
        try:
            projected = project(item, door)
        except ItemError as error:
            reading.dead_letters.append((item.path, str(error)))
            continue
        except Exception as error:  # noqa: BLE001 - a fault of ours; a later version can replay it
            at = traceback.extract_tb(error.__traceback__)[-1]  # not its text: that may quote what someone wrote
            log.error("item_not_understood", path=item.path, error=type(error).__name__, at=f"{at.name}:{at.lineno}")
            reading.dead_letters.append((item.path, f"not understood: {type(error).__name__}"))
            continue
        reading.items.append(ItemRows(item.path, projected.rows))
        reading.kinds.extend(projected.kinds)
        reading.unknown.extend(projected.unknown)
    return reading._replace(tests=tests) if tests else reading
