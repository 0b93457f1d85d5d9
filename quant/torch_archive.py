"""What torch.save wrote, without running any of it: structure first, tensors when asked for.

A checkpoint is a zip archive of data.pkl and one file a storage. Its pickle program is interpreted
symbolically here: it can make dictionaries, lists, tuples, numbers, strings and tensors, and what
else it names stays an `Unknown`. Nothing is called and nothing is allocated beyond what the file
holds; optimiser states that nobody asks for are not even read.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import budget

MAX_PROGRAM = (
    4 * 10**6
)  # Bytes of data.pkl: each may become an object of 64, and takes a microsecond.
DTYPES = {
    "FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip
KEYS = (str, int, float, type(None))  # Of dictionaries; tuples nested deeply are slow to hash.
TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
MAPPINGS = ("collections.OrderedDict", "builtins.dict", "__builtin__.dict")


@dataclass(frozen=True)
class Unknown:
    """What a program names and would have called: a class, a function, or what these make."""

    name: str


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in the archive.

    Attributes:
        storage: its file's number; kind: of a key of DTYPES, or another that is not read.
        offset: in elements. shape, strides: as torch has them.
    """

    storage: str
    kind: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchArchive:
    """A file of torch.save, from version 1.6 on.

    Attributes:
        root: what was saved: dictionaries, lists, tuples, numbers, strings, `Stored`, `Unknown`.
        name: stands for the file in messages.

    Raises:
        ValueError: one line naming the file, for anything else.
    """

    def __init__(self, source: Path | bytes, *, name: str) -> None:
        self.name = name
        self._source = source
        try:
            with self._opened() as archive:
                entries = {info.filename: info for info in archive.infolist()}
                program = next((n for n in entries if n.endswith("data.pkl")), None)
                if program is None:
                    self._fail("expected what torch.save writes, got a zip archive of other files")
                self._folder = program.removesuffix("data.pkl")
                self.root = run(self._bytes(archive, entries[program], MAX_PROGRAM))
        except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
            self._fail(f"not a file of torch.save, or damaged: {_line(error)}")
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            if str(error).startswith(name):
                raise
            self._fail(f"data.pkl: {_line(error)}")

    def array(self, value: Any, what: str) -> NDArray[Any]:
        """The values of a tensor, a copy. Raises ValueError naming the file and `what` it is."""
        if not isinstance(value, Stored):
            self._fail(f"{what}: expected a tensor, got {type(value).__name__}")
        if value.kind not in DTYPES:
            self._fail(f"{what}: expected one of {', '.join(DTYPES)}, got {value.kind!r:.40}")
        dtype, count = np.dtype(DTYPES[value.kind]), math.prod(value.shape)
        size = dtype.itemsize * (value.offset + count)
        budget.check(size, f"{self.name}: {what}")
        if count and _packed(value.shape) != _used(value.shape, value.strides):
            self._fail(f"{what}: expected a contiguous tensor, got strides {value.strides}")
        try:
            with self._opened() as archive:
                info = archive.getinfo(f"{self._folder}data/{value.storage}")
                data = self._bytes(archive, info, info.file_size)
        except (KeyError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
            self._fail(f"{what}: {_line(error)}")
        if len(data) < size:
            self._fail(f"{what}: expected {size} bytes, got {len(data)}")
        found = np.frombuffer(data, dtype, count, value.offset * dtype.itemsize)
        return found.reshape(value.shape).copy()

    def _opened(self) -> zipfile.ZipFile:
        source = self._source
        return zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)

    def _bytes(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
        """An entry, which lies in the archive as it is."""
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            self._fail(f"{info.filename!a:.60}: expected it uncompressed, as torch.save writes")
        if info.file_size > most:
            self._fail(f"{info.filename!a:.60}: expected at most {most} bytes")
        budget.check(info.file_size, f"{self.name}: {info.filename!a:.60}")
        return archive.read(info)

    def _fail(self, problem: str) -> NoReturn:
        raise ValueError(f"{self.name}: {problem}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _packed(shape: tuple[int, ...]) -> list[int]:
    strides = [1]
    for side in reversed(shape[1:]):
        strides.append(strides[-1] * side)
    return _used(shape, tuple(reversed(strides)))


def _used(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """Strides of the axes along which there is more than one element."""
    return [stride for side, stride in zip(shape, strides, strict=False) if side > 1]


# The program


MARK = Unknown("MARK")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUSHES = frozenset({
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BININT", "BININT1", "BININT2",
    "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT", "BINBYTES", "SHORT_BINBYTES",
    "BINSTRING", "SHORT_BINSTRING",
})  # fmt: skip
NOTHING = frozenset({"PROTO", "FRAME"})


def run(program: bytes) -> Any:
    """What a pickle program would build, of plain data and `Stored` tensors.

    Raises ValueError, IndexError, KeyError or TypeError for what is no such program.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name == "STOP":
            return machine.stack[-1]
        machine.step(opcode.name, argument)
    raise ValueError("expected a STOP at its end")


class _Machine:
    """A stack and a memo; objects are described, never made."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack, memo = self.stack, self._memo
        if name in PUSHES:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument)])
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            stack.append(MARK)
        elif name not in NOTHING:
            self._combine(name, argument)

    def _combine(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in TUPLES:
            count = TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            self._set(items)
        elif name == "GLOBAL":
            stack.append(Unknown(str(argument).replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(Unknown(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            stack.append(_called(called, arguments))
        elif name == "BUILD":  # An attribute: of no interest.
            stack.pop()
        elif name == "BINPERSID":
            stack.append(stack.pop())
        else:
            raise ValueError(f"expected no {name}")

    def _to_mark(self) -> list[Any]:
        stack = self.stack
        place = len(stack) - 1
        while stack[place] is not MARK:
            place -= 1
            if place < 0:
                raise ValueError("expected a MARK")
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def _set(self, items: list[Any]) -> None:
        mapping = self.stack[-1]
        if not isinstance(mapping, dict):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, KEYS):
                raise ValueError(f"expected a key of text or a number, got {type(key).__name__}")
            mapping[key] = value


def _called(function: Any, arguments: Any) -> Any:
    """What a call would give, as far as it is known here."""
    name = function.name if isinstance(function, Unknown) else type(function).__name__
    if name in MAPPINGS and not arguments:
        return {}
    if name in PARAMETERS:
        return arguments[0]
    if name in TENSORS:
        (_, kind, key, *_), offset, shape, strides, *_ = arguments
        numbers = (offset, *shape, *strides)
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
            raise ValueError("tensor: expected an offset, a shape and strides of whole numbers")
        if len(shape) != len(strides) or len(shape) > 8:
            raise ValueError(f"tensor: expected as many strides as sides, got {len(strides)}")
        storage = kind.name if isinstance(kind, Unknown) else type(kind).__name__
        return Stored(str(key), storage.rpartition(".")[2], offset, tuple(shape), tuple(strides))
    return Unknown(name)
