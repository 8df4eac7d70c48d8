"""Scan of opset 8, which goes over batches: at later opsets a Scan over the items of the batch, around one over steps.

Opset 8 has a batch axis ahead of everything that a Scan takes and gives, and a length for each item where the model
has them (https://onnx.ai/onnx/operators/onnx__Scan.html, version 8).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

import onnx
from onnx import helper

_Nodes = list[onnx.NodeProto]


def set_scans_apart(model: onnx.ModelProto) -> list[str]:
    """Spell every Scan of a model at opset 8 as a Loop, and return the names of these nodes.

    The converter, which then converts the body alone, would take the batch axis off the model's inputs.
    """
    found = []
    for node in (node for graph in _graphs(model.graph) for node in graph.node):
        if node.op_type == "Scan" and node.domain == "":
            node.op_type = "Loop"
            found.append(node.name)
    return found


def scan_batches(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Make of each of these nodes, in the converted model, a Scan over the batch around one over the steps."""
    every = list(_graphs(model.graph))
    taken = {name for graph in every for node in graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for graph in every for value in (*graph.input, *graph.initializer)}
    fresh = (name for name in (f"scan_{k}" for k in itertools.count()) if name not in taken)
    for node in [node for graph in every for node in graph.node if node.name and node.name in names]:
        _put_around(node, fresh)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for attribute in (a for node in graph.node for a in node.attribute):
        if attribute.HasField("g"):
            yield from _graphs(attribute.g)


def _put_around(scan: onnx.NodeProto, fresh: Iterator[str]) -> None:
    """Make of a Scan as opset 8 has it one over the items of the batch, with one over the steps as its body."""
    lengths, *given = scan.input
    steps = next(a.i for a in scan.attribute if a.name == "num_scan_inputs")
    states = len(given) - steps
    inner = onnx.NodeProto(op_type="Scan", attribute=scan.attribute)
    for attribute in inner.attribute:
        attribute.name = "scan_input_directions" if attribute.name == "directions" else attribute.name
    items, results = list(itertools.islice(fresh, len(given))), list(itertools.islice(fresh, len(scan.output)))
    taken, made = list(items), [out and result for out, result in zip(scan.output, results, strict=True)]
    before: _Nodes = []
    behind: _Nodes = []
    if lengths:
        length = next(fresh)
        whole, short = items[states:], list(itertools.islice(fresh, steps))
        short_results = [name and next(fresh) for name in made[states:]]
        before = _cut(whole, short, length, fresh)
        behind = _lengthened(short_results, made[states:], whole[0], length, fresh)
        given, items = [*given, lengths], [*items, length]
        taken[states:], made[states:] = short, short_results
    inner.input[:], inner.output[:] = taken, made
    taken_in, handed_on = ([helper.make_empty_tensor_value_info(n) for n in names] for names in (items, results))
    body = helper.make_graph([*before, inner, *behind], next(fresh), taken_in, handed_on)
    around = helper.make_node("Scan", given, list(scan.output), scan.name, body=body, num_scan_inputs=len(given))
    scan.CopyFrom(around)


def _constant(value: int, fresh: Iterator[str]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [next(fresh)], value_ints=[value])


def _cut(whole: Sequence[str], short: Sequence[str], length: str, fresh: Iterator[str]) -> _Nodes:
    """As many steps of each tensor as the item has."""
    zero, end = _constant(0, fresh), next(fresh)
    (start,) = zero.output
    cuts = [helper.make_node("Slice", [a, start, end, start], [b]) for a, b in zip(whole, short, strict=True)]
    return [zero, helper.make_node("Unsqueeze", [length, start], [end]), *cuts]


def _lengthened(short: Sequence[str], whole: Sequence[str], like: str, length: str, fresh: Iterator[str]) -> _Nodes:
    """Zeros behind the steps that the item has, for as many as `like` has."""
    zero = _constant(0, fresh)
    steps, missing, pads = itertools.islice(fresh, 3)
    (start,) = zero.output
    nodes = [zero, helper.make_node("Shape", [like], [steps], start=0, end=1)]
    nodes.append(helper.make_node("Sub", [steps, length], [missing]))
    nodes.append(helper.make_node("Concat", [start, missing], [pads], axis=0))
    pairs = [(a, b) for a, b in zip(short, whole, strict=True) if b]
    return [*nodes, *(helper.make_node("Pad", [a, pads, "", start], [b]) for a, b in pairs)]
