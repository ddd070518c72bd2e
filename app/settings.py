"""Every setting, read once at the edge from the environment or `.env`, and passed down as values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable


# 32 bytes in URL-safe base64 are a Fernet key, and openssl is on more machines than our own Python
_MAKE_A_KEY = "make one with `openssl rand -base64 32 | tr '+/' '-_'`"


def _fernet_keys(value: SecretStr) -> SecretStr:
    from cryptography.fernet import Fernet

    for key in split_secret(value):
        try:
            Fernet(key)
        except ValueError as error:
            raise ValueError(f"must be Fernet keys, comma-separated: {_MAKE_A_KEY}") from error
    return value


def _not_empty(value: SecretStr) -> SecretStr:
    if not split_secret(value):
        raise ValueError("must not be empty")
    return value


def _with_a_port(value: str) -> str:
    try:
        _ = urlsplit(value).port
    except ValueError as error:
        raise ValueError("must be an address such as https://host:8000") from error
    return value


Secret = Annotated[SecretStr, AfterValidator(_not_empty)]
WebAddress = Annotated[str, Field(pattern=r"^https?://[^\s/]+"), AfterValidator(_with_a_port)]


def split_secret(value: SecretStr) -> list[str]:
    """Split a comma-separated secret: the current one first."""
    return [part.strip() for part in value.get_secret_value().split(",") if part.strip()]


class SettingsError(Exception):
    """The settings don't allow a start; the text names each variable and what is wrong."""


class DatabaseSettings(BaseSettings):
    """What it takes to reach the database; enough for commands that only need that."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = Field(
        None, description="Postgres 15 or later, in UTF8; unset: an embedded Postgres in `DATA_DIR`"
    )
    data_dir: Path = Field(Path("data"), description="folder of the embedded Postgres, and of the spool")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least severe line to log")


class Settings(DatabaseSettings):
    """What an owner sets."""

    facebook_app_id: str | None = Field(
        None,
        description="the app's id; `pages check` looks for it among a Page's subscribed apps, and Graph is asked "
        "with it whose a token is",
    )
    facebook_app_secret: Secret = Field(
        description="the app's secret, which signs webhooks; after a change: current, then previous, comma-separated"
    )
    facebook_verify_token: Secret = Field(description="the word that you also type into the App Dashboard")
    graph_api_url: WebAddress = Field("https://graph.facebook.com", description="where the Graph API is")
    graph_api_version: str = Field("v26.0", pattern=r"^v\d+\.\d+$", description="the Graph API's version")
    ops_api_key: Secret = Field(
        description="the first key for `/api`, of the role `admin`; several may be given, comma-separated"
    )
    token_encryption_key: Annotated[Secret, AfterValidator(_fernet_keys)] = Field(
        description="Fernet keys, comma-separated, that encrypt Page tokens: current first"
    )
    spool_dir: Path | None = Field(
        None, description="folder where deliveries wait while Postgres can't take them; unset: `spool` in `DATA_DIR`"
    )
    spool_max_bytes: int = Field(
        8 * 2**30, ge=0, description="most bytes that each process keeps there; beyond them a delivery is refused"
    )
    public_url: WebAddress | None = Field(
        None,
        description="where people reach this service, for links to it; unset: as each request names it",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    sync_interval_seconds: float = Field(300, gt=0, le=86400, description="how often each Page is synced")
    sync_overlap_seconds: int = Field(600, ge=0, le=10**7, description="how far behind its watermark a run re-reads")
    sync_concurrency: int = Field(32, ge=1, le=1000, description="Pages synced at the same time by one process")
    audit_budget_share: float = Field(
        0.25, gt=0, le=1, description="which part of a Page's daily calls its nightly audit may make"
    )
    graph_calls_per_second_per_page: float = Field(
        2, gt=0, le=1000, description="Meta's limit on its Conversations API is 2"
    )
    graph_lag_seconds: int = Field(
        60, ge=0, le=86400, description="how much older than its answer's `Date` the data of a Graph answer may be"
    )
    api_requests_per_second: float = Field(
        100, ge=0, le=10**6, description="how often a key may ask a process, in the mean of 10 seconds; 0: no limit"
    )
    reconciler_enabled: bool = Field(default=True, description="false makes a process that only receives and serves")
    journal_retention_days: int = Field(
        90, ge=1, le=36500, description="days that raw deliveries, and ended sync runs, are kept"
    )
    changes_retention_days: int = Field(14, ge=1, le=3650, description="days that changes are told of")

    @property
    def spool_folder(self) -> Path:
        """Where deliveries wait."""
        return self.spool_dir if self.spool_dir is not None else self.data_dir / "spool"

    @property
    def app_secrets(self) -> list[str]:
        """The app's secrets, current first."""
        return split_secret(self.facebook_app_secret)

    @property
    def app_token(self) -> str | None:
        """The app's own token for Graph; None without the app's id."""
        return f"{self.facebook_app_id}|{self.app_secrets[0]}" if self.facebook_app_id is not None else None

    @property
    def verify_tokens(self) -> list[str]:
        """Words that the handshake accepts."""
        return split_secret(self.facebook_verify_token)

    @property
    def api_keys(self) -> list[str]:
        """Keys that `/api` accepts, current first."""
        return split_secret(self.ops_api_key)

    @property
    def encryption_keys(self) -> list[str]:
        """Fernet keys, current first."""
        return split_secret(self.token_encryption_key)


AnySettings = TypeVar("AnySettings", bound=DatabaseSettings)


def load_settings(kind: type[AnySettings], **overrides: Any) -> AnySettings:
    """Read the settings.

    Raises:
        SettingsError: one is missing or wrong, or `.env` can't be read; the text names it and what to do.

    """
    try:
        return kind(**overrides)
    except OSError as error:
        raise SettingsError(f".env can't be read: {error.strerror}: {Path('.env').absolute()}") from error
    except UnicodeDecodeError:  # its text would show what stands there
        raise SettingsError(f".env can't be read: it must be UTF-8 text: {Path('.env').absolute()}") from None
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error))) from None


def _explain(error: ValidationError) -> Iterable[str]:
    # the values themselves stay out of the text: several are secrets
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = "_".join(map(str, problem["loc"])).upper()
        if problem["type"] == "missing":
            field = Settings.model_fields[name.lower()]
            hint = f"; {_MAKE_A_KEY}" if name == "TOKEN_ENCRYPTION_KEY" else ""
            yield f"{name} is not set: {field.description}{hint}"
        else:
            yield f"{name}: {problem['msg'].removeprefix('Value error, ')}"
