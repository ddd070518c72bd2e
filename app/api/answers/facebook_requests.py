"""What is told of Meta's callbacks."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Literal

from pydantic import Field

from app.api.answers.common import Told


class DeletionAnswer(Told):
    """What Facebook is told of a request that a person's data go."""

    url: str = Field(description="a page that tells the person how far it is")
    confirmation_code: str


class FacebookRequest(Told):
    """What Facebook asked for by a callback."""

    code: str
    kind: Literal["data_deletion", "deauthorize"]
    user_id: str | None = Field(description="the person's id for this app; null once it is not needed any more")
    page_id: str | None
    received_at: datetime
    state: Literal["received", "done", "unmatched"]
    outcome: str | None
    finished_at: datetime | None
    persons: int = Field(description="how many conversations were erased")
