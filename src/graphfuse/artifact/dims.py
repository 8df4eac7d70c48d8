"""Dimensions as a manifest spells them: numbers, symbols, and expressions such as "floor(H/2 - 1/2) + 1".

Read by a small parser of its own, exact in rational numbers: manifests are data from strangers, and loading an artifact
should not have to import a computer algebra system.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache

_LONGEST = 2000  # characters; the longest seen in a real model has 120
_LARGEST_POWER = 16
_LARGEST_BASE = 1 << 32  # nested powers would otherwise grow without bound

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}
# The functions that sympy prints for integer expressions, by number of arguments (0: one or more).
_FUNCTIONS: dict[str, tuple[int, Callable[..., Fraction]]] = {
    "floor": (1, lambda a: Fraction(math.floor(a))),
    "ceiling": (1, lambda a: Fraction(math.ceil(a))),
    "Abs": (1, abs),
    "Mod": (2, operator.mod),
    "Max": (0, max),
    "Min": (0, min),
}


def evaluate(text: str, values: Mapping[str, int]) -> int:
    """The value of a dimension expression with the symbols' `values`.

    Raises ValueError when the text is no such expression, or has no whole value; KeyError for a symbol without a value.
    """
    if text in values:
        return values[text]
    try:
        value = _value(_tree(text), values)
    except (ZeroDivisionError, RecursionError) as error:
        raise ValueError(f"{text!r} has no value") from error
    if value.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def symbols_of(text: str) -> tuple[str, ...]:
    """The symbols that an expression names, sorted. Raises ValueError when the text is no dimension expression."""
    called = {id(node.func) for node in ast.walk(_tree(text)) if isinstance(node, ast.Call)}
    names = {node.id for node in ast.walk(_tree(text)) if isinstance(node, ast.Name) and id(node) not in called}
    return tuple(sorted(names))


@lru_cache(maxsize=1024)
def _tree(text: str) -> ast.expr:
    """The checked syntax tree of an expression."""
    if len(text) > _LONGEST:
        raise ValueError(f"a dimension expression of {len(text)} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _check(tree)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no dimension expression") from error
    return tree


def _check(node: ast.expr) -> None:
    """Raises ValueError for anything but numbers, names, arithmetic and the known functions."""
    parts: list[ast.expr]
    if isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and type(node.value) is int):
        parts = []
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        parts = [node.operand]
    elif isinstance(node, ast.BinOp) and (type(node.op) in _BINARY or _is_power(node)):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Call) and _is_known(node):
        parts = node.args
    else:
        raise ValueError(f"{ast.unparse(node)!r} is no part of a dimension expression")
    for part in parts:
        _check(part)


def _is_known(node: ast.Call) -> bool:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    count = _FUNCTIONS[name][0] if name in _FUNCTIONS else -1
    return bool(node.args) and not node.keywords and count in (0, len(node.args))


def _is_power(node: ast.BinOp) -> bool:
    exponent = node.right.value if isinstance(node.right, ast.Constant) else None
    return isinstance(node.op, ast.Pow) and type(exponent) is int and 0 <= exponent <= _LARGEST_POWER


def _value(node: ast.expr, values: Mapping[str, int]) -> Fraction:
    if isinstance(node, ast.Name):
        return Fraction(values[node.id])
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base = _value(node.left, values)
        if abs(base) > _LARGEST_BASE:
            raise ValueError("a dimension beyond all memory")
        return Fraction(base ** int(_value(node.right, values)))
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return _FUNCTIONS[node.func.id][1](*(_value(argument, values) for argument in node.args))
