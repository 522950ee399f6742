"""The code of a page of the documentation, as files."""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


def write(page: Path, folder: Path) -> None:
    """Write the files that the first lines of a page's Python blocks name."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL)
    for name in {name for name, _ in found}:
        parts = [code for other, code in found if other == name]
        (folder / name).write_text("\n\n".join(parts), encoding="utf-8")


@contextmanager
def module(page: Path, folder: Path, name: str) -> Iterator[ModuleType]:
    """Yield a module among the files of a page."""
    write(page, folder)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
