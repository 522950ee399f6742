"""Errors that the user can correct.

Each message says what is wrong, where it was found and how to correct it. The command line prints
the message alone and exits with code 2; the Python API raises the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class FinetuneError(Exception):
    """Base of every error that the user can correct."""

    exit_code = 2
    """Exit code of the command."""


class RecipeError(FinetuneError):
    """A recipe, or an override of one, that cannot be understood."""


class DataError(FinetuneError):
    """A structure file, or a label in it, that cannot be used."""


class FoundationError(FinetuneError):
    """A foundation potential that is unknown, damaged or does not fit the data."""


class HeadError(FoundationError):
    """A head that the foundation does not have, or a choice among several that is missing."""


class RunFolderError(FinetuneError):
    """A run folder that is missing, incomplete or in the way."""


class EarlierRunError(RunFolderError):
    """A run in the folder that may be resumed or overwritten, if that is asked for."""


class TrainingError(FinetuneError):
    """A training run that cannot continue."""


class RunStoppedError(FinetuneError):
    """A run that ended early but can be resumed from its last checkpoint.

    Args:
        message: Why it stopped, and at which step.
        exit_code: Exit code of the command: 128 + the signal's number, or 2.
    """

    def __init__(self, message: str, exit_code: int = FinetuneError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn errors of the operating system into a `FinetuneError`; also a decorator.

    Raises:
        FinetuneError: With the system's reason and the path, for an absurd path or a missing right.
    """
    try:
        yield
    except OSError as error:
        named = f"'{str(error.filename)[:200]}': " if error.filename else ""
        raise FinetuneError(f"{named}{error.strerror or error}.") from error


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, else an empty string."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
