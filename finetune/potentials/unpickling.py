"""Read a pickle as inert data: nothing that it names is imported, called or executed.

The opcodes are interpreted here, over `pickletools.genops`, instead of by `pickle`. Where a pickle
asks for a class or function, a `Global` keeps the name; where it asks for an object to be built or
a function to be called, a `Record` keeps what was asked for. The few exceptions that rebuild
tensors are passed in by the caller. Time and memory grow in proportion to the size of the pickle.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.core.errors import FoundationError

_NAMES_OF_VALUES = """
    BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8 BINUNICODE SHORT_BINUNICODE BINUNICODE8
"""
_VALUES = frozenset(_NAMES_OF_VALUES.split())
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_LARGEST_KEY = 2**60  # keys below it hash to themselves, so that they cannot be made to collide
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names, by its name alone."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Dotted name."""
        return f"{self.module}.{self.name}"


class Record:
    """An object that a pickle asks for: its class or function, and what it was to be given.

    Attributes:
        maker: Class to be instantiated, or function to be called.
        args: Positional arguments.
        state: What was to be set as the object's state.
        items: What was to be appended.
        pairs: Keys and values that were to be assigned.
    """

    __slots__ = ("maker", "args", "state", "items", "pairs")

    def __init__(self, maker: object, args: object) -> None:
        self.maker = maker
        self.args = args
        self.state: object = None
        self.items: list[object] = []
        self.pairs: list[tuple[object, object]] = []

    @property
    def path(self) -> str:
        """Dotted name of the class or function; empty if it was itself to be computed."""
        return self.maker.path if isinstance(self.maker, Global) else ""

    @property
    def name(self) -> str:
        """Name of the class or function without its module."""
        return self.maker.name if isinstance(self.maker, Global) else ""


def interpret(
    pickle: bytes,
    rebuild: Mapping[str, Callable[..., object]],
    stored: Callable[[object], object],
) -> object:
    """Return what a pickle holds, as plain values, `Global` and `Record`.

    Args:
        pickle: The bytes.
        rebuild: Dotted name -> function that is called with the arguments found, which it checks.
        stored: Called with each persistent id, which it checks.

    Raises:
        FoundationError: If the bytes are not a whole pickle, or use extensions of the protocol.
    """
    machine = _Machine(rebuild, stored)
    name, position = "", 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of odd text in a damaged pickle
            for opcode, argument, where in pickletools.genops(pickle):
                name, position = opcode.name, where or 0
                machine.step(name, argument)
        return machine.result()
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise FoundationError(
            f"its pickle is damaged near byte {position} ({name or 'start'}). Get a fresh copy."
        ) from error


class _Machine:
    """The stack machine of the pickle protocol, without the calls."""

    def __init__(
        self, rebuild: Mapping[str, Callable[..., object]], stored: Callable[[object], object]
    ) -> None:
        self._rebuild = rebuild
        self._stored = stored
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, object] = {}

    def result(self) -> object:
        """Return the one object left at the end."""
        if self._below or len(self._stack) != 1:
            raise ValueError("values are left over")
        return self._stack[0]

    def step(self, name: str, argument: Any) -> None:
        """Take one opcode."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(self._stack) < count:
                raise ValueError("the stack is too short")
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif name not in _IGNORED:
            handler = _HANDLERS.get(name)
            if handler is None:
                raise ValueError(f"opcode {name} is not used by torch")
            handler(self, argument)

    def _marked(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _mark(self, _: object) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self, _: object) -> None:
        self._stack.pop()

    def _pop_mark(self, _: object) -> None:
        self._marked()

    def _duplicate(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _empty_list(self, _: object) -> None:
        self._stack.append([])

    def _empty_dict(self, _: object) -> None:
        self._stack.append({})

    def _empty_set(self, _: object) -> None:
        self._stack.append(Record(Global("builtins", "set"), ()))

    def _tuple(self, _: object) -> None:
        items = tuple(self._marked())
        self._stack.append(items)

    def _frozenset(self, _: object) -> None:
        items = self._marked()
        self._stack.append(Record(Global("builtins", "frozenset"), (items,)))

    def _append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: object) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Record):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise TypeError("append to something else than a list")

    def _set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._assign([key, value])

    def _set_items(self, _: object) -> None:
        self._assign(self._marked())

    def _assign(self, items: list[Any]) -> None:
        target = self._stack[-1]
        pairs = list(zip(items[::2], items[1::2], strict=True))
        if isinstance(target, Record):
            target.pairs.extend(pairs)
        elif isinstance(target, dict):
            for key, value in pairs:
                _check_key(key)
                target[key] = value
        else:
            raise TypeError("assignment to something else than a dictionary")

    def _global(self, argument: Any) -> None:
        module, name = argument.split(" ", 1)
        self._stack.append(Global(_PYTHON_2.get(module, module), name))

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError("a name that is not text")
        self._stack.append(Global(_PYTHON_2.get(module, module), name))

    def _reduce(self, _: object) -> None:
        args, maker = self._stack.pop(), self._stack.pop()
        function = self._rebuild.get(maker.path) if isinstance(maker, Global) else None
        if function is None:
            self._stack.append(Record(maker, args))
        elif isinstance(args, tuple):
            self._stack.append(function(*args))
        else:
            raise TypeError("arguments that are not a tuple")

    def _new(self, _: object) -> None:
        args, maker = self._stack.pop(), self._stack.pop()
        self._stack.append(Record(maker, args))

    def _build(self, _: object) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):  # an ordered dictionary may carry attributes of its own
            raise TypeError("a state for something that has none")

    def _persistent(self, _: object) -> None:
        self._stack.append(self._stored(self._stack.pop()))


def _check_key(key: object) -> None:
    if isinstance(key, int):
        if abs(key) > _LARGEST_KEY:
            raise ValueError("a key that is too large")
    elif not isinstance(key, (str, Record, Global)):
        raise TypeError("a key of an unusual type")


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._duplicate,
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine._get),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine._put),
    "MEMOIZE": _Machine._memoize,
    "EMPTY_LIST": _Machine._empty_list,
    "EMPTY_DICT": _Machine._empty_dict,
    "EMPTY_SET": _Machine._empty_set,
    "TUPLE": _Machine._tuple,
    "FROZENSET": _Machine._frozenset,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "ADDITEMS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._new,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
