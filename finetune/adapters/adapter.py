"""The contract of an adapter, and those that train weights by name: full, frozen, readout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from finetune.core.errors import RecipeError, RunFolderError, suggestion
from finetune.core.files import write_atomically
from finetune.core.options import Options
from finetune.potentials.family import family
from finetune.potentials.potential import (
    FamilyPotential,
    Potential,
    block,
    innermost,
    plain_name,
)
from finetune.recipe.adapter_options import (
    STANDARD,
    AdapterRules,
    FrozenOptions,
    FullOptions,
    ReadoutOptions,
    TrainingDefaults,
)

LISTED = 3
"""Near names that an error message lists."""


def matches(name: str, pattern: str) -> bool:
    """Tell whether a pattern names a parameter or layer, or a block that contains it.

    ``readouts.*``, ``readouts`` and ``*.linear_1.weight`` all match ``readouts.1.linear_1.weight``.
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def matching(
    names: Sequence[str], patterns: Sequence[str], what: str, known: Sequence[str] | None = None
) -> list[str]:
    """Return the names that match any pattern, in their order; refuse a pattern without a match.

    The message calls the names ``what`` and lists those ``known`` (by default all).
    """
    for pattern in patterns:
        check_match(names, pattern, what, known)
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]


def check_match(
    names: Sequence[str], pattern: str, what: str, known: Sequence[str] | None = None
) -> None:
    """Refuse a pattern that matches no name; for the arguments see `matching`."""
    if any(matches(name, pattern) for name in names):
        return
    listed = names if known is None else known
    near = _nearest(pattern, [*blocks(names), *listed, *names])
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    raise RecipeError(
        f"the pattern '{pattern}' matches no {what}.{hint} Known: {', '.join(listed)}."
    )


def blocks(names: Iterable[str]) -> list[str]:
    """Return the blocks of a model that hold the names, in their order; see `block`."""
    return list(dict.fromkeys(block(name) for name in names))


def _nearest(pattern: str, known: Sequence[str]) -> list[str]:
    return get_close_matches(pattern, dict.fromkeys(known), n=LISTED, cutoff=0.6)


WEIGHTS = "adapter.safetensors"


class AdaptedPotential:
    """A potential of which some parameters are trainable, by name.

    Args:
        potential: The potential; every parameter not among ``trainable`` is frozen here.
        trainable: Names (as in ``potential.named_parameters()``) of what may change; RecipeError
            for a name that does not exist.
        notes: For the user, before training.
    """

    def __init__(
        self, potential: Potential, trainable: frozenset[str], notes: Sequence[str] = ()
    ) -> None:
        self.potential = potential
        self.notes = tuple(notes)
        known = [name for name, _ in potential.named_parameters()]
        unknown = sorted(trainable.difference(known))
        if unknown:
            raise RecipeError(
                f"the adapter trains '{unknown[0]}', but the potential has no such parameter."
                f"{suggestion(unknown[0], known)}"
            )
        for name, parameter in potential.named_parameters():
            parameter.requires_grad_(name in trainable)
        self._names = frozenset(
            name
            for name, parameter in potential.named_parameters()
            if name in trainable and parameter.requires_grad  # empty paths are kept at zero
        )

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return what may change: name -> parameter, in the order of the potential."""
        return {
            name: parameter
            for name, parameter in self.potential.named_parameters()
            if name in self._names
        }

    def parameter_groups(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """Return the trainable parameters by block of the model, e.g. ``readouts.0``."""
        groups: dict[str, dict[str, torch.nn.Parameter]] = {}
        for name, parameter in self.trainable_parameters().items():
            groups.setdefault(block(plain_name(name)), {})[name] = parameter
        return groups

    def shares(self) -> dict[str, tuple[int, int]]:
        """Return how many numbers of each block are trained, and how many it has."""
        found: dict[str, tuple[int, int]] = {}
        for name, parameter in self.potential.named_parameters():
            trained, total = found.get(of := block(plain_name(name)), (0, 0))
            found[of] = (trained + self.count_trained(name, parameter), total + parameter.numel())
        return found

    def count_trained(self, name: str, parameter: torch.Tensor) -> int:
        """Return how many numbers of a parameter are trained: all or none, unless overridden."""
        return parameter.numel() * (name in self._names)

    def save(self, folder: Path) -> None:
        """Write the trainable parameters into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: parameter.detach().cpu().contiguous().clone()
            for name, parameter in self.trainable_parameters().items()
        }
        write_atomically(folder / WEIGHTS, save_tensors(tensors))

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote; raises RunFolderError as `read_weights` does."""
        parameters = self.trainable_parameters()
        tensors = read_weights(folder / WEIGHTS, parameters)
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)

    def merge(self) -> Potential:
        """Return a potential that predicts the same: a plain one wherever that is possible.

        Otherwise a `WrappedPotential`: stored with its adapter, not for other programs.
        """
        return self.potential


def read_weights(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read stored weights; raises RunFolderError if they are damaged or of another adapter."""
    try:
        tensors = load_tensors(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise RunFolderError(f"'{path}' cannot be read: {error}.") from error
    stored = {name: tensor.shape for name, tensor in tensors.items()}
    if stored != {name: tensor.shape for name, tensor in expected.items()}:
        raise RunFolderError(f"'{path}' belongs to another adapter or another foundation.")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise RunFolderError(f"'{path}' holds weights that are NaN or infinite.")
    return tensors


class Adapter(ABC):
    """Decides which parameters of a potential may change, or adds some.

    A subclass names its options in ``Options`` and selects in `attach`. ``training_defaults`` says
    how it is trained where the recipe does not, ``rules`` what else a recipe must know. An adapter
    that adds parameters returns a potential of its own from `attach`, a `WrappedPotential`.
    """

    Options: ClassVar[type[BaseModel]] = Options
    training_defaults: ClassVar[TrainingDefaults] = STANDARD
    rules: ClassVar[AdapterRules] = AdapterRules()

    def __init__(self, options: BaseModel) -> None:
        self.options = options

    @abstractmethod
    def attach(self, potential: Potential) -> AdaptedPotential:
        """Freeze and free the parameters of ``potential``, in place, or of one around it.

        The same options must always give the same parameters: a stored potential is opened by
        attaching its adapter again and filling in the weights.
        """


class FullAdapter(Adapter):
    """Every parameter of the foundation is trainable."""

    Options = FullOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`."""
        return AdaptedPotential(potential, frozenset(dict(potential.named_parameters())))


class FrozenAdapter(Adapter):
    """Parameters are trained, or frozen, where their names match a pattern."""

    Options = FrozenOptions
    options: FrozenOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`; refuses patterns without a match or that leave nothing to train."""
        everything = frozenset(dict(potential.named_parameters()))
        matched = _selected(potential, self.options.train or self.options.freeze)
        trainable = matched if self.options.train else everything - matched
        if not trainable:
            raise RecipeError("adapter.freeze matches every parameter: nothing is left to train.")
        return AdaptedPotential(potential, trainable)


class ReadoutAdapter(Adapter):
    """The readouts alone are trainable."""

    Options = ReadoutOptions

    def attach(self, potential: Potential) -> AdaptedPotential:
        """See `Adapter.attach`."""
        return AdaptedPotential(potential, _selected(potential, ["readout"]))


def _selected(potential: Potential, patterns: Sequence[str]) -> frozenset[str]:
    """Return the parameters whose names in the model inside match any pattern.

    A pattern may be the name of a group of weights that the potential's family defines.
    """
    inside = innermost(potential)
    groups: Mapping[str, tuple[str, ...]] = {}
    if isinstance(inside, FamilyPotential):
        groups = family(inside.family).groups_of(inside.settings)
    names = {plain_name(name): name for name, _ in potential.named_parameters()}
    patterns = [item for pattern in patterns for item in _members(pattern, groups, names)]
    layers = sorted({f"{name.rpartition('.')[0] or name}.*" for name in names})
    what, known = "parameter or group of weights", [*groups, *layers]
    return frozenset(names[name] for name in matching(list(names), patterns, what, known))


def _members(
    pattern: str, groups: Mapping[str, Sequence[str]], names: Iterable[str]
) -> Sequence[str]:
    """Return the patterns of a group that name something; the pattern itself if it is none."""
    own = groups.get(pattern, ())
    return [item for item in own if any(matches(name, item) for name in names)] or [pattern]
