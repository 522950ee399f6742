"""Short names for losses and adapters: built-in ones, registered ones and entry points.

Names resolve lazily. Reading a recipe needs only the *options* of a loss or adapter, which live in
modules that import no torch; the implementation is imported when a run is prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from finetune.core.errors import RecipeError, suggestion

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


def resolve(reference: str) -> Any:
    """Import what ``module:name`` refers to."""
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


class Registry(Generic[T]):
    """Maps short names to classes that carry an ``Options`` pydantic class.

    Args:
        kind: What is registered, in the words of an error message ("loss", "adapter").
        group: Entry-point group searched once, on the first name that is not built in.
        builtin: Name -> ("module:Class", "module:OptionsClass").
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, tuple[str, str]]) -> None:
        self.kind = kind
        self.group = group
        self.builtin = dict(builtin)
        self._registered: dict[str, type[T]] = {}
        self._plugins_loaded = False

    def register(self, name: str) -> Callable[[C], C]:
        """Return a class decorator that makes the class known under ``name``.

        Raises:
            ValueError: If the name is taken by another class, or the class lacks ``Options``.
        """

        def decorate(cls: C) -> C:
            options = getattr(cls, "Options", None)
            if not (isinstance(options, type) and issubclass(options, BaseModel)):
                raise ValueError(f"{cls.__name__} needs an `Options` class derived from pydantic")
            known = self._registered.get(name)
            same = known is not None and known.__qualname__ == cls.__qualname__
            if name in self.builtin or (known is not None and not same):
                raise ValueError(f"the {self.kind} name '{name}' is already taken")
            self._registered[name] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """Return every known name, sorted; loads the entry points."""
        self._load_plugins()
        return sorted({*self.builtin, *self._registered})

    def get(self, name: str) -> type[T]:
        """Return the class registered under ``name``.

        Raises:
            RecipeError: If nothing is registered under that name.
        """
        if name in self.builtin:
            found: type[T] = resolve(self.builtin[name][0])
            return found
        return self._lookup(name)

    def options(self, name: str) -> type[BaseModel]:
        """Return the options class of ``name`` without importing a built-in implementation.

        Raises:
            RecipeError: If nothing is registered under that name.
        """
        if name in self.builtin:
            found: type[BaseModel] = resolve(self.builtin[name][1])
            return found
        options: type[BaseModel] = self._lookup(name).Options  # type: ignore[attr-defined]
        return options

    def _lookup(self, name: str) -> type[T]:
        if name not in self._registered:
            self._load_plugins()
        if name not in self._registered:
            known = self.names()
            raise RecipeError(
                f"unknown {self.kind} '{name}'.{suggestion(name, known)} Known: {', '.join(known)}."
            )
        return self._registered[name]

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=self.group):
            try:
                cls = point.load()
            except Exception as error:  # a broken plug-in must not break recipes without it
                raise RecipeError(
                    f"the {self.kind} plug-in '{point.name}' ({point.value}) does not load: {error}"
                ) from error
            if point.name not in self._registered:
                self.register(point.name)(cls)
