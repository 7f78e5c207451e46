"""What a row program needs of an ONNX file: nodes and constants. Read from the bytes, without the package `onnx`, which
no service installs. The fields' numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from struct import unpack_from
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOAT, _INT64 = 1, 7


class NotReadable(Exception):
    """Bytes that are not a graph of the kind that a row program can be made from."""


@dataclass(slots=True)
class Node:
    """One operation."""

    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """Nodes in their order, constants by name, and the names and widths of inputs and outputs."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def read_graph(data: bytes) -> Graph:
    """The graph of a serialized model.

    Raises:
        NotReadable: the bytes are no ONNX model, or it has constants of another type than float32 and int64, or in
            another file.
    """
    try:
        graph = Graph()
        for number, value in _fields(_only(memoryview(data), 7)):
            if number == 1:
                graph.nodes.append(_node(value))
            elif number == 5:
                name, array = _constant(value)
                graph.constants[name] = array
            elif number in (11, 12):
                (graph.inputs if number == 11 else graph.outputs).append(_text(_only(value, 1)))
        return graph
    except _MALFORMED as error:
        raise NotReadable(f"not an ONNX model: {error}") from error


def weights(data: bytes) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and numbers of the constants of a serialized model that are float32 and that a node reads; the others are
    left out.

    Raises:
        NotReadable: the bytes are no ONNX model.
    """
    try:
        graph = _only(memoryview(data), 7)
        read = set(_names_read(graph))
        for number, value in _fields(graph):
            if number == 5:
                with suppress(NotReadable):
                    name, array = _constant(value)
                    if array.dtype == np.float32 and name in read:
                        yield name, array
    except _MALFORMED as error:
        raise NotReadable(f"not an ONNX model: {error}") from error


def _names_read(graph: memoryview) -> Iterator[str]:
    """What nodes of a graph read, and those of the graphs within them (branches, loops), which see its constants."""
    for number, value in _fields(graph):
        if number == 1:
            yield from _names_read_by(value)


def _names_read_by(node: memoryview) -> Iterator[str]:
    for number, value in _fields(node):
        if number == 1:
            yield _text(value)
        elif number == 5:
            for of_attribute, content in _fields(value):
                if of_attribute in (6, 11):  # a graph, or several
                    yield from _names_read(content)


_MALFORMED = (IndexError, OverflowError, ValueError, TypeError, AttributeError, StopIteration)
"""What reading bytes of another form raises."""


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, four bytes of a float, or the bytes of anything else.

    They are views, because a large constant lies several levels deep and would be copied at each.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("cut off")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _only(data: memoryview, number: int) -> memoryview:
    value: memoryview = next(value for found, value in _fields(data) if found == number)
    return value


def _text(value: memoryview) -> str:
    return str(value, "utf-8")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _numbers(value: Any) -> list[int]:
    """A repeated int64: one number, or several packed."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_signed(number))
    return numbers


def _node(data: memoryview) -> Node:
    node = Node()
    for number, value in _fields(data):
        if number in (1, 2):
            (node.inputs if number == 1 else node.outputs).append(_text(value))
        elif number == 4:
            node.kind = _text(value)
        elif number == 5:
            name, content = _attribute(value)
            node.attributes[name] = content
        elif number == 7 and value:
            raise NotReadable(f"an operation of {_text(value)}")
    return node


def _attribute(data: memoryview) -> tuple[str, Any]:
    name, content, several = "", None, []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            [content] = unpack_from("<f", value)
        elif number == 3:
            content = _signed(value)
        elif number == 8:
            several += _numbers(value)
    return name, several or content


def _constant(data: memoryview) -> tuple[str, NDArray[Any]]:
    sizes: list[int] = []
    kind, name = 0, ""
    parts: list[NDArray[np.uint8]] = []
    for number, value in _fields(data):
        if number == 1:
            sizes += _numbers(value)
        elif number == 2:
            kind = value
        elif number == 4:  # float_data: a number, or several packed
            parts.append(np.frombuffer(value, np.uint8))
        elif number == 7:  # int64_data
            parts.append(np.array(_numbers(value), np.int64).view(np.uint8))
        elif number == 8:
            name = _text(value)
        elif number == 9:  # raw_data
            parts = [np.frombuffer(value, np.uint8)]
        elif number == 13:  # external_data
            raise NotReadable(f"constant {name!r} is in another file")
    if kind not in (_FLOAT, _INT64):
        raise NotReadable(f"constant {name!r} of type {kind}")
    # The one copy: numbers lie at any place in the file, and compiled code wants whole words.
    content = np.concatenate([np.empty(0, np.uint8), *parts])
    numbers = content.view(np.float32 if kind == _FLOAT else np.int64)
    if numbers.size != math.prod(sizes):
        raise NotReadable(f"constant {name!r} has {numbers.size} numbers for the shape {sizes}")
    return name, numbers.reshape(sizes)
