"""Plug-ins through entry points: found on look-up, reported when broken."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from finetune.core import options as registry
from finetune.core.errors import RecipeError
from finetune.core.options import Options, Registry


class Plugin:
    Options = Options


def filled(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> Registry[Any]:
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [p for p in points if p.group == group]
    )
    return Registry("thing", "some.group", {"own": (f"{__name__}:Plugin", f"{__name__}:Options")})


def test_entry_points_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    things = filled(monkeypatch, EntryPoint("theirs", f"{__name__}:Plugin", "some.group"))
    assert things.get("theirs") is Plugin
    assert things.get("own").__name__ == "Plugin"
    assert things.names() == ["own", "theirs"]


def test_a_broken_plugin_is_named_and_spares_the_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    things = filled(monkeypatch, EntryPoint("broken", "no.such.module:X", "some.group"))
    assert things.options("own") is Options
    with (
        pytest.warns(UserWarning, match="'broken' .* does not load"),
        pytest.raises(RecipeError, match=r"plug-in 'broken' .* does not load"),
    ):
        things.get("broken")


@pytest.mark.parametrize(("name", "target"), [("bare", "builtins:dict"), ("own", "Plugin")])
def test_a_malformed_plugin_spares_the_others(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target if ":" in target else f"{__name__}:{target}"
    others = EntryPoint("theirs", f"{__name__}:Plugin", "some.group")
    things = filled(monkeypatch, EntryPoint(name, target, "some.group"), others)
    with pytest.warns(UserWarning, match=f"'{name}' .* does not load: ValueError"):
        assert things.names() == ["own", "theirs"]
    assert things.names() == ["own", "theirs"]


def test_a_class_may_be_registered_again_by_its_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    things = filled(monkeypatch)
    assert things.register("mine")(Plugin) is Plugin
    assert things.register("mine")(Plugin) is Plugin
