"""Rules of what counts as repaired, broken one at a time."""

from __future__ import annotations

from functools import partial

from tests.mutations.mutation import Mutation

_REPAIRS = "sql/repairs.py"
_LOSS = "sql/loss.py"
_in_repairs = partial(Mutation, tests=("tests/reconciler/test_repairs.py", "tests/sql/test_loss.py"))
_in_pacing = partial(Mutation, tests=("tests/reconciler/test_pacing.py",))

REPAIRS = [
    _in_repairs("repaired", "also what was read again", _REPAIRS, "m.sync_seen_at = n.seen_at AND ", ""),
    _in_repairs("repaired", "also what a webhook brought", _REPAIRS, " AND m.webhook_seen_at IS NULL\n", "\n"),
    _in_repairs("repaired", "also what nobody expected", _REPAIRS, "AND {IS_EXPECTED} AND NOT", "AND NOT"),
    _in_repairs("repaired", "decided when it was sent", _REPAIRS, "GREATEST(m.sent_at, now())", "m.sent_at"),
    _in_repairs(
        "repaired", "a late webhook takes it back", _REPAIRS, "OR m.webhook_seen_at > m.sent_at + $1::interval", ""
    ),
    _in_repairs(
        "repaired", "a webhook takes nothing back", _REPAIRS, "WHERE NOT was_missed GROUP", "WHERE false GROUP"
    ),
    _in_repairs("repaired", "a postback is missed", _REPAIRS, "AND NOT {CAME_AS_EVENT} AS was_missed", "AS was_missed"),
    _in_repairs(
        "repaired",
        "also what came late first",
        _LOSS,
        "CASE WHEN m.first_seen_via = 'sync' THEN m.sync_seen_at END",
        "m.sync_seen_at",
    ),
    _in_pacing("pace", "what was just sent shortens it", "sql/pace.py", "(b.was_just_sent OR m.webhook", "(m.webhook"),
    _in_pacing(
        "pace",
        "what has come shortens it",
        "sql/pace.py",
        "(b.was_just_sent OR m.webhook_seen_at IS NOT NULL)",
        "b.was_just_sent",
    ),
]
