"""The README is the product's face: what it names exists, and what exists it names."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from app.cli.main import cli
from app.routes import all_endpoints
from app.settings import Settings
from simulator import Behaviour
from simulator.faults import KNOWN

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"README.md has no section {title!r}"
    return found[1]


def first_cells(title: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", section(title), re.MULTILINE)


def test_the_settings_table_is_what_the_code_says() -> None:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else "unset" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{name.upper()}` | {default.lower()} | {field.description} |")
    table = [line for line in section("Settings").splitlines() if line.startswith("| `")]
    assert table == rows


def test_every_endpoint_is_named_with_the_role_it_takes_and_every_named_one_exists() -> None:
    served = {
        (f"{endpoint.method} {prefix}{endpoint.template}", endpoint.role.word if endpoint.role else "")
        for prefix, endpoint in all_endpoints()
    }
    rows = re.findall(r"^\| `([^`]+)` \| ?(\w*) \| ", section("Endpoints"), re.MULTILINE)
    assert sorted(rows) == sorted(served)


def test_every_command_is_named_and_every_named_one_exists() -> None:
    command = typer.main.get_command(cli)
    named: set[str] = set()
    for name, sub in command.commands.items():  # type: ignore[attr-defined]
        named |= {f"{name} {inner}" for inner in sub.commands} if hasattr(sub, "commands") else {name}
    assert sorted(first_cells("Commands")) == sorted(named)


def test_every_fault_of_the_simulator_is_named_as_the_code_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", section("Simulate Facebook"), re.MULTILINE)
    assert rows == list(KNOWN.items())


def test_every_switch_of_the_simulator_is_named_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|.*\|.*\|$", section("Simulate Facebook"), re.MULTILINE)
    defaults = {field.name: str(field.default).lower() for field in fields(Behaviour)}
    assert rows == list(defaults.items())


@pytest.mark.parametrize("option", sorted(set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", section("Simulate Facebook")))))
def test_every_option_of_simulate_that_is_named_exists(option: str) -> None:
    command = typer.main.get_command(cli).commands["simulate"]  # type: ignore[attr-defined]
    assert option in {"--help", *(opt for param in command.params for opt in param.opts)}


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z-]+)", section("Commands")))))
def test_every_named_option_exists(option: str) -> None:
    known: set[str] = set()
    commands = [typer.main.get_command(cli)]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        known |= {opt for param in command.params for opt in param.opts}
    assert option in known


def test_files_it_names_exist() -> None:
    for name in ("compose.yaml", ".ci/run", "sql/migrations/0001_mirror_of_conversations.sql"):
        assert name in README
        assert (ROOT / name).exists()


def test_locked_requirements_hold_names_versions_and_hashes_only() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert "://" not in (ROOT / name).read_text("utf-8")
