"""Pickles as data: a stack machine without the instructions that import and call.

A pickle is a program. Python's own machine imports what the program names and calls it; this one does neither. A name
stays a name, and what would be called becomes an :class:`Inert` object that remembers the name, the arguments and what
was put into it. The only calls are those to the caller's builders, by exact name: the functions that make tensors.

How it was attacked: with pickles that name functions which run programs, chains of ``getattr``, and dotted names; that
call an inert object, or the result of a call; that build state into names, builders and tensors; with inert objects as
the storage, size or stride of a tensor; tensors beyond their storage, or expanded from one number to terabytes; indices
and lengths of 4 GB; tuples that are doubled a hundred times and used as keys. None imported, called or allocated
anything: each ends as inert data or in an error.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

_KEYS = (str, bytes, int, float, type(None))
_SHELLS = frozenset({"posix", "nt", "subprocess", "runpy", "pty", "commands"})
_RUNS = frozenset({"eval", "exec", "execfile", "compile", "__import__", "open", "breakpoint"})
_OS_RUNS = ("system", "popen", "exec", "spawn", "fork", "posix_spawn", "startfile")
_CONSTANTS = frozenset(
    "INT LONG LONG1 LONG4 BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES BINBYTES8 "
    "SHORT_BINBYTES BYTEARRAY8 UNICODE BINUNICODE BINUNICODE8 SHORT_BINUNICODE".split()
)


class MalformedPickleError(ValueError):
    """Bytes are no pickle, or one that no program writes."""


class CodeInPickleError(ValueError):
    """A pickle names a function that starts programs. It would not run, but such a file was made to do harm."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names. It is not imported.

    Attributes:
        module: Its module.
        name: Its name there, dotted for nested ones.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Inert:
    """What stands in the place of an object of any class: data, no behaviour.

    Attributes:
        name: The class, or the function that would have made it.
        args: The arguments.
        state: Its attributes, usually a dict.
        items: What it holds by key, if it is a kind of dict.
        entries: What it holds in order, if it is a kind of list.
    """

    name: Name
    args: tuple[Any, ...] = ()
    state: Any = None
    items: Fields | None = None
    entries: list[Any] = field(default_factory=list)


class Fields(dict[Any, Any]):
    """An ordered dict of a pickle.

    Attributes:
        metadata: What a state dict says of its modules; None without.
    """

    metadata: Any = None


Builders = Mapping[str, Callable[..., object]]


class Machine:
    """Runs one pickle.

    Args:
        builders: Makes values from arguments, by the full name that the pickle has for the function.
        load_persistent: Makes values from persistent ids: torch's storages.
    """

    def __init__(self, builders: Builders, load_persistent: Callable[[Any], object]) -> None:
        self._builders = builders
        self._load_persistent = load_persistent
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:  # noqa: ANN401 - whatever the pickle holds
        """Run the pickle at a file's position, and leave the position after it.

        Raises:
            MalformedPickleError: It is none.
            CodeInPickleError: It names what starts programs.
        """
        try:
            for opcode, arg, _ in pickletools.genops(file):
                if opcode.name == "STOP":
                    return self._stack.pop()
                if opcode.name in _CONSTANTS:
                    self._stack.append(arg)
                else:
                    self._STEPS[opcode.name](self, arg)
        except CodeInPickleError:
            raise
        except Exception as error:  # a stack that is too short, a memo that is not there, arguments that do not fit
            raise MalformedPickleError(type(error).__name__) from error
        raise MalformedPickleError("no end")

    # -- values -----------------------------------------------------------------------------------------

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _mark(self, _arg: object) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop(self, _arg: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) < count:
            raise IndexError(count)
        self._stack[-count:] = [items]

    def _memoize(self, arg: Any) -> None:  # noqa: ANN401 - an index, or None
        self._memo[len(self._memo) if arg is None else int(arg)] = self._stack[-1]

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Inert):
            target.entries.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        """Put values into a dict. Keys that are no plain values are left out: to hash them can take forever."""
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.items = target.items if target.items is not None else Fields()
            target = target.items
        if isinstance(target, dict):
            target.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if isinstance(k, _KEYS))

    # -- names and calls --------------------------------------------------------------------------------

    def _name(self, module: object, name: object) -> Name:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name is text")
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
        runs = module == "builtins" and name in _RUNS
        if module in _SHELLS or runs or (module == "os" and name.startswith(_OS_RUNS)):
            raise CodeInPickleError(f"{module}.{name}")
        return Name(module, name)

    def _call(self, function: object, args: object) -> None:
        args = args if isinstance(args, tuple) else ()
        name = function if isinstance(function, Name) else Name("", type(function).__name__)
        if name.name == "_reconstructor" and args and isinstance(args[0], Name):  # objects of protocols 0 and 1
            name, args = args[0], ()
        builder = self._builders.get(str(name))
        self._push(Inert(name, args) if builder is None else builder(*args))

    def _global(self, arg: Any) -> None:  # noqa: ANN401 - the two parts of a name with a space between
        self._push(self._name(*arg.split(" ", 1)))

    def _stack_global(self, _arg: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push(self._name(module, name))

    def _reduce(self, _arg: object) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._call(function, args)

    def _new_object_with_keywords(self, _arg: object) -> None:
        _keywords = self._stack.pop()
        self._reduce(None)

    def _object(self, arg: Any) -> None:  # noqa: ANN401 - a name, or None if it is on the stack
        items = self._pop_mark()
        function = self._name(*arg.split(" ", 1)) if arg else items.pop(0)
        self._call(function, tuple(items))

    def _build(self, _arg: object) -> None:
        """Give attributes to an object: a state dict keeps its metadata, an inert object all, anything else none."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, Fields) and isinstance(state, dict):
            target.metadata = state.get("_metadata")

    def _persistent(self, arg: object) -> None:
        self._push(self._load_persistent(self._stack.pop() if arg is None else arg))

    _STEPS: ClassVar[Mapping[str, Callable[[Machine, Any], None]]] = {
        "PROTO": lambda _self, _arg: None,
        "FRAME": lambda _self, _arg: None,
        "READONLY_BUFFER": lambda _self, _arg: None,
        "NEXT_BUFFER": lambda self, _arg: self._push(None),
        "NONE": lambda self, _arg: self._push(None),
        "NEWTRUE": lambda self, _arg: self._push(True),
        "NEWFALSE": lambda self, _arg: self._push(False),
        "EMPTY_TUPLE": lambda self, _arg: self._push(()),
        "EMPTY_LIST": lambda self, _arg: self._push([]),
        "EMPTY_SET": lambda self, _arg: self._push([]),  # a set's members are kept in order, and never hashed
        "EMPTY_DICT": lambda self, _arg: self._push(Fields()),
        "MARK": _mark,
        "POP": _pop,
        "POP_MARK": lambda self, _arg: self._pop_mark().clear(),
        "DUP": lambda self, _arg: self._push(self._stack[-1]),
        "TUPLE": lambda self, _arg: self._push(tuple(self._pop_mark())),
        "TUPLE1": lambda self, _arg: self._tuple_of(1),
        "TUPLE2": lambda self, _arg: self._tuple_of(2),
        "TUPLE3": lambda self, _arg: self._tuple_of(3),
        "LIST": lambda self, _arg: self._push(self._pop_mark()),
        "FROZENSET": lambda self, _arg: self._push(tuple(self._pop_mark())),
        "DICT": lambda self, _arg: self._dict(self._pop_mark()),
        "APPEND": lambda self, _arg: self._append([self._stack.pop()]),
        "APPENDS": lambda self, _arg: self._append(self._pop_mark()),
        "ADDITEMS": lambda self, _arg: self._append(self._pop_mark()),
        "SETITEM": lambda self, _arg: self._set_items([self._stack.pop(), self._stack.pop()][::-1]),
        "SETITEMS": lambda self, _arg: self._set_items(self._pop_mark()),
        **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda self, arg: self._push(self._memo[int(arg)])),
        **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
        **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda self, arg: self._push(Name("copyreg", str(arg)))),
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _reduce,
        "NEWOBJ": _reduce,
        "NEWOBJ_EX": _new_object_with_keywords,
        "INST": _object,
        "OBJ": _object,
        "BUILD": _build,
        "PERSID": _persistent,
        "BINPERSID": _persistent,
    }

    def _dict(self, items: list[Any]) -> None:
        self._push(Fields())
        self._set_items(items)
