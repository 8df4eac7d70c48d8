"""What is asked of the bodies of control flow: what they read from around them, what loops carry, when they end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

import onnx_ir as ir

CONTROL_FLOW = ("If", "Loop", "Scan")
# On an input of a body: the axes whose size the body changes, each with the symbol that stands for it; or "rank".
_VARIES_KEY = "graphfuse.varies"
_RANK = "rank"


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside a node, in the order of its attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def is_control(node: ir.Node | None, *op_types: str) -> bool:
    """Whether a node is an If, Loop or Scan (or one of those named) of the standard."""
    return node is not None and node.domain == "" and node.op_type in (op_types or CONTROL_FLOW)


def body_of(node: ir.Node) -> ir.Graph:
    """The body of a Loop or Scan."""
    return node.attributes["body"].as_graph()


def graphs(graph: ir.Graph) -> list[ir.Graph]:
    """The graph and the bodies of its control flow, outer ones first."""
    found = [graph]
    for node in graph:
        for body in bodies(node):
            found += graphs(body)
    return found


def inner_first(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every node of the graph and of its bodies; what a node's bodies hold comes before the node."""
    for node in graph:
        for body in bodies(node):
            yield from inner_first(body)
        yield node


def captured(node: ir.Node) -> list[ir.Value]:
    """The values that a node's bodies read from the graphs around it, constants included, in order of first use."""
    found: dict[ir.Value, None] = {}
    for body in bodies(node):
        inside = set(body.inputs) | set(body.initializers.values())
        inside |= {value for inner in body for value in inner.outputs}
        for inner in body:
            found.update((value, None) for value in inner.inputs if value is not None and value not in inside)
            found.update((value, None) for value in captured(inner) if value not in inside)
        found.update((value, None) for value in body.outputs if value not in inside)
    return list(found)


# ---------------------------------------------------------------- what a loop carries


@dataclasses.dataclass(frozen=True)
class Carried:
    """A value that a loop hands from one iteration to the next."""

    initial: ir.Value | None
    before: ir.Value  # the body's input
    after: ir.Value  # the body's output
    result: ir.Value | None  # the node's output


def carried(node: ir.Node) -> list[Carried]:
    """What a Loop carries, or a Scan's states."""
    body = body_of(node)
    skip = 2 if node.op_type == "Loop" else 0
    count = len(node.inputs) - skip if node.op_type == "Loop" else scan_facts(node).states
    ends = skip // 2  # a Loop's body gives its condition first
    results = [node.outputs[k] if k < len(node.outputs) else None for k in range(count)]
    rows = zip(node.inputs[skip:], body.inputs[skip:], body.outputs[ends:], results, strict=False)
    return [Carried(*row) for row in rows]


@dataclasses.dataclass(frozen=True)
class ScanFacts:
    """A Scan's attributes in one form.

    states: how many values it carries; input_axes, output_axes: the axis that is scanned or stacked, not negative (None
    where a rank is unknown); input_reverse, output_reverse: whether it goes from the end to the front.
    """

    states: int
    input_axes: tuple[int | None, ...]
    output_axes: tuple[int | None, ...]
    input_reverse: tuple[bool, ...]
    output_reverse: tuple[bool, ...]


def scan_facts(node: ir.Node) -> ScanFacts:
    """The attributes of a Scan."""
    scans = node.attributes["num_scan_inputs"].as_int()
    states = len(node.inputs) - scans
    body = body_of(node)
    stacks = len(body.outputs) - states

    def ints(name: str, count: int) -> tuple[int, ...]:
        given = tuple(node.attributes.get_ints(name, ()))
        return given + (0,) * (count - len(given))

    def axis(given: int, rank: int | None) -> int | None:
        return given if given >= 0 else None if rank is None else given + rank

    sources, results = node.inputs[states:], body.outputs[states:]
    return ScanFacts(
        states,
        tuple(axis(a, _rank(x)) for a, x in zip(ints("scan_input_axes", scans), sources, strict=True)),
        tuple(axis(a, _rank(x, 1)) for a, x in zip(ints("scan_output_axes", stacks), results, strict=True)),
        tuple(d == 1 for d in ints("scan_input_directions", scans)),
        tuple(d == 1 for d in ints("scan_output_directions", stacks)),
    )


def _rank(value: ir.Value | None, more: int = 0) -> int | None:
    return None if value is None or value.shape is None else len(value.shape) + more


def varying_axes(value: ir.Value) -> tuple[int, ...] | None:
    """The axes of a body's input whose size may differ between iterations; None when the rank does, or is unknown.

    The other axes have the size of the initial value.
    """
    text = value.metadata_props.get(_VARIES_KEY, "{}")
    if text == _RANK or value.shape is None:
        return None
    return tuple(sorted(int(axis) for axis in json.loads(text)))


def changes_rank(value: ir.Value) -> bool:
    """Whether the body gives this input of its own another rank in the next iteration."""
    return value.metadata_props.get(_VARIES_KEY) == _RANK


def varying(value: ir.Value) -> dict[int, str]:
    """The symbols that stand for the sizes of the varying axes."""
    text = value.metadata_props.get(_VARIES_KEY, "{}")
    return {} if text == _RANK else {int(axis): name for axis, name in json.loads(text).items()}


def set_varying(value: ir.Value, axes: dict[int, str] | None) -> None:
    """Note which axes of a body's input vary, and their symbols; None: the rank."""
    value.metadata_props.pop(_VARIES_KEY, None)
    if axes is None:
        value.metadata_props[_VARIES_KEY] = _RANK
    elif axes:
        value.metadata_props[_VARIES_KEY] = json.dumps({str(axis): axes[axis] for axis in sorted(axes)})


# ---------------------------------------------------------------- when a loop ends


def truth(value: ir.Value | None) -> bool | None:
    """The one element of a constant condition, None when it is not known."""
    value = behind_identities(value)
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return bool(value.const_value.numpy().reshape(()))


def behind_identities(value: ir.Value | None) -> ir.Value | None:
    """The value that this one is a copy of, through any number of Identity nodes."""
    while value is not None and is_control(value.producer(), "Identity"):
        node = value.producer()
        assert node is not None
        value = node.inputs[0]
    return value


def keeps_condition(node: ir.Node) -> bool:
    """Whether a Loop's body hands its condition on as it is, or makes it true: it never stops the loop."""
    body = body_of(node)
    last = behind_identities(body.outputs[0])
    return last is body.inputs[1] or truth(last) is True


def runs_to_the_end(node: ir.Node) -> bool:
    """Whether a Loop's trip count alone decides how often it runs."""
    return _starts(node) and keeps_condition(node)


def surely_runs(node: ir.Node) -> bool:
    """Whether a Loop or Scan runs at least once, whatever its inputs are."""
    if node.op_type == "Scan":
        return (trips(node) or 0) > 0
    most = behind_identities(node.inputs[0])
    known = most is not None and most.const_value is not None and most.const_value.size == 1
    often = most is None or (known and int(most.const_value.numpy().reshape(())) > 0)  # type: ignore[union-attr]
    return often and _starts(node)


def _condition(node: ir.Node) -> ir.Value | None:
    """The condition that a Loop starts with, where it is given one."""
    return node.inputs[1] if len(node.inputs) > 1 else None


def _starts(node: ir.Node) -> bool:
    condition = _condition(node)
    return condition is None or truth(condition) is True


def trips(node: ir.Node) -> int | None:
    """How often a Loop or Scan runs, when that is known at compile time."""
    if node.op_type == "Scan":
        facts = scan_facts(node)
        for value, axis in zip(node.inputs[facts.states :], facts.input_axes, strict=True):
            if value is not None and value.shape is not None and axis is not None:
                size = value.shape[axis]
                if isinstance(size, int):
                    return size
        return None
    condition = _condition(node)
    if condition is not None and truth(condition) is False:
        return 0
    most = behind_identities(node.inputs[0])
    known = most is not None and most.const_value is not None and most.const_value.size == 1
    number = max(0, int(most.const_value.numpy().reshape(()))) if known else None  # type: ignore[union-attr]
    if _starts(node) and truth(body_of(node).outputs[0]) is False:
        return 1 if number is None and node.inputs[0] is None else None if number is None else min(1, number)
    return number if number == 0 or runs_to_the_end(node) else None


# ---------------------------------------------------------------- taking bodies apart


def empty(graph: ir.Graph) -> list[ir.Node]:
    """Remove every node of a body and of the bodies in it, so that they use nothing any more; the nodes, in order."""
    gone: list[ir.Node] = []
    graph.outputs.clear()
    for node in reversed(list(graph)):
        inner = [removed for body in bodies(node) for removed in empty(body)]
        graph.remove(node, safe=True)
        gone += [*reversed(inner), node]
    return gone[::-1]


def splice(node: ir.Node, body: ir.Graph) -> list[ir.Value]:
    """Move the nodes of a body in front of the node that owns it; the body's results."""
    assert node.graph is not None
    results, inner = list(body.outputs), list(body)
    body.outputs.clear()
    body.remove(inner)
    node.graph.insert_before(node, inner)
    return results


def supersede(node: ir.Node, results: Sequence[ir.Value | None]) -> None:
    """Let `results` take the place of a node's outputs and remove the node.

    Outputs of the graph keep their names, and are values of their own: copies where need be.
    """
    graph = node.graph
    assert graph is not None
    for old, new in zip(node.outputs, results, strict=True):
        if new is None:
            continue
        name, is_result = old.name, old.is_graph_output()
        maker = new.producer()
        if is_result and (new.is_graph_output() or maker is None or maker.graph is not graph):
            copy = ir.node("Identity", [new], name=f"{node.name}.{name}")
            copy.outputs[0].shape, copy.outputs[0].type = new.shape, new.type
            graph.insert_before(node, copy)
            new = copy.outputs[0]
        if new.shape is None:
            new.shape, new.type = old.shape, new.type or old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        if is_result or new.name is None:
            old.name, new.name = None, name
    graph.remove(node, safe=True)
