"""fused.onnx: the fused model as standard ONNX, each region a function in the domain `graphfuse.region`.

The functions' bodies are the model's nodes in standard ops, so the file opens in any viewer and runs in any ONNX
runtime. What computes nothing of its own (a reshape that is only another view, a concat written in place) stays a plain
node, and so does control flow: what runs in its bodies is the rewritten model's nodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from graphfuse import __version__
from graphfuse.errors import ArtifactError
from graphfuse.fusion.program import Program
from graphfuse.fusion.regions import Fusion
from graphfuse.graph import shape_rules
from graphfuse.graph.bodies import bodies, captured, graphs, is_control
from graphfuse.graph.origins import ORIGINS_KEY, all_nodes, merge_origins
from graphfuse.toolchain.files import disk_errors

DOMAIN = "graphfuse.region"
REGIONS_KEY = "graphfuse.regions"
# The standard ops of the file are of this opset: the newest that every supported onnxruntime runs.
OPSET = 23
# Protobuf takes 2 GB; weights beyond this go to a file beside the model.
LARGEST_INLINE = 1_500_000_000

_OWN_KEYS = ("pkg.onnx_shape_inference.", "graphfuse.varies")
_MOST_NAMED = 4


def fused_model(fusion: Fusion, model: ir.Model) -> ir.Model:
    """The model that was fused, with every region a function and its call a node; `model` itself is not changed.

    Regions that share a node become one function, and so do regions that would otherwise wait for each other. Weights
    stay initializers of the graph and are shared with `model`, not copied.
    """
    graph = model.graph.clone()
    drop_scaffolding(graph)
    copies = dict(zip(model.graph, graph, strict=True))
    for node, copy in copies.items():
        _state_types(fusion.program, node, copy)
    groups = [([copies[node] for node in nodes], regions) for nodes, regions in grouped(fusion, model.graph)]
    readers = _readers(graph)
    functions = [_extract(graph, nodes, regions, readers) for nodes, regions in groups]
    graph.sort()
    graph.opset_imports[DOMAIN] = 1
    for each in graphs(graph):
        _spell_for_older(each)
    for function in functions:
        for each in graphs(function.graph):
            _spell_for_older(each)
    return ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name="graphfuse",
        producer_version=__version__,
        functions=functions,
        metadata_props=dict(model.metadata_props),
    )


def _spell_for_older(container: ir.Graph | ir.Function) -> None:
    """Write what only opset 24 has in ops of opset 23, which more runtimes read: of the ops in use, Swish alone."""
    for node in list(container):
        if node.op_type != "Swish" or node.domain != "":
            continue
        x, alpha = node.inputs[0], node.attributes.get_float("alpha", 1.0)
        assert x is not None
        added: list[ir.Node] = []
        scaled = x
        if alpha != 1.0:
            constant = ir.node("CastLike", [_constant(added, alpha), x])
            scale = ir.node("Mul", [x, constant.outputs[0]])
            added += [constant, scale]
            scaled = scale.outputs[0]
        gate = ir.node("Sigmoid", [scaled])
        product = ir.node("Mul", [x, gate.outputs[0]], name=node.name, metadata_props=dict(node.metadata_props))
        added += [gate, product]
        product.outputs[0].name, product.outputs[0].type = node.outputs[0].name, node.outputs[0].type
        product.outputs[0].shape = node.outputs[0].shape
        ir.convenience.replace_nodes_and_values(container, node, [node], added, node.outputs, product.outputs)
    if container.opset_imports.get("", OPSET) == shape_rules.OPSET:  # a user who has a later one has a runtime for it
        container.opset_imports[""] = OPSET


def _constant(added: list[ir.Node], value: float) -> ir.Value:
    node = ir.node("Constant", [], {"value_float": value})
    added.append(node)
    return node.outputs[0]


def write_fused_model(model: ir.Model, path: Path) -> None:
    """Write the model; the same model gives the same bytes. Weights beyond LARGEST_INLINE go to `<path>.data`.

    Raises ArtifactError when the disk does not take it.
    """
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    with disk_errors(ArtifactError, path):
        if sum(int(weight.nbytes) for weight in weights) > LARGEST_INLINE:
            ir.save(model, path, external_data=f"{path.name}.data")
            return
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                (value.const_value,) = ir.external_data.convert_tensors_from_external([value.const_value])
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def region_names(function: ir.Function) -> tuple[str, ...]:
    """The regions that a function of a fused model stands for."""
    return tuple(json.loads(function.metadata_props[REGIONS_KEY]))


# ---------------------------------------------------------------- which nodes go together


def grouped(fusion: Fusion, graph: ir.Graph) -> list[tuple[list[ir.Node], list[str]]]:
    """The nodes of each function, in graph order, and its regions; in the order of the first region.

    A node's function is that of its regions. Nodes on a cycle of calls (a reshape between two nodes of one region, say)
    are drawn into one function.
    """
    nodes = list(graph)
    index = {node: k for k, node in enumerate(nodes)}
    sets = _DisjointSets(len(nodes))
    regions_of: dict[int, list[int]] = {}
    for number, region in enumerate(fusion.regions):
        made_by = dict.fromkeys(fusion.program.node_of[t] for t in region.tensors)
        members = [index[node] for node in made_by if not is_control(node)]
        if not members:
            continue
        for member in members:
            sets.join(members[0], member)
        regions_of.setdefault(members[0], []).append(number)
    calls: dict[int, list[int]] = {}
    read_by = _readers(graph)
    for k, node in enumerate(nodes):
        readers = [index[reader] for value in node.outputs for reader in read_by.get(value, ())]
        calls.setdefault(sets.root(k), []).extend(sets.root(reader) for reader in readers)
    for cycle in _cycles(calls):
        for k in cycle:
            sets.join(cycle[0], k)
    groups: dict[int, tuple[list[ir.Node], list[int]]] = {}
    for k, node in enumerate(nodes):
        group = groups.setdefault(sets.root(k), ([], []))
        group[0].append(node)
        group[1].extend(regions_of.get(k, ()))
    fused = sorted(((sorted(numbers), members) for members, numbers in groups.values() if numbers), key=lambda g: g[0])
    return [(members, [fusion.regions[n].name for n in numbers]) for numbers, members in fused]


class _DisjointSets:
    """Sets of numbers 0 to n - 1 that only ever merge; the smallest member stands for its set."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def root(self, k: int) -> int:
        while self._parent[k] != k:
            self._parent[k] = self._parent[self._parent[k]]
            k = self._parent[k]
        return k

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low


def _readers(graph: ir.Graph) -> dict[ir.Value, list[ir.Node]]:
    """The nodes that read each value; where a body reads it, the node that owns the body."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        for value in _read(node):
            found.setdefault(value, []).append(node)
    return found


def _cycles(graph: dict[int, list[int]]) -> list[list[int]]:
    """The strongly connected components of more than one vertex, by Kosaraju's two searches; every vertex is a key."""
    finished: list[int] = []
    seen: set[int] = set()
    for start in graph:
        finished += _search(graph, start, seen)
    backward: dict[int, list[int]] = {vertex: [] for vertex in graph}
    for vertex, successors in graph.items():
        for successor in successors:
            backward[successor].append(vertex)
    seen.clear()
    components = [_search(backward, vertex, seen) for vertex in reversed(finished)]
    return [component for component in components if len(component) > 1]


def _search(graph: dict[int, list[int]], start: int, seen: set[int]) -> list[int]:
    """The vertices first reached from `start`, each after those that it leads to."""
    if start in seen:
        return []
    seen.add(start)
    finished: list[int] = []
    stack = [(start, iter(graph[start]))]
    while stack:
        vertex, successors = stack[-1]
        following = next((v for v in successors if v not in seen), None)
        if following is None:
            stack.pop()
            finished.append(vertex)
        else:
            seen.add(following)
            stack.append((following, iter(graph[following])))
    return finished


# ---------------------------------------------------------------- functions and their calls


def _extract(
    graph: ir.Graph, nodes: Sequence[ir.Node], regions: Sequence[str], readers: dict[ir.Value, list[ir.Node]]
) -> ir.Function:
    """Move nodes of the graph into a new function and put a call of it in their place.

    readers: who read each value before the first function was extracted.
    """
    inside = dict.fromkeys(nodes)
    made = {value: None for node in nodes for value in node.outputs}
    inputs = [v for v in dict.fromkeys(v for node in nodes for v in _read(node)) if v not in made]
    outputs = [v for v in made if v.is_graph_output() or any(r not in inside for r in readers.get(v, ()))]
    name = _function_name(regions)
    users = merge_origins(nodes)
    body = ir.GraphView(inputs, outputs, nodes=nodes, opset_imports=_opsets(graph, nodes), name=name).clone()
    for value in body.inputs:
        value.const_value = None
    about = {REGIONS_KEY: json.dumps(list(regions)), ORIGINS_KEY: json.dumps(list(users))}
    body.metadata_props.update(about)
    body.doc_string = "\n".join(users)
    call = ir.Node(
        DOMAIN, name, inputs, num_outputs=len(outputs), name=_call_name(name, users), doc_string="\n".join(users),
        metadata_props=about,
    )  # fmt: skip
    for old, new in zip(outputs, call.outputs, strict=True):
        new.type, new.shape, kept = old.type, old.shape, old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name, new.name = None, kept
    graph.insert_before(nodes[0], call)
    graph.remove(nodes)
    return ir.Function(DOMAIN, name, graph=body, attributes=())


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads from around it, by its bodies as well, in order of use and possibly more than once."""
    yield from (value for value in node.inputs if value is not None)
    yield from captured(node)


def _opsets(graph: ir.Graph, nodes: Iterable[ir.Node]) -> dict[str, int]:
    """The imports of the domains that the nodes and their bodies use."""
    used: dict[str, None] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        used[node.domain] = None
        stack += [inner for body in bodies(node) for inner in body]
    return {domain: version for domain, version in graph.opset_imports.items() if domain in used}


def _function_name(regions: Sequence[str]) -> str:
    """Unique, for a region is in one function only: its first region tells it from all others."""
    if len(regions) <= _MOST_NAMED:
        return "_".join(regions)
    return f"{regions[0]}_and_{len(regions) - 1}_more"


def _call_name(function: str, users: Sequence[str]) -> str:
    more = f" and {len(users) - _MOST_NAMED} more" if len(users) > _MOST_NAMED else ""
    return f"{function}: {', '.join(users[:_MOST_NAMED])}{more}" if users else function


def _state_types(program: Program, node: ir.Node, copy: ir.Node) -> None:
    """Give the copy's results the shapes that lowering found, which inference may not know."""
    for value, copied in zip(node.outputs, copy.outputs, strict=True):
        tensor = program.of_value.get(value)
        if tensor is not None:
            copied.type = ir.TensorType(tensor.dtype)
            copied.shape = ir.Shape([d if isinstance(d, int) else str(d) for d in tensor.shape])
        elif copied.shape is None:
            copied.type = None  # a declared type without a shape is not valid ONNX


def drop_scaffolding(graph: ir.Graph) -> None:
    """Remove what shape inference noted for itself, and weights that were folded into others."""
    unused = [v for v in graph.initializers.values() if not v.uses() and not v.is_graph_output()]
    for name in [v.name or "" for v in unused]:
        del graph.initializers[name]
    for node in all_nodes(graph):
        for value in (*node.outputs, *(value for body in bodies(node) for value in body.inputs)):
            if value.shape is None and node.graph is not graph:
                value.type = None  # a type without a shape is not valid ONNX
            for key in [key for key in value.metadata_props if key.startswith(_OWN_KEYS)]:
                del value.metadata_props[key]
