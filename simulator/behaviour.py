"""How this Graph behaves where nobody could confirm how the real one does.

The defaults grant nothing that is not documented (`since`, `reply_to`, exact counts), and none of the worst cases
either (an order that is none, stubs, lag, short answers): those are for tests to switch on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints


@dataclass(slots=True)
class Behaviour:
    """Change a switch at any time. The numbers in brackets are sections of the Graph sheet."""

    since: Literal["ignored", "honoured", "refused", "lying"] = "ignored"
    """What `since` does on the list of conversations [1.1]; lying: it filters, and hides some that are newer."""
    order: Literal["newest_first", "shuffled_pages", "shuffled"] = "newest_first"
    """The list's order [1.4]: every answer's rows mixed, or the whole list."""
    cursors: Literal["position", "offset"] = "position"
    """What a cursor means when rows move: with offset, rows repeat [1.3]."""
    cursor_seconds: float | None = None
    """After how long a cursor goes stale; None: never [1.3]."""
    twenty_newest: bool = False
    """Whether only the 20 newest messages of a conversation have details [2.3]."""
    read_lag_seconds: float = 0.0
    """How much older the data is than the answer's Date."""
    max_limit: int = 500
    """A greater `limit` is cut to this [1.1]."""
    max_rows: int | None = 5_000
    """Rows that a query may ask for, its nested ones counted, before it is too heavy: error 1 [2.5]."""
    has_reply_to: bool = False
    """Whether messages have the field `reply_to` [2.2]."""
    short_pages: float = 0.0
    """How often an answer has fewer rows than asked for, down to none, and still a next page [1.3]."""
    hides_media: float = 0.0
    """How often an attachment is only {id, name: "Media not available ..."}, as in Europe [2.2]."""
    counts_are_estimates: bool = True
    """Whether message_count counts unsent messages too [1.2]."""

    def __post_init__(self) -> None:
        """Refuse a value that is none of a switch's.

        Raises:
            ValueError: it names the switch and what it can be.

        """
        for name, hint in get_type_hints(type(self)).items():
            allowed, value = get_args(hint), getattr(self, name)
            if allowed and isinstance(allowed[0], str) and value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value}")
