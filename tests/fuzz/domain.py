"""What the operators are not defined for: runs that bring them such values say nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from fuzz.oracles import Array, reference

# Ops whose results nothing promises where an input is NaN or infinite.
FINITE_ONLY = frozenset(
    [
        # The references do not agree on what a maximum over NaN is, or what lies at an infinite place of an image.
        "DeformConv",
        "GlobalMaxPool",
        "GridSample",
        "LpPool",
        "MaxPool",
        "MaxRoiPool",
        "NonMaxSuppression",
        "RoiAlign",
        # An infinity has a scale of infinity, in which nothing is a number; onnxruntime's kernels then take any code.
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        # Infinity times a coefficient that is 0 but for its rounding, or that of another class.
        "DFT",
        "STFT",
        "SVMClassifier",
        # onnxruntime has 0 for a kernel of NaN.
        "SVMRegressor",
        # Which products of an elimination meet an infinity; whether a sum is taken ahead of a product.
        "Det",
        "Einsum",
        # onnxruntime's softmax takes scores of NaN for nothing at all, and skips what is masked or adds a 0 for it.
        "Attention",
        "GroupQueryAttention",
        "MultiHeadAttention",
        # See _is_within.
        "MelWeightMatrix",
    ]
)
# Ops whose second input meets padding: whether 0 times infinity is among the sums is the kernel's own affair.
_WEIGHTED = frozenset(["Conv", "ConvTranspose", "FusedConv"])
_WINDOWS = frozenset(["AveragePool", "LpPool", "MaxPool"])
_LOOKED_INTO = _WINDOWS | {"InstanceNormalization", "Pow"}
# Activations of recurrent operators that make a 0 of NaN in onnxruntime.
_RELUS = frozenset(["Relu", "LeakyRelu", "ThresholdedRelu"])
_MODEST = 4.0
_TINY = 1e-6


def is_defined(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> bool:
    """Whether every operator of the main graph is given what it is defined for. Raises NoAnswer.

    What operators of bodies are given is not known: where one needs finite numbers, the model is to have no others.
    """
    if any(next(_finite_inputs(node), "") for node in _inner_nodes(model.graph)):
        floats = [x for x in inputs.values() if x.dtype.kind in "fV"]
        if not all(np.isfinite(x.astype(np.float64)).all() for x in floats):
            return False
    finite = {x for node in model.graph.node for x in _finite_inputs(node)}
    names = sorted(finite | {node.input[0] for node in model.graph.node if node.op_type in _LOOKED_INTO})
    if not names:
        return True
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    made = {y for node in model.graph.node for y in node.output}
    given = {**inputs, **{t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}}
    computed = [name for name in names if name in made]
    if computed:
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
        given |= dict(zip(computed, reference(probe)(inputs), strict=True))
    if not all(_is_within(node, given) for node in model.graph.node):
        return False
    return all(np.isfinite(given[x].astype(np.float64)).all() for x in finite if given[x].dtype.kind in "fV")


def _inner_nodes(graph: onnx.GraphProto, inside: bool = False) -> Iterator[onnx.NodeProto]:
    """The nodes of bodies, and of bodies inside of those."""
    for node in graph.node:
        if inside:
            yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _inner_nodes(attribute.g, True)


def _is_within(node: onnx.NodeProto, given: Mapping[str, Array]) -> bool:
    """Whether what an operator's inputs say has a meaning."""
    if node.op_type == "NonMaxSuppression" and len(node.input) > 3 and node.input[3]:
        # How much of two boxes is common: onnxruntime refuses what is no share, the evaluator goes by it.
        share = given[node.input[3]]
        return bool(((share >= 0) & (share <= 1)).all())
    if node.op_type == "MelWeightMatrix":
        # Outside the spectrum the evaluator counts bins from its end.
        rate, low, high = (float(given[x].item()) for x in node.input[2:5])
        return 0 <= low <= high <= rate / 2
    if node.op_type in _WINDOWS:
        return _fits(node, given[node.input[0]])
    if node.op_type == "InstanceNormalization":
        # A single value less itself is 0 here and what rounding leaves in onnxruntime.
        return math.prod(given[node.input[0]].shape[2:]) > 1
    if node.op_type == "Pow" and (base := given[node.input[0]]).dtype.kind == "f":
        # Powers of what is not quite 0 depend on its sign, which rounding decides: the ends of a window.
        return not ((base != 0) & (np.abs(base) < _TINY)).any()
    if node.op_type == "Dropout" and len(node.input) > 2 and all(node.input):
        # What is dropped is drawn anew in each run.
        return not given[node.input[2]].item() or bool(given[node.input[1]].item() == 0)
    if node.op_type == "RNN" and "Softplus" in _activations(node):
        # onnxruntime takes the logarithm of e to its argument, which is infinite beyond 88; states add up to more.
        return bool((np.abs(given[node.input[0]]) <= _MODEST).all())
    return True


def _fits(node: onnx.NodeProto, x: Array) -> bool:
    """Whether a pool's windows lie in its image: of others runtimes make what they like."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    kernel, sizes = np.array(given["kernel_shape"]), np.array(x.shape[2:])
    extent = (kernel - 1) * np.array(given.get("dilations", np.ones_like(kernel))) + 1
    if given.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        # Where windows lie apart the padding is negative: cut off by some, nothing to others.
        return bool((extent >= given.get("strides", np.ones_like(kernel))).all())
    if node.op_type == "LpPool" and x.dtype == np.float64 and given.get("ceil_mode"):
        return False  # of the evaluator, which scales by how much of a window there is
    pads = np.array(given.get("pads", np.zeros(2 * len(kernel)))).reshape(2, -1).sum(0)
    return bool((extent <= sizes + pads).all())


def _activations(node: onnx.NodeProto) -> list[str]:
    return [name.decode() for a in node.attribute if a.name == "activations" for name in a.strings]


def _finite_inputs(node: onnx.NodeProto) -> Iterator[str]:
    if node.op_type in _WEIGHTED:
        yield node.input[1]
    elif node.op_type in FINITE_ONLY or _RELUS & set(_activations(node)):
        yield from (x for x in node.input if x)
    elif node.op_type == "Dropout" and len(node.input) > 2:
        yield from (x for x in node.input[1:] if x)
    elif "Softplus" in _activations(node):
        yield node.input[0]
