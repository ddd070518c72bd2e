"""Plays that are worth trying each time: each is the shortest that notices one mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.chaos.steps import AGAIN_AND_AGAIN, READ_LAG_SECONDS

if TYPE_CHECKING:
    from tests.chaos.steps import Step

STRICT = {"read_lag_seconds": READ_LAG_SECONDS, "max_limit": 7, "counts_are_estimates": True, "has_reply_to": True}
LOAD: Step = ("sync", "incremental", [])


class Known(NamedTuple):
    """What a play is given. 12 conversations are more than a walk reads of a list once it has stopped."""

    steps: list[Step]
    seed: int = 0
    behaviour: dict[str, Any] = STRICT
    conversations: int = 12
    messages: int = 12


KNOWN = {
    "an event is told twice, as ours and in standby, since the thread was passed on within a millisecond": Known(
        [("happen", what, 0) for what in ("person", "refer", "pass", "refer")], behaviour={}, conversations=4
    ),
    "conversations far down the list can't be read, and the next run stops above them": Known(
        [*(("ill", k, "not_found", 12) for k in range(24)), LOAD]
    ),
    "a conversation can't be read again and again, and when Graph shows it, it is no news": Known(
        [*(("ill", k, "not_found", 12) for k in range(8)), LOAD, LOAD, LOAD],
        behaviour=STRICT | {"since": "honoured"},
        conversations=4,
    ),
    "a first load ends in the midst of the list": Known([("trouble", "token_dead", 3, AGAIN_AND_AGAIN), LOAD]),
    "a backfill is the first to read": Known([("sync", "backfill", [])]),
    "a night's few calls are the first to read": Known([("sync", "night", [])]),
    "a night's few calls are put off in the midst, and it has begun with what the next run finds": Known(
        [("trouble", "throttled", 4, AGAIN_AND_AGAIN), ("sync", "night", [])], conversations=4
    ),
    "a worker dies in the midst of a step of the second page": Known([("fall", "incremental", 3)]),
    "a worker dies in the midst of another": Known([("fall", "incremental", 4)]),
    "Graph shows less than a webhook has told, for it is late": Known(
        [
            *(("happen", "person", 0), ("arrive", 0, 1), ("wait", 700), ("happen", "edit", 0), ("happen", "react", 0)),
            *(("arrive", 0, 4), ("wait", 1), ("sync", "full", [])),
        ],
        conversations=4,
    ),
    "an unsend comes before its message": Known(
        [
            *(("happen", "person", 0), ("happen", "unsend", 0), ("arrive", 1, 1)),
            *(("sync", "full", []), ("arrive", 0, 1)),
        ],
        conversations=4,
    ),
    "an unsend is never told, and the conversation is new": Known(
        [("happen", "person", 0), ("arrive", 0, 1), ("happen", "unsend", 0), ("lose", 0)], conversations=4
    ),
    "the list is in no order, and news stand anywhere in it": Known(
        [
            *(LOAD, ("wait", 700), ("wait", 700)),
            *(("happen", "person", k) for k in (0, 2, 4, 6)),
            *(("lose", 0) for _ in range(4)),
        ],
        behaviour={**STRICT, "order": "shuffled"},
        conversations=60,
        messages=3,
    ),
}
