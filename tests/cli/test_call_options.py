"""The typed options of the Python API are those of the command line and of the settings."""

from __future__ import annotations

import inspect

import pytest
from conftest import REPOSITORY

import pipeline
from pipeline.cli.call_options import COMMANDS, call_options
from pipeline.config import call_options as published


def test_the_published_types_are_those_of_the_code():
    assert (REPOSITORY / "pipeline/config/call_options.py").read_text() == call_options(), "renew them: make reference"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_shows_every_option_of_its_settings_with_its_default(name: str):
    kind = COMMANDS[name][1]
    function = getattr(pipeline, name.removesuffix("Options").lower())
    shown = inspect.signature(function).parameters
    assert {*kind.model_fields} <= {*shown}
    assert {*getattr(published, name).__annotations__} <= {*shown}
    assert shown["progress"].default == "none"
    assert shown["workers"].default == kind.model_fields["workers"].default if "workers" in shown else True
    assert not [each for each in shown.values() if each.kind is each.VAR_KEYWORD]
    assert all(
        f"\n    {option}: " in inspect.cleandoc(function.__doc__) for option in published.__dict__[name].__annotations__
    )
