"""The published shapes are those of the structs."""

from __future__ import annotations

from pathlib import Path

from tracefleet_cli.json_schemas import schema_files

PUBLISHED = Path(__file__).parents[2] / "docs" / "schema"


def test_published_schemas_are_current() -> None:
    """After a change: python -m tracefleet_cli.json_schemas docs/schema"""
    published = {path.name: path.read_text() for path in PUBLISHED.glob("*.json")}
    assert published == schema_files()
