"""Reading spelled-out formulas whatever their order of operations: products with powers, and polynomials.

Exporters write the same formula in dozens of ways. A recognising rule reads the expression around its root into one
of the two normal forms here and compares that with its formula.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from graphfuse.rules.values import array, input_of, scalar

_DEPTH = 8


@dataclasses.dataclass
class Product:
    """coefficient * product(value ** power) * product(constants), the constants not being scalars.

    The values' powers are 1, -1, 0.5, -0.5 and the like; none is a constant.
    """

    coefficient: float = 1.0
    powers: dict[ir.Value, float] = dataclasses.field(default_factory=dict)
    constants: list[tuple[ir.Value, float]] = dataclasses.field(default_factory=list)

    def value_with(self, power: float) -> ir.Value | None:
        """The one value that has this power, None when there are several or none."""
        found = [value for value, p in self.powers.items() if p == power]
        return found[0] if len(found) == 1 else None


def product_of(value: ir.Value) -> Product:
    """The value as a product, looking through Mul, Div, Neg, Reciprocal, Sqrt and Pow."""
    product = Product()
    _multiply(product, value, 1.0, _DEPTH)
    product.powers = {v: p for v, p in product.powers.items() if p != 0}
    return product


def _multiply(product: Product, value: ir.Value, power: float, depth: int) -> None:
    constant = scalar(value)
    if constant is not None:
        # A negative number has no real root; one under a root stays a factor of its own.
        if constant > 0 or (float(power).is_integer() and constant != 0):
            product.coefficient *= constant**power
            return
        product.powers[value] = product.powers.get(value, 0) + power
        return
    if array(value) is not None:
        product.constants.append((value, power))
        return
    node = value.producer()
    whole = float(power).is_integer()
    if node is not None and node.domain == "" and depth > 0:
        first, second = input_of(node, 0), input_of(node, 1)
        exponent = scalar(second) if node.op_type == "Pow" else None
        # sqrt(a * b) is sqrt(a) * sqrt(b) only where neither is negative, so products under a root stay whole.
        if node.op_type in ("Mul", "Div") and whole and first is not None and second is not None:
            _multiply(product, first, power, depth - 1)
            _multiply(product, second, power if node.op_type == "Mul" else -power, depth - 1)
            return
        if node.op_type == "Neg" and whole and first is not None:
            product.coefficient *= (-1.0) ** power
            _multiply(product, first, power, depth - 1)
            return
        if node.op_type == "Reciprocal" and first is not None:
            _multiply(product, first, -power, depth - 1)
            return
        if node.op_type == "Sqrt" and abs(power) == 1 and first is not None:
            _multiply(product, first, power / 2, depth - 1)
            return
        if node.op_type == "Pow" and exponent in (-1.0, 0.5, -0.5) and abs(power) == 1 and first is not None:
            _multiply(product, first, power * exponent, depth - 1)
            return
    product.powers[value] = product.powers.get(value, 0) + power


Polynomial = dict[int, float]


def polynomial_of(value: ir.Value, x: ir.Value, depth: int = _DEPTH) -> Polynomial | None:
    """The value as a polynomial in x, power -> coefficient, with scalar coefficients; None when it is none.

    Looks through Add, Sub, Mul, Div by a constant, Neg and Pow with a small whole exponent.
    """
    if value is x:
        return {1: 1.0}
    constant = scalar(value)
    if constant is not None:
        return {0: constant}
    node = value.producer()
    if node is None or node.domain != "" or depth == 0:
        return None
    operands = [polynomial_of(v, x, depth - 1) for v in node.inputs if v is not None]
    if not operands or any(p is None for p in operands):
        return None
    terms = [p for p in operands if p is not None]
    if node.op_type == "Neg":
        return _scale(terms[0], -1.0)
    if node.op_type == "Add":
        return _add(terms[0], terms[1])
    if node.op_type == "Sub":
        return _add(terms[0], _scale(terms[1], -1.0))
    if node.op_type == "Mul":
        return _times(terms[0], terms[1])
    if node.op_type == "Div" and set(terms[1]) == {0} and terms[1][0] != 0:
        return _scale(terms[0], 1.0 / terms[1][0])
    if node.op_type == "Pow" and set(terms[1]) == {0} and terms[1][0] in (1.0, 2.0, 3.0):
        result = terms[0]
        for _ in range(int(terms[1][0]) - 1):
            result = _times(result, terms[0])
        return result
    return None


def is_polynomial(found: Polynomial | None, expected: Polynomial, tolerance: float = 1e-3) -> bool:
    """Whether two polynomials have the same powers and coefficients near each other (relative tolerance)."""
    if found is None:
        return False
    found = {power: c for power, c in found.items() if c != 0}
    near = (abs(found[p] - c) <= tolerance * abs(c) for p, c in expected.items() if p in found)
    return set(found) == set(expected) and all(near)


def _scale(p: Polynomial, factor: float) -> Polynomial:
    return {power: c * factor for power, c in p.items()}


def _add(p: Polynomial, q: Polynomial) -> Polynomial:
    return {power: p.get(power, 0.0) + q.get(power, 0.0) for power in (*p, *q)}


def _times(p: Polynomial, q: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for a, c in p.items():
        for b, d in q.items():
            result[a + b] = result.get(a + b, 0.0) + c * d
    return result


def reduction(value: ir.Value | None, *op_types: str) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What a reduction that keeps its dimensions reduces, and the axes counted from the front; else None."""
    node = None if value is None else value.producer()
    if node is None or node.domain != "" or node.op_type not in op_types or not node.attributes.get_int("keepdims", 1):
        return None
    source, axes = node.inputs[0], array(input_of(node, 1))
    if source is None or source.shape is None:
        return None
    count = len(source.shape)
    if input_of(node, 1) is None or (axes is not None and axes.size == 0):
        noop = node.attributes.get_int("noop_with_empty_axes", 0)
        return None if noop else (source, tuple(range(count)))
    return None if axes is None else (source, tuple(sorted(int(a) % count for a in axes.ravel())))


def mean_of(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What this value is the mean of, and over which axes (kept); ReduceMean, or ReduceSum over a known count."""
    found = reduction(value, "ReduceMean")
    if found is not None or value is None:
        return found
    product = product_of(value)
    total = product.value_with(1.0)
    found = reduction(total, "ReduceSum")
    if found is None or len(product.powers) != 1 or product.constants:
        return None
    count = 1
    for axis in found[1]:
        size = found[0].shape[axis] if found[0].shape is not None else None
        if not isinstance(size, int):
            return None
        count *= size
    return found if abs(product.coefficient * count - 1) < 1e-5 else None


def square_of(value: ir.Value | None) -> ir.Value | None:
    """The value that this one is the square of, None when it is none."""
    node = None if value is None else value.producer()
    if node is None or node.domain != "":
        return None
    first, second = input_of(node, 0), input_of(node, 1)
    if node.op_type == "Mul" and first is second:
        return first
    return first if node.op_type == "Pow" and scalar(second) == 2 else None


def constant_term(value: ir.Value) -> tuple[ir.Value, float] | None:
    """The other operand and the scalar of an Add of a scalar; else None."""
    node = value.producer()
    if node is None or node.domain != "" or node.op_type != "Add":
        return None
    for other, term in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        found = scalar(term)
        if found is not None and other is not None:
            return other, found
    return None
