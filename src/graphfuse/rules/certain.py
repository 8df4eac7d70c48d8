"""Which nodes may run where the model would not run them: those that no input of any size or contents makes fail."""

from __future__ import annotations

import onnx_ir as ir

from graphfuse.graph.bodies import bodies, inner_first, is_control, trips
from graphfuse.graph.dims import Dim
from graphfuse.rules.values import dims, same_dim

# One result for each element at the same (broadcast) place, whatever the elements are.
ELEMENTWISE = frozenset(
    {
        "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
        "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal",
        "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf",
        "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not",
        "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
        "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
    }
)  # fmt: skip
# The same elements elsewhere, facts about the shape, or what is done to each row by itself.
_OF_ANY_SIZE = frozenset({"Flatten", "LogSoftmax", "Shape", "Size", "Softmax", "Transpose"})


def cannot_fail(node: ir.Node) -> bool:
    """Whether a node comes to an end and has a result whatever its inputs are: no check of its sizes can fail.

    With known sizes that has been seen while shapes were inferred; indices from data are held inside their axis.
    """
    if is_control(node, "Loop", "Scan") and trips(node) is None:
        return False
    if not all(cannot_fail(inner) for body in bodies(node) for inner in inner_first(body)):
        return False
    given, made = ([dims(v) for v in values if v is not None] for values in (node.inputs, node.outputs))
    if all(shape is not None and all(isinstance(d, int) for d in shape) for shape in (*given, *made)):
        return True
    if node.domain or bodies(node) or any(shape is None for shape in (*given, *made)):
        return False
    shapes = [shape for shape in given if shape is not None]
    if node.op_type in ELEMENTWISE:
        return all(_fits(shape, made[0] or ()) for shape in shapes)
    if node.op_type == "MatMul" and len(shapes) == 2:
        return _multiplies(shapes[0], shapes[1], made[0] or ())
    return node.op_type in _OF_ANY_SIZE


def _fits(shape: tuple[Dim, ...], result: tuple[Dim, ...]) -> bool:
    """Whether an operand surely broadcasts to a result."""
    ends = result[len(result) - len(shape) :]
    return len(ends) == len(shape) and all(d == 1 or same_dim(d, r) for d, r in zip(shape, ends, strict=True))


def _multiplies(a: tuple[Dim, ...], b: tuple[Dim, ...], result: tuple[Dim, ...]) -> bool:
    if len(a) < 2 or len(b) < 2:
        return False
    return same_dim(a[-1], b[-2]) and all(_fits(shape[:-2], result[:-2]) for shape in (a, b))
