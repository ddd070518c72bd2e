from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from app.asgi import from_environment
from app.settings import DatabaseSettings, Settings, SettingsError, load_settings
from tests.app.service import API_KEY, APP_SECRET, ENCRYPTION_KEY, OLD_API_KEY, SECRETS, VERIFY_TOKEN

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "pass-word-83fa"
NEEDED = {
    "FACEBOOK_APP_SECRET": APP_SECRET,
    "FACEBOOK_VERIFY_TOKEN": VERIFY_TOKEN,
    "OPS_API_KEY": API_KEY,
    "TOKEN_ENCRYPTION_KEY": ENCRYPTION_KEY,
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what is needed is set, and there is no .env."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def refusal(**environment: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as refused:
            load_settings(Settings)
    text = str(refused.value)
    assert not any(value in text for value in (*SECRETS, PASSWORD))
    return text


def test_what_is_needed_is_enough_and_the_rest_has_the_documented_defaults() -> None:
    settings = load_settings(Settings)
    assert settings.database_url is None
    assert str(settings.data_dir) == "data"
    assert (settings.graph_api_url, settings.graph_api_version) == ("https://graph.facebook.com", "v26.0")
    assert settings.port == 8000
    assert (settings.sync_interval_seconds, settings.sync_overlap_seconds, settings.sync_concurrency) == (300, 600, 32)
    assert settings.graph_calls_per_second_per_page == 2
    assert settings.reconciler_enabled is True


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("value", [None, "", "  ", ","])
def test_a_secret_that_is_missing_stops_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    monkeypatch.delenv(name)
    if value is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings(Settings)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{name} is not set: ") or line == f"{name}: must not be empty"
    with pytest.raises(SettingsError, match=name):
        from_environment()


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        monkeypatch.delenv(name)
    text = refusal(PORT="many", SYNC_CONCURRENCY="0")
    assert [line.partition(" ")[0].rstrip(":") for line in text.splitlines()] == [*NEEDED, "PORT", "SYNC_CONCURRENCY"]


@pytest.mark.parametrize("key", ["x", "é" * 44, ENCRYPTION_KEY[:-2], f"{ENCRYPTION_KEY},short"])
def test_a_key_that_is_no_fernet_key_is_refused_with_how_to_make_one(key: str) -> None:
    text = refusal(TOKEN_ENCRYPTION_KEY=key)
    assert text.startswith("TOKEN_ENCRYPTION_KEY: must be Fernet keys")
    assert "openssl rand -base64 32" in text
    assert "short" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("SYNC_INTERVAL_SECONDS", "0"),
        ("SYNC_INTERVAL_SECONDS", "inf"),
        ("SYNC_INTERVAL_SECONDS", "nan"),
        ("SYNC_OVERLAP_SECONDS", "-1"),
        ("SYNC_OVERLAP_SECONDS", "9" * 20),
        ("GRAPH_CALLS_PER_SECOND_PER_PAGE", "inf"),
        ("GRAPH_API_VERSION", "26"),
        ("GRAPH_API_URL", "graph.facebook.com"),
        ("GRAPH_API_URL", "http://localhost:port"),
        ("GRAPH_API_URL", "http://localhost:70000"),
        ("GRAPH_API_URL", "http://[bad"),
        ("PUBLIC_URL", "mirror.example"),
        ("PUBLIC_URL", "http://mirror.example:port"),
        ("JOURNAL_RETENTION_DAYS", "9" * 20),
        ("RECONCILER_ENABLED", "perhaps"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_value_that_would_fail_later_is_refused_at_the_start(name: str, value: str) -> None:
    assert refusal(**{name: value}).startswith(f"{name}: ")


def test_several_secrets_are_split_current_first(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Fernet.generate_key().decode()
    monkeypatch.setenv("OPS_API_KEY", f" {API_KEY} ,{OLD_API_KEY},")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", f"{other},{ENCRYPTION_KEY}")
    settings = load_settings(Settings)
    assert settings.api_keys == [API_KEY, OLD_API_KEY]
    assert settings.encryption_keys == [other, ENCRYPTION_KEY]
    assert settings.app_secrets == [APP_SECRET]
    assert settings.verify_tokens == [VERIFY_TOKEN]


def test_no_secret_is_shown_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://user:{PASSWORD}@db/mirror")
    settings = load_settings(Settings)
    shown: list[Any] = [settings, repr(settings), settings.model_dump(), settings.model_dump_json()]
    assert not any(value in str(text) for text in shown for value in (*SECRETS, PASSWORD))


def test_settings_come_from_a_file_too_and_the_environment_goes_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPS_API_KEY")
    (tmp_path / ".env").write_text("OPS_API_KEY=from-the-file\nPORT=1234\nUNKNOWN=1\n")
    monkeypatch.setenv("PORT", "4321")
    settings = load_settings(Settings)
    assert settings.api_keys == ["from-the-file"]
    assert settings.port == 4321


def test_a_command_that_only_needs_the_database_asks_for_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        monkeypatch.delenv(name)
    assert load_settings(DatabaseSettings).database_url is None


def test_an_env_file_that_is_no_text_stops_the_start_and_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"FACEBOOK_APP_SECRET=pass\xff\xfe\n")
    text = refusal()
    assert text == f".env can't be read: it must be UTF-8 text: {tmp_path / '.env'}"


def test_an_env_file_that_may_not_be_read_stops_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=1\n")

    def refuse(*_args: object, **_more: object) -> None:  # root may read anything, so no mode would do
        raise PermissionError(13, "Permission denied", ".env")

    monkeypatch.setattr("dotenv.main.open", refuse, raising=False)
    assert refusal() == f".env can't be read: Permission denied: {tmp_path / '.env'}"
