"""Pickles read as data: plain values come out, and nothing in one is ever imported or called.

Interprets those opcodes of CPython's ``pickletools`` that ``torch.save`` writes (protocols 2 to 5).
Rule of the file: a name in a pickle is only looked up in the table given; no step recurses, none takes
more memory than its own bytes and one value, so what a pickle can cost is bounded by its caps. Nothing
deep outlives its reading: dropping it would overflow the stack of a tab, and end the tab.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ModelFileError, Truncated, UnsupportedModel

MAX_BYTES = 16 << 20  # 32k tensors take some 6 MB
MAX_OPCODES = 1 << 20  # so many values, stack items, marks and memo entries there can be: some 100 MB
MAX_STRING_BYTES = 1 << 20
MAX_INTEGER_BYTES = 32
MAX_NAME_BYTES = 512  # of a module or a class
MAX_DEPTH = 16  # of tuples in tuples; lists and dicts may nest as they like

_T = TypeVar("_T")
_KEYS = (str, int, float, type(None))  # nothing whose hash would walk a structure


class _Tuple(tuple[Any, ...]):
    """A tuple with tuples in it; one without has the depth 1."""

    depth: int


@dataclass(frozen=True, slots=True)
class Call:
    """A name that may be called: ``run`` gets the arguments of the pickle, unchecked, and returns
    something flat or a new dict."""

    run: Callable[[tuple[Any, ...]], Any]


@dataclass(frozen=True, slots=True)
class Constant:
    """A name that stands for itself: a storage's class, a type of numbers."""

    name: str


def unpickle(
    data: bytes | memoryview,
    position: int,
    names: Mapping[str, Call | Constant],
    load: Callable[[Any], Any],
    finish: Callable[[Any], _T],
) -> tuple[_T, int]:
    """What ``finish`` makes of the pickle that begins at ``position`` of ``data``, and where that ends.

    ``names`` maps ``module.name`` to what may be used; ``load`` answers persistent ids. Values are
    None, bool, int, float, str, bytes, tuple, list, dict, and what those two return. They may contain
    themselves: ``finish`` bounds its walk, and copies what it keeps, for then they are emptied.
    Raises ``UnsupportedModel`` naming a foreign global or opcode, ``Truncated`` where ``data`` ends
    too early and ``ModelFileError`` for the rest.
    """
    machine = _Machine(data, position, names, load)
    try:
        return finish(machine.run()), machine.position
    finally:
        for container in machine.made:
            container.clear()


class _Machine:
    def __init__(
        self,
        data: bytes | memoryview,
        position: int,
        names: Mapping[str, Call | Constant],
        load: Callable[[Any], Any],
    ) -> None:
        self._data, self.position, self._start = data, position, position
        self._names, self._load = names, load
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each MARK
        self._memo: dict[int, Any] = {}
        self.made: list[list[Any] | dict[Any, Any]] = []

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            opcode = self._take(1)[0]
            if opcode == _STOP:
                return self._pop()
            step = _STEPS.get(opcode)
            if step is None:
                raise UnsupportedModel(f"pickle opcode {opcode:#04x} at {self.position - 1} is not supported")
            step(self)
        raise ModelFileError(f"pickle of more than {MAX_OPCODES} steps")

    # --- bytes and stack --------------------------------------------------------------------------

    def _take(self, length: int) -> bytes:
        end = self.position + length
        if end - self._start > MAX_BYTES:
            raise ModelFileError(f"pickle of more than the {MAX_BYTES} bytes allowed")
        if end > len(self._data):
            raise Truncated(f"the pickle goes on after byte {len(self._data)}", end)
        taken = bytes(self._data[self.position : end])
        self.position = end
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0]

    def _string(self, form: str) -> bytes:
        length = self._number(form)
        if not 0 <= length <= MAX_STRING_BYTES:
            raise ModelFileError(f"pickle claims a string of {length} bytes; {MAX_STRING_BYTES} are allowed")
        return self._take(length)

    def _line(self) -> str:
        end = bytes(self._data[self.position : self.position + MAX_NAME_BYTES]).find(b"\n")
        if end < 0:
            self._take(MAX_NAME_BYTES)  # raises where the file ends
            raise ModelFileError(f"pickle has a name of more than {MAX_NAME_BYTES} bytes")
        return _text(self._take(end + 1)[:-1])

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_new(self, container: list[Any] | dict[Any, Any]) -> None:
        self.made.append(container)
        self._stack.append(container)

    def _push_tuple(self, items: list[Any]) -> None:
        depths = [getattr(item, "depth", 1) for item in items if isinstance(item, tuple)]
        if not depths:
            self._stack.append(tuple(items))
            return
        nested = _Tuple(items)
        nested.depth = 1 + max(depths)
        if nested.depth > MAX_DEPTH:
            raise UnsupportedModel(f"pickle nests tuples deeper than {MAX_DEPTH}")
        self._stack.append(nested)

    def _pop(self) -> Any:
        if not self._stack:
            raise ModelFileError(f"pickle takes from an empty stack at {self.position - 1}")
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise ModelFileError(f"pickle has no mark at {self.position - 1}")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise ModelFileError(f"pickle needs a {kind.__name__} on its stack at {self.position - 1}")
        return self._stack[-1]

    # --- steps ------------------------------------------------------------------------------------

    def protocol(self) -> None:
        if (version := self._number("B")) > 5:
            raise UnsupportedModel(f"pickle protocol {version}; 2 to 5 are supported")

    def frame(self) -> None:
        self._number("Q")

    def mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def long_integer(self, form: str) -> None:
        length = self._number(form)
        if not 0 <= length <= MAX_INTEGER_BYTES:
            raise ModelFileError(f"pickle has an integer of {length} bytes; {MAX_INTEGER_BYTES} are allowed")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def text(self, form: str) -> None:
        self._push(_text(self._string(form)))

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise ModelFileError(f"pickle takes from an empty stack at {self.position - 1}")
        items = self._stack[-count:]
        del self._stack[-count:]
        self._push_tuple(items)

    def build_dict(self) -> None:
        self._push_new(_filled({}, self._since_mark()))

    def append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def extend(self) -> None:
        items = self._since_mark()
        self._top(list).extend(items)

    def set_item(self) -> None:
        pair = [self._pop(), self._pop()][::-1]
        _filled(self._top(dict), pair)

    def set_items(self) -> None:
        items = self._since_mark()
        _filled(self._top(dict), items)

    def put(self, index: int) -> None:
        if not self._stack:
            raise ModelFileError(f"pickle remembers nothing at {self.position - 1}")
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise ModelFileError(f"pickle recalls {index}, which it never remembered")
        self._push(self._memo[index])

    def find(self, module: str, name: str) -> None:
        found = self._names.get(f"{module}.{name}")
        if found is None:
            raise UnsupportedModel(
                f"the pickle asks for {module:.80}.{name:.80}, which no weights need; nothing of it was run"
            )
        self._push(found)

    def find_on_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ModelFileError("pickle asks for a global whose name is no text")
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise ModelFileError(f"pickle calls a {type(function).__name__} at {self.position - 1}")
        result = function.run(arguments)
        if isinstance(result, dict):
            self._push_new(result)
        else:
            self._push(result)

    def build(self) -> None:
        self._pop()  # attributes of a state dict, such as _metadata: nothing that weights are
        self._top(dict)

    def persistent(self) -> None:
        self._push(self._load(self._pop()))


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise ModelFileError(f"pickle string {data[:40]!r} is not UTF-8") from None


def _filled(target: dict[Any, Any], pairs: list[Any]) -> dict[Any, Any]:
    if len(pairs) % 2:
        raise ModelFileError("pickle sets a key without a value")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, _KEYS):
            kind = type(key).__name__.strip("_").lower()
            raise UnsupportedModel(f"pickle has a {kind} for a key; text and numbers are supported")
        target[key] = value
    return target


_Step = Callable[[_Machine], object]
_STOP = 0x2E
_STEPS: dict[int, _Step] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    0x28: _Machine.mark,
    0x30: _Machine._pop,
    0x31: _Machine._since_mark,
    0x4E: lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    0x4A: lambda m: m._push(m._number("i")),
    0x4B: lambda m: m._push(m._number("B")),
    0x4D: lambda m: m._push(m._number("H")),
    0x8A: lambda m: m.long_integer("B"),
    0x8B: lambda m: m.long_integer("i"),
    0x47: lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    0x55: lambda m: m.text("B"),  # SHORT_BINSTRING: what Python 2 called a string
    0x54: lambda m: m.text("i"),
    0x8C: lambda m: m.text("B"),
    0x58: lambda m: m.text("I"),
    0x8D: lambda m: m.text("Q"),
    0x43: lambda m: m._push(m._string("B")),
    0x42: lambda m: m._push(m._string("I")),
    0x8E: lambda m: m._push(m._string("Q")),
    0x7D: lambda m: m._push_new({}),
    0x64: _Machine.build_dict,
    0x73: _Machine.set_item,
    0x75: _Machine.set_items,
    0x5D: lambda m: m._push_new([]),
    0x6C: lambda m: m._push_new(m._since_mark()),
    0x61: _Machine.append,
    0x65: _Machine.extend,
    0x29: lambda m: m._push(()),
    0x74: lambda m: m._push_tuple(m._since_mark()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    0x71: lambda m: m.put(m._number("B")),
    0x72: lambda m: m.put(m._number("I")),
    0x94: lambda m: m.put(len(m._memo)),
    0x68: lambda m: m.get(m._number("B")),
    0x6A: lambda m: m.get(m._number("I")),
    0x63: lambda m: m.find(m._line(), m._line()),
    0x93: _Machine.find_on_stack,
    0x52: _Machine.reduce,
    0x62: _Machine.build,
    0x51: _Machine.persistent,
}
