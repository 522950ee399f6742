"""The JSON schema of recipes, with the options of every known loss and adapter."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from finetune.core.options import Registry
from finetune.recipe.adapter_options import DEFAULT_ADAPTER
from finetune.recipe.plugins import adapters, losses
from finetune.recipe.recipe import KEYS as STAGE_KEYS
from finetune.recipe.recipe import Recipe

Schema = dict[str, Any]


def recipe_schema() -> Schema:
    """Return the schema, for editors that complete and check YAML; loads plug-ins.

    A loss goes by its key or, where the key is a name of the user's own, by its ``kind``; an
    adapter goes by its ``kind``, or is a bare name.
    """
    of_losses, of_adapters = _options(losses), _options(adapters)
    models: list[type[BaseModel]] = [Recipe, *of_losses.values(), *of_adapters.values()]
    _, shared = models_json_schema([(model, "validation") for model in dict.fromkeys(models)])
    defined = shared["$defs"]
    recipe: Schema = defined.pop(Recipe.__name__)
    loss = {name: _nullable(_reference(model)) for name, model in of_losses.items()}
    own = [
        {
            "allOf": [_reference(model)],
            "properties": {"kind": {"const": name}},
            "required": ["kind"],
        }
        for name, model in of_losses.items()
    ]
    recipe["properties"]["losses"] |= {"properties": loss, "additionalProperties": {"oneOf": own}}
    adapter = [
        {**(found := defined[model.__name__]), "title": name}
        | {"properties": {"kind": {"const": name}, **found.get("properties", {})}}
        for name, model in of_adapters.items()
    ]
    recipe["properties"]["adapter"] = {
        "anyOf": [{"enum": list(of_adapters)}, *adapter],
        "default": {"kind": DEFAULT_ADAPTER},
    }
    shared_keys = {key: recipe["properties"][key] for key in STAGE_KEYS}
    recipe["properties"]["stages"]["additionalProperties"] = {
        "type": "object",
        "properties": {**shared_keys, "data": {"type": "object"}},  # the rest of it is inherited
        "additionalProperties": False,
    }
    recipe["required"].remove("data")
    recipe["anyOf"] = [{"required": ["data"]}, {"required": ["stages"]}]
    return {**recipe, "$defs": defined}


def _options(registry: Registry[Any]) -> dict[str, type[BaseModel]]:
    return {name: registry.options(name) for name in registry.names()}


def _reference(model: type[BaseModel]) -> Schema:
    return {"$ref": f"#/$defs/{model.__name__}"}


def _nullable(schema: Schema) -> Schema:
    """A key without a value stands for the defaults."""
    return {"anyOf": [schema, {"type": "null"}]}
