"""Option classes: their base, their faults in plain words, and registries that find them by name.

Names resolve lazily: reading a recipe needs only the options of a loss or adapter, which import no
torch; the implementation is imported when a run is prepared.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Tag, ValidationError, ValidationInfo, field_validator

from finetune.core.errors import RecipeError, suggestion


def merged_deeply(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, the second one's values first; only mappings go deeper."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merged_deeply(below, value) if both else value  # type: ignore[arg-type]
    return merged


def flattened(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys and their values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Options(BaseModel):
    """Unknown keys are errors, numbers are finite, values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        inner = list(value.values()) if isinstance(value, Mapping) else [value]
        types = _types(cls.model_fields[str(info.field_name)].annotation)
        wants_number = bool({int, float} & types) and not {bool, Any} & types
        if wants_number and any(isinstance(item, bool) for item in inner):
            raise ValueError("must be a number, not true or false")
        return value


def _types(annotation: Any) -> set[Any]:
    """Return every type that an annotation is made of."""
    found = {annotation} if isinstance(annotation, type) or annotation is Any else set()
    return found.union(*map(_types, get_args(annotation)))


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Turn a pydantic error into one line per fault, with the nearest known key."""
    found = lines(error, model)
    count = sum(line.startswith("  ") for line in found.splitlines())
    return f"{where} has {count} fault{'' if count == 1 else 's'}:\n{found}"


def lines(error: ValidationError, model: type[BaseModel], within: str = "") -> str:
    """Return one line for each fault of an option class.

    Args:
        error: What pydantic found.
        model: The option class.
        within: Dotted key of the recipe that holds the options.
    """
    found: list[str] = []
    faults: dict[str, list[Any]] = {}
    for fault in error.errors():
        if fault["type"] == "value_error" and fault["msg"].startswith(_TOLD):
            found.append(fault["msg"].removeprefix(_TOLD.removesuffix("  ")))
            continue
        parts = [within, *(str(part) for part in fault["loc"])]
        location = ".".join(part for part in parts if part and not _INTERNAL.search(part))
        faults.setdefault(location, []).append(fault)
    for location, alternatives in faults.items():
        kinds = [fault["type"] for fault in alternatives]
        is_choice = all(kind in _KINDS or kind == "literal_error" for kind in kinds)
        if is_choice and any(other.startswith(f"{location}.") for other in faults):
            continue  # the form that was meant is explained below
        place = f"{location}: " if location else ""
        if is_choice and len(alternatives) > 1:
            forms = list(dict.fromkeys(_KINDS.get(kind, "") for kind in kinds if kind in _KINDS))
            listed = " or ".join([", ".join(forms[:-1]), forms[-1]] if len(forms) > 1 else forms)
            found.append(
                f"  {place}must be {listed}{_shown(alternatives[0])}{_hint(alternatives[0])}"
            )
            continue
        found += [f"  {place}{_message(fault, model)}" for fault in alternatives]
    return "\n".join(dict.fromkeys(found))


def _message(fault: Any, model: type[BaseModel]) -> str:
    """Return what is wrong in the words of a user."""
    kind = fault["type"]
    if kind == "extra_forbidden":
        known = _keys_at(model, fault["loc"][:-1])
        nearest = suggestion(str(fault["loc"][-1]), known)
        if not known:
            return "unknown key: this kind has no options."
        return f"unknown key.{nearest} Known: {', '.join(known)}."
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return f"{fault['msg'].removeprefix('Value error, ')}{_hint(fault)}"
    if kind in _KINDS:
        message = f"must be {_KINDS[kind]}"
    elif kind in _BOUNDS:
        context = fault["ctx"].items()
        sizes = {name: f"{v:g}" if isinstance(v, float) else v for name, v in context}
        message = _BOUNDS[kind].format(**sizes)
    else:
        message = fault["msg"].replace("Input should be", "must be")
    return f"{message}{_shown(fault)}{_hint(fault)}"


_KINDS = {
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
"""What pydantic's faults of type mean."""
_BOUNDS = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length} entry",
    "string_too_short": "must not be empty",
}
"""What its faults of size mean."""
_TOLD = "Value error,   "
"""How a fault begins that is a list of lines already."""
_INTERNAL = re.compile(r"^\(|[\[\]']|^(str|int|float|bool|dict|list|tuple|none)$")
"""Tags of unions and pydantic's names of types, which are not for the user."""
_HINT = " YAML reads a value that ends in a colon as a mapping: quote it, 'FILE@100:'."


def _hint(fault: Any) -> str:
    mapping = isinstance(fault["input"], dict) and None in fault["input"].values()
    return _HINT if mapping else ""


def _shown(fault: Any) -> str:
    text = "nothing" if fault["input"] is None else repr(fault["input"])
    if "\n" in text:
        return ""
    return f" (got {text if len(text) < 60 else text[:57] + '…'})"


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the keys known where a fault is; the location may hold tags of unions."""
    for place, part in enumerate(location):
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _model_of(field.annotation, location[place + 1 :]) or model
    return list(model.model_fields)


def _model_of(annotation: Any, below: Sequence[Any]) -> type[BaseModel] | None:
    """Find the option class in an annotation: the only one, or the one whose tag is below."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    tags = [item.tag for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Tag)]
    if tags and not set(tags).intersection(below):
        return None
    found = (_model_of(inner, below) for inner in get_args(annotation))
    return next((item for item in found if item is not None), None)


T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


def resolve(reference: str) -> Any:
    """Import what ``module:name`` refers to."""
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


class Registry(Generic[T]):
    """Maps short names to classes that carry a pydantic class, ``Options``.

    Args:
        kind: What is registered, in the words of an error message ("loss", "adapter").
        group: Entry-point group searched once, on the first name that is not built in.
        builtin: Name -> ("module:Class", "module:OptionsClass").
        carries: Name of the attribute with the pydantic class.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        builtin: Mapping[str, tuple[str, str]],
        carries: str = "Options",
    ) -> None:
        self.kind = kind
        self.group = group
        self.builtin = dict(builtin)
        self.carries = carries
        self._registered: dict[str, type[T]] = {}
        self._plugins_loaded = False
        self._broken: dict[str, str] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Return a class decorator that makes the class known under ``name``.

        Raises:
            ValueError: If the name is taken by another class, or the class lacks its options.
        """

        def decorate(cls: C) -> C:
            options = getattr(cls, self.carries, None)
            if not (isinstance(options, type) and issubclass(options, BaseModel)):
                raise ValueError(f"{cls.__name__} needs `{self.carries}`, a pydantic class")
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
        options: type[BaseModel] = getattr(self._lookup(name), self.carries)
        return options

    def _lookup(self, name: str) -> type[T]:
        if name not in self._registered:
            self._load_plugins()
        if name in self._broken:
            raise RecipeError(self._broken[name])
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
                if point.name not in self._registered:
                    self.register(point.name)(cls)
            except (Exception, SystemExit) as error:  # must not break what does not use it
                self._broken[point.name] = (
                    f"the {self.kind} plug-in '{point.name}' ({point.value}) does not load: "
                    f"{type(error).__name__}: {error}. Correct it or uninstall its package."
                )
                warnings.warn(self._broken[point.name], stacklevel=2)
