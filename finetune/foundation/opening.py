"""Open a MACE model that was saved with ``torch.save``, without executing anything it contains.

Nothing of the file but numbers and names comes into use: a new model is built from the settings
that the file describes, checked to be the same, and given the weights.
"""

from __future__ import annotations

from pathlib import Path

import torch

from finetune.errors import FoundationError
from finetune.foundation.archive import read_archive
from finetune.foundation.comparison import check_same
from finetune.foundation.conversion import read_settings
from finetune.foundation.mace import MacePotential, construct
from finetune.foundation.parts import Part
from finetune.foundation.plausibility import check_plausible
from finetune.foundation.storage import fingerprint


def open_model(
    path: Path, dtype: torch.dtype = torch.float64, head: str | None = None
) -> tuple[MacePotential, str]:
    """Open a pickled MACE model.

    Args:
        path: A file that ``torch.save(model, path)`` wrote.
        dtype: Type of the weights and of the computation.
        head: Name of the head that predicts; may be left out where there is one.

    Returns:
        The potential, in evaluation mode, and the sha256 over its settings and weights.

    Raises:
        FoundationError: If the file is damaged or of another kind, holds an architecture that is
            not known or weights that are not finite, naming the file.
    """
    try:
        with path.open("rb") as file:
            content = read_archive(file)
        settings = read_settings(content.root)
        root = Part(content.root)
        check_plausible(settings, root, content.numbers)
        model = construct(settings, dtype)
        check_same(content.root, model)
        weights = _fill(model, root)
    except OSError as error:
        raise FoundationError(f"'{path}' cannot be read: {error}.") from error
    except FoundationError as error:
        raise FoundationError(f"'{path}' {error}") from error
    potential = MacePotential(settings, model, head).eval()
    return potential, fingerprint(settings, weights)


def _fill(model: torch.nn.Module, root: Part) -> dict[str, torch.Tensor]:
    """Give a model the parameters of a file; return those that hold numbers, by name."""
    weights = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            *path, last = name.split(".")
            tensor = root.child(*path).tensor(last, "_parameters")
            parameter.copy_(tensor)
            if tensor.numel():
                weights[name] = tensor
    return weights
