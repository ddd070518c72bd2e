"""How this Graph behaves where nobody could confirm how the real one does.

The defaults grant nothing that is not documented (`since`, `reply_to`, exact counts, data as new as its Date), and
none of the worst cases either (an order that is none, stubs, short answers): those are for tests to switch on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isinf
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Iterable


class BehaviourError(ValueError):
    """A switch that there is not, or a value that it can't have; the text says what can be."""


@dataclass(slots=True)
class Behaviour:
    """Change a switch at any time. The numbers in brackets are sections of the Graph sheet."""

    since: Literal["ignored", "honoured", "refused", "lying"] = "ignored"
    """What `since` does on the list of conversations [1.1]; lying: it filters, and hides some that are newer."""
    updated_time: Literal["messages", "changes"] = "messages"
    """What moves it: messages alone, or edits, reactions, unsends and reads too; read when a Graph is made [1.4]."""
    order: Literal["newest_first", "shuffled_pages", "shuffled"] = "newest_first"
    """The list's order [1.4]: every answer's rows mixed, or the whole list."""
    cursors: Literal["position", "offset"] = "position"
    """What a cursor means when rows move: with offset, rows repeat [1.3]."""
    cursor_seconds: float | None = None
    """After how long a cursor goes stale; None: never [1.3]."""
    twenty_newest: bool = False
    """Whether only the 20 newest messages of a conversation have details [2.3]."""
    read_lag_seconds: float = 5.0
    """How much older the data is than the answer's Date: nobody measured it, and nobody promised that there is none."""
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
            BehaviourError: it names the switch and what it can be.

        """
        for name, hint in get_type_hints(type(self)).items():
            allowed, value = get_args(hint), getattr(self, name)
            if allowed and isinstance(allowed[0], str) and value not in allowed:
                raise BehaviourError(f"{name} must be one of {', '.join(allowed)}, not {value}")
        for name in ("short_pages", "hides_media"):
            if not 0 <= getattr(self, name) <= 1:
                raise BehaviourError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        for name, least in (("read_lag_seconds", 0), ("cursor_seconds", 0), ("max_limit", 1), ("max_rows", 1)):
            value = getattr(self, name)
            if value is not None and (not value >= least or isinf(value)):
                raise BehaviourError(f"{name} must be a number of at least {least}, not {value}")


SWITCHES = tuple(field.name for field in fields(Behaviour))


def parse_behaviour(texts: Iterable[str]) -> Behaviour:
    """Read NAME=VALUE, such as `since=honoured` or `read_lag_seconds=2`; `none` where a switch has no value.

    Raises:
        BehaviourError: there is no such switch, or it can't have this value.

    """
    hints = get_type_hints(Behaviour)
    given = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if name not in SWITCHES or not sign:
            raise BehaviourError(f"not a switch: {text}; it is NAME=VALUE, with one of {', '.join(SWITCHES)}")
        given[name] = _value(name, hints[name], value)
    return Behaviour(**given)


def _value(name: str, hint: Any, text: str) -> Any:
    kinds = get_args(hint) or (hint,)
    if bool in kinds:
        if text not in {"true", "false"}:
            raise BehaviourError(f"{name} must be true or false, not {text}")
        return text == "true"
    if NoneType in kinds and text == "none":
        return None
    number = next((kind for kind in kinds if kind in {int, float}), None)
    if number is None:
        return text
    try:
        return number(text)
    except ValueError:
        raise BehaviourError(f"{name} must be a number, not {text}") from None
