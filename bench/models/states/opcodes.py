"""A pickle read as the data that it spells: nothing that it names is imported, made or called.

``pickletools`` takes the stream apart into opcodes; what would make an object becomes a ``Record``
of the name and the arguments.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_MARK = object()


@dataclass(eq=False)
class Record:
    """What a pickle would make of a name: it is told by identity, so that it may be a key.

    Attributes:
        name: the dotted name of what would be called.
        arguments: what it would be called with.
        state: what the object's attributes would be.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = field(default=None)


class UnreadableError(ValueError):
    """A reason why a stream is not read."""


def as_data(content: bytes) -> Any:
    """The value that a pickle spells.

    Args:
        content: the stream, of protocol 2 or later.

    Raises:
        UnreadableError: it is none, or holds what plain data do not.
    """
    try:
        return _Machine().run(content)
    except UnreadableError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(str(error) or "cut short") from error


class _Machine:
    """The stack of a pickle, and what was put aside on the way."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """The value on top of the stack at the end."""
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _NOTHING:
                continue
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _VALUES:
                self._stack.append(argument)
            elif (step := getattr(self, f"_{name.lower()}", None)) is not None:
                step(argument)
            else:
                raise UnreadableError(f"holds {name}, which plain data do not")
        raise UnreadableError("cut short")

    def _above_mark(self) -> list[Any]:
        at = len(self._stack) - 1 - self._stack[::-1].index(_MARK)
        above = self._stack[at + 1 :]
        del self._stack[at:]
        return above

    def _pop_some(self, n: int) -> tuple[Any, ...]:
        some = tuple(self._stack[len(self._stack) - n :])
        del self._stack[len(self._stack) - n :]
        return some

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _binput(self, at: Any) -> None:
        self._memo[at] = self._stack[-1]

    _long_binput = _binput

    def _binget(self, at: Any) -> None:
        self._stack.append(self._memo[at])

    _long_binget = _binget

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._above_mark()))

    def _tuple1(self, _: Any) -> None:
        self._stack.append(self._pop_some(1))

    def _tuple2(self, _: Any) -> None:
        self._stack.append(self._pop_some(2))

    def _tuple3(self, _: Any) -> None:
        self._stack.append(self._pop_some(3))

    def _append(self, _: Any) -> None:
        (value,) = self._pop_some(1)
        self._stack[-1].append(value)

    def _appends(self, _: Any) -> None:
        values = self._above_mark()
        self._stack[-1].extend(values)

    def _setitem(self, _: Any) -> None:
        key, value = self._pop_some(2)
        self._stack[-1][key] = value

    def _setitems(self, _: Any) -> None:
        values = self._above_mark()
        self._stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def _global(self, argument: Any) -> None:
        self._stack.append(Record(str(argument).replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        module, name = self._pop_some(2)
        self._stack.append(Record(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        made, arguments = self._pop_some(2)
        self._stack.append(Record(made.name, tuple(arguments)))

    _newobj = _reduce

    def _build(self, _: Any) -> None:
        (state,) = self._pop_some(1)
        record = self._stack[-1]
        if not isinstance(record, Record):
            raise UnreadableError("gives attributes to what has none")
        record.state = state


_NOTHING = frozenset({"PROTO", "FRAME"})
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_VALUES = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
})  # fmt: skip
