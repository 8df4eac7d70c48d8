"""Steps with control flow: If, Loop and Scan, whose bodies are drawn like models and read what lies outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fuzz.draw import Array, Drawing, Unfit, depends, element_type
from fuzz.graphs import read_by
from fuzz.steps import STEPS, Step

_DEPTH = 2
_LONGEST = 5


def _body(d: Drawing, what: str, given: dict[str, Array], steps: int) -> Drawing:
    """A body under way: it sees the values outside and those that it is given, under names of its own."""
    prefix = f"{d.prefix}{what}{len(d.nodes)}."
    if prefix.count(".") > _DEPTH:
        raise Unfit
    body = Drawing(d.pick, dict(d.values), set(d.exact), prefix=prefix)
    for name, array in given.items():
        body.values[prefix + name] = array
    taken = 0
    for _ in range(4 * steps):
        if taken >= steps:
            break
        step: Step = d.any(STEPS) if d.chance(0.9) else d.any([branch, loop, scan])
        try:
            step(body)
            taken += 1
        except Unfit:
            continue
    d.fixed = d.fixed or body.fixed
    return body


def _graph(body: Drawing, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.GraphProto:
    used = read_by(body.nodes) | set(outputs)
    return helper.make_graph(
        body.nodes,
        body.prefix,
        [_port(body, x) for x in inputs],
        [helper.make_tensor_value_info(y, element_type(body.values[y]), None) for y in outputs],
        [numpy_helper.from_array(v, k) for k, v in body.constants.items() if k in used],
    )


def _port(body: Drawing, x: str) -> onnx.ValueInfoProto:
    """An input of a body; onnxruntime asks for the shapes of a loop's counter and condition."""
    return helper.make_tensor_value_info(x, element_type(body.values[x]), [] if x.endswith((".i", ".go")) else None)


def _own(body: Drawing, name: str) -> str:
    """The value under a name that the body makes itself, which its outputs have to be."""
    made = {y for node in body.nodes for y in node.output}
    return name if name in made else body.add("Identity", [name])


def _like(body: Drawing, array: Array) -> str:
    """The latest value of a type and shape, or what there is brought to it."""
    found = [y for y, v in body.values.items() if v.dtype == array.dtype and v.shape == array.shape]
    return body.any(found[-2:])


def _condition(d: Drawing) -> str:
    """A scalar truth value: an input, a constant, or computed."""
    truth = [x for x, v in d.values.items() if v.dtype == bool and v.size == 1]
    how = d.one("input", "input", "constant", "computed", "there")
    if how == "there" and truth:
        return str(d.pick.choice(truth))
    if how == "computed":
        x = d.value("i", "f", exact=True, least=1)
        top = d.add("ReduceMax", [x], keepdims=0)
        return d.add("Greater", [top, d.constant(d.one(0, 1, 2), d.values[x].dtype)])
    value = np.array(d.chance(0.5))
    return d.input(value, kept=True) if how == "input" else d.constant(value)


def branch(d: Drawing) -> None:
    """Two branches with results of the same types, mostly of the same shapes."""
    condition = _condition(d)
    first = _body(d, "then", {}, d.pick.randint(1, 3))
    made = [y for node in first.nodes for y in node.output]
    chosen = list(dict.fromkeys([*made[-1:], *([d.any(made)] if made and d.chance(0.4) else [])]))
    if not chosen:
        raise Unfit
    second = _body(d, "else", {}, d.pick.randint(0, 3))
    others = [_own(second, _like(second, first.values[y])) for y in chosen]
    if len(set(others)) < len(others):
        raise Unfit
    graphs = [_graph(first, [], chosen), _graph(second, [], others)]
    d.pick.shuffle(graphs)
    d.add("If", [condition], count=len(chosen), then_branch=graphs[0], else_branch=graphs[1])


def loop(d: Drawing) -> None:
    """A few rounds over one or two states, with results of every round behind one another."""
    states = list(dict.fromkeys(d.value(*d.one("f", "f", "fi")) for _ in range(d.one(1, 1, 2))))
    given = {"i": np.array(0, np.int64), "go": np.array(True)}
    given |= {f"s{k}": d.values[x] for k, x in enumerate(states)}
    body = _body(d, "loop", given, d.pick.randint(1, 4))
    results = [_own(body, _like(body, d.values[x])) for x in states]
    made = [y for node in body.nodes for y in node.output if y not in results]
    trips = np.array(d.pick.randint(0, _LONGEST), np.int64)
    rows = [d.any(made)] if made and trips and d.chance(0.5) else []  # of no rounds the references differ
    if d.chance(0.3):
        limit = body.constant(d.pick.randint(0, 3), np.int64)
        go = body.add("Less", [body.prefix + "i", limit])
    else:
        go = body.add("Identity", [body.prefix + "go"])
    outputs = [go, *results, *rows]
    if len(set(outputs)) < len(outputs):
        raise Unfit
    graph = _graph(body, [body.prefix + name for name in given], outputs)
    count = d.input(trips, kept=True) if d.chance(0.4) else d.constant(trips)
    start = "" if d.chance(0.5) else d.constant(np.array(True))
    d.add("Loop", [count, start, *states], count=len(results) + len(rows), body=graph)


def scan(d: Drawing) -> None:
    """One state and one or two sequences, along their first axes."""
    state = d.value("f")
    sequence = d.value("f", least=1)
    v = d.values[sequence]
    if not v.shape[0]:
        raise Unfit
    rows = [
        x for x, w in d.values.items() if w.ndim and w.dtype.kind == "f" and w.shape[0] == v.shape[0] and x != sequence
    ]
    sequences = [sequence, *([d.any(rows)] if rows and not depends(v.shape[0]) and d.chance(0.3) else [])]
    given = {"s": d.values[state], **{f"x{k}": d.values[x][0] for k, x in enumerate(sequences)}}
    body = _body(d, "scan", given, d.pick.randint(1, 4))
    result = _own(body, _like(body, d.values[state]))
    made = [y for node in body.nodes for y in node.output if y != result]
    outputs = [result, d.any(made)]
    graph = _graph(body, [body.prefix + name for name in given], outputs)
    directions = {"scan_input_directions": [d.one(0, 1) for _ in sequences]} if d.chance(0.3) else {}
    d.add("Scan", [state, *sequences], count=2, num_scan_inputs=len(sequences), body=graph, **directions)


CONTROL: list[Step] = [branch, branch, loop, scan]
