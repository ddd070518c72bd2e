"""What an answer of Graph tells of threads, as steps to store. Pure: no call, no database."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from reconciler.graph.errors import BadAnswer
from reconciler.graph.paging import next_cursor, rows_of
from reconciler.graph.payload import ConversationNode, MessageNode
from reconciler.graph.rows import conversation_row, message_row, person_of, thread_row
from reconciler.steps import Step
from sql.audit_threads import Listing
from sql.mids import canonical_mid
from sql.threads import Reached, Unfinished

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from reconciler.asking import Told
    from reconciler.goal import Goal
    from sql.rows import Row
    from sql.threads import Known

log = structlog.get_logger(__name__)

Shape = TypeVar("Shape", bound=BaseModel)


def read_conversations(values: list[Any]) -> tuple[list[ConversationNode], list[tuple[str, str]]]:
    """Read listed conversations; those of another shape come back as (id, reason), where they have an id."""
    nodes, unreadable = [], []
    for value in values:
        node = _read(ConversationNode, value)
        if isinstance(node, ConversationNode):
            nodes.append(node)
        elif isinstance(value, dict) and isinstance(value.get("id"), str) and 0 < len(value["id"]) <= 1000:
            unreadable.append((value["id"], f"Graph shows it in a shape that can't be read: {node}"))
    return nodes, unreadable


def read_messages(values: list[Any]) -> list[MessageNode]:
    """Read messages; one that is of another shape is reported and costs no other."""
    nodes = (_read(MessageNode, value) for value in values)
    return [node for node in nodes if isinstance(node, MessageNode)]


def _read(shape: type[Shape], value: Any) -> Shape | str:
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        log.warning("graph_row_unreadable", shape=shape.__name__, reason=reason)
        return reason


def thread_step(goal: Goal, page_id: str, node: ConversationNode, known: Known, told: Told, now: datetime) -> Step:
    """What to store of a conversation with its recent messages, and whether more of them are needed."""
    try:
        values, cursor, is_readable = rows_of(node.messages), next_cursor(node.messages), True
    except BadAnswer:
        # not nested, or not to be paged from here: read from the newest message on
        values, cursor, is_readable = [], None, False
    messages = read_messages(values)
    psid = person_of(page_id, node, messages)
    target, reached = goal.target(known.stored_to), goal.reached(node.updated_time)
    rows = message_rows(page_id, node.id, psid, messages, told, now)
    rows.append(conversation_row(page_id, node, psid, told.answer.observed_at))
    step = Step(tuple(rows), conversations=1, messages=goal.counted(messages))
    if goal.compares and is_readable:
        step += Step(listings=(_listing(node.id, values, messages, told, begins=True, ends=cursor is None),))
    if is_readable and (cursor is None or reaches(messages, target)):
        return step + ended(node.id, target if cursor is not None else None, reached)
    return step + Step(unfinished=(Unfinished(node.id, psid, cursor, target, reached),))


def page_step(
    goal: Goal, page_id: str, thread: Unfinished, told: Told, now: datetime
) -> tuple[Step, Unfinished | None]:
    """What to store of a page of a thread's messages, and what is left to read of the thread.

    Raises:
        BadAnswer: it is no page of messages.

    """
    values, cursor = rows_of(told.answer.data), next_cursor(told.answer.data)
    messages = read_messages(values)
    psid = thread.psid or person_of(page_id, None, messages)
    rows = message_rows(page_id, thread.thread_id, psid, messages, told, now)
    step = Step(tuple(rows), messages=goal.counted(messages))
    if goal.compares:
        begins, ends = thread.cursor is None, cursor is None
        listing = _listing(thread.thread_id, values, messages, told, begins=begins, ends=ends)
        step += Step(listings=(listing._replace(is_deep=True),))
    if cursor is None or reaches(messages, thread.target):
        target = thread.target if cursor is not None else None
        return step + ended(thread.thread_id, target, thread.reached), None
    rest = thread._replace(cursor=cursor, psid=psid)
    return step + Step(unfinished=(rest,)), rest


def ended(thread_id: str, target: datetime | None, reached: datetime | None) -> Step:
    """A thread was read from its newest message down to `target`, None for the beginning."""
    return Step(ended=(thread_id,), complete=(Reached(thread_id, target, reached),) if reached is not None else ())


def _listing(
    thread_id: str, values: list[Any], messages: list[MessageNode], told: Told, *, begins: bool, ends: bool
) -> Listing:
    """What a page of a thread says of which messages there are; `messages` are those of its rows that can be read."""
    ids = [value.get("id") for value in values if isinstance(value, dict)]
    return Listing(
        thread_id,
        tuple(canonical_mid(str(mid)) for mid in ids if mid),
        told.answer.observed_at,
        stubs=len(messages) if told.is_lean else sum(message.is_stub for message in messages),
        is_clean=len(messages) == len(values),
        begins=begins,
        ends=ends,
    )


def message_rows(
    page_id: str, thread_id: str, psid: str | None, messages: list[MessageNode], told: Told, now: datetime
) -> list[Row]:
    """The thread's row and its messages' rows."""
    at, asked = told.answer.observed_at, told.has_reactions
    return [
        thread_row(page_id, thread_id, psid),
        *(message_row(page_id, thread_id, psid, m, observed_at=at, now=now, asked_reactions=asked) for m in messages),
    ]


def reaches(messages: Iterable[MessageNode], target: datetime | None) -> bool:
    """Whether a page of messages goes back beyond `target`; only one that is in order, newest first, proves it."""
    times = [m.created_time for m in messages if m.created_time is not None]
    if target is None or not times or times[-1] >= target:
        return False
    return all(newer >= older for newer, older in pairwise(times))
