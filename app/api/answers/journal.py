"""What is told of deliveries."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Literal
from uuid import UUID  # noqa: TC003

from pydantic import Field

from app.api.answers.common import Told


class DeadLetter(Told):
    """Where in a body something could not be read, and why."""

    path: str
    reason: str


class Delivery(Told):
    """A journaled delivery, without its body."""

    id: UUID
    received_at: datetime
    state: Literal["stored", "partial", "dead", "test"]
    items: int
    dead_letters: list[DeadLetter] | None
    replayed_at: datetime | None
    bytes: int


class DeliveryWithBody(Delivery):
    """A journaled delivery with its raw body."""

    encoding: Literal["utf-8", "base64"] = Field(description="how the bytes are written in `body`")
    body: str


class Replayed(Told):
    """What a replay did."""

    deliveries: int
    still_dead: int
    inserted: int
    updated: int
    next: str | None = Field(description="pass it as `cursor` to go on; null: all is done")
