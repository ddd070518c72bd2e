"""What is told of the keys of the API."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Literal

from pydantic import Field

from app.api.answers.common import Told


class Key(Told):
    """A key of the API, without what proves it."""

    id: str
    name: str
    role: Literal["read", "operate", "admin"]
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


class NewKey(Key):
    """A key that was just made."""

    key: str = Field(description="what to send as `Authorization: Bearer`; shown this once, and stored nowhere")
