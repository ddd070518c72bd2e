"""What every answer is made of: lists, pages of lists, problems."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Told(BaseModel):
    """What the service tells. A field that has no default is always there."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Rows(Told, Generic[T]):
    """All of a list."""

    data: list[T]


class Paged(Told, Generic[T]):
    """A page of a list."""

    data: list[T]
    next: str | None = Field(description="pass it as `cursor` to go on; null: this is the end")


class SpoolState(Told):
    """What waits in the spool for Postgres."""

    deliveries: int
    bytes: int
    oldest_seconds: float | None


class ReconcilerState(Told):
    """Whether somebody syncs."""

    heartbeat_seconds: float | None = Field(
        description="since any process last scheduled syncs; null: none ever did, or the database can't be asked"
    )


class Problem(Told):
    """What is refused, and why (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = Field(
        None, description="what is wrong in the request, where one thing is; `authorization`: the key"
    )
    needed_role: Literal["read", "operate", "admin"] | None = Field(None, description="with 403: the role it takes")
    spool: SpoolState | None = Field(None, description="of `/readyz`")
    reconciler: ReconcilerState | None = Field(None, description="likewise")


class Readiness(Told):
    """Whether a process can do its work."""

    state: Literal["ready", "degraded"]
    detail: str | None
    spool: SpoolState
    reconciler: ReconcilerState
