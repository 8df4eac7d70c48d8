"""ONNX files -> onnx_ir.Model at one opset, named, checked, shapes inferred."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes

from graphfuse.errors import GraphfuseError, ModelFileError, one_line
from graphfuse.graph.bodies import graphs
from graphfuse.graph.origins import all_nodes, check_origins, origins, set_origins
from graphfuse.graph.shape_rules import OPSET
from graphfuse.importers.checks import check_opset, check_tensors, check_text, read_proto
from graphfuse.importers.common import Imported
from graphfuse.importers.containers import own_results, take_optional_inputs
from graphfuse.importers.contrib import as_standard, set_apart
from graphfuse.importers.functions import expand_functions
from graphfuse.importers.opset import convert_opset
from graphfuse.importers.shapes import infer_or_refuse, name_dims, unknown_values
from graphfuse.ledger import Ledger

_IR_VERSION = 11  # the first that goes with opset 23 and later, and the newest that every onnxruntime in use reads

_CALL_KEY = "graphfuse.call"
_NAME_KEY = "graphfuse.name"


def import_onnx(path: str | os.PathLike[str]) -> Imported:
    """Read an ONNX file; weights stay memory-mapped where they are external data.

    Every node of the user's graph, those in control-flow bodies and in the model's functions included, is registered
    in the ledger under its own name, or `<OpType>_<index in file order>` where it has none.
    Raises ModelFileError or UnsupportedModelError.
    """
    file = Path(path)
    where = str(path)
    proto = read_proto(file)
    check_text(proto, where)
    check_opset(proto, where)
    check_tensors(proto, file)
    if proto.graph.sparse_initializer:
        raise ModelFileError("sparse weights are not supported", where=where, remedy="store them densely")
    try:
        with _quiet():
            model = ir.from_proto(proto)
            ir.external_data.set_base_dir(model.graph, str(file.parent))
            return import_graph(model, where)
    except GraphfuseError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        # The libraries below raise these for files that are well-formed protobuf but not well-formed ONNX.
        remedy = "export the model again"
        raise ModelFileError("not a valid ONNX model", where=where, why=_root_cause(error), remedy=remedy) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' log lines about a broken file off the terminal: the error that follows says it."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(f"{type(error).__name__}: {error}", 200)


def import_graph(model: ir.Model, where: str, operators: Mapping[str, str] | None = None) -> Imported:
    """The model, which is changed, at one opset: functions inlined, nodes named and registered, shapes inferred.

    operators: what to register instead, name -> type, where the model is a spelling of another framework's (Spelled).
    Raises ModelFileError or UnsupportedModelError.
    """
    ledger = Ledger()
    _inline_functions(model, where)
    _use_standard_domain(model)
    set_apart(model)
    _drop_initializers_from_inputs(model)
    _name_nodes(model)
    _trim_absent_outputs(model)
    _forget_declared_shapes(model)
    passes.NameFixPass()(model)
    _register(model, ledger, operators)
    _lift_constants(model, ledger)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    model = convert_opset(model, where)
    as_standard(model)
    model.ir_version = _IR_VERSION
    _lift_constants(model, ledger)
    own_results(model)
    take_optional_inputs(model, where, ledger)
    name_dims(model, ledger)
    infer_or_refuse(model, where)
    while expand_functions(model):
        _lift_constants(model, ledger)
        infer_or_refuse(model, where)
    check_origins(model, ledger, "import")
    return Imported(model, ledger, unknown_values(model))


def _register(model: ir.Model, ledger: Ledger, operators: Mapping[str, str] | None) -> None:
    """Open the account of every operator of the user's: the nodes themselves, or what they were spelled from."""
    if operators is None:
        for node in all_nodes(model.graph):
            assert node.name is not None
            ledger.register(node.name, node.op_type)
            set_origins(node, [node.name])
        return
    for name, op_type in operators.items():
        ledger.register(name, op_type)
    carried = {name for node in all_nodes(model.graph) for name in origins(node)}
    known = [name for name in operators if name not in carried]
    ledger.settle(known, "folded", by="import", reason="known when the model is read")


def _use_standard_domain(model: ir.Model) -> None:
    """Spell the standard domain in one way; the file may say "ai.onnx" or ""."""
    for node in all_nodes(model.graph):
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    for domain in [d for d in model.graph.opset_imports if d == "ai.onnx"]:
        version = model.graph.opset_imports.pop(domain)
        model.graph.opset_imports.setdefault("", version)
    model.graph.opset_imports.setdefault("", OPSET)


def _inline_functions(model: ir.Model, where: str) -> None:
    """Replace calls of the model's own functions by their bodies, whose nodes get the call's name as a prefix."""
    bodies = (model.graph, *(function.graph for function in model.functions.values()))
    for node in (node for body in bodies for node in all_nodes(body)):
        node.metadata_props[_NAME_KEY] = node.name or (node.op_type if node.graph is not model.graph else "")
        if node.op_identifier() in model.functions:
            node.metadata_props[_CALL_KEY] = node.name or node.op_type
    try:
        passes.InlinePass()(model)
    except (ValueError, ir.passes.InvariantError, ir.passes.PassError) as error:
        what, remedy = "the model's functions cannot be inlined", "export the model without functions"
        raise ModelFileError(what, where=where, why=_root_cause(error), remedy=remedy) from error
    for node in all_nodes(model.graph):
        call, name = node.metadata_props.pop(_CALL_KEY, None), node.metadata_props.pop(_NAME_KEY, "")
        node.name = f"{call}/{name}" if call else node.name


def _drop_initializers_from_inputs(model: ir.Model) -> None:
    """Up to IR version 3 every initializer is an input as well; here they are constants, never inputs."""
    graph = model.graph
    kept = [value for value in graph.inputs if value.name not in graph.initializers]
    graph.inputs.clear()
    graph.inputs.extend(kept)


def _name_nodes(model: ir.Model) -> None:
    """Give every node a name of its own: the first with a name keeps it, the others get a number."""
    nodes = list(all_nodes(model.graph))
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    for index, node in enumerate(nodes):
        wanted = node.name or f"{node.op_type}_{index}"
        name, k = wanted, 2
        while name in seen or (name in taken and name != node.name):
            name, k = f"{wanted}_{k}", k + 1
        seen.add(name)
        node.name = name


def _trim_absent_outputs(model: ir.Model) -> None:
    """Drop the trailing outputs that a node does not make, which the file spells as empty names."""
    for node in all_nodes(model.graph):
        count = len(node.outputs)
        while count > 1 and not node.outputs[count - 1].name:
            count -= 1
        if count < len(node.outputs):
            node.resize_outputs(count)


def _forget_declared_shapes(model: ir.Model) -> None:
    """Drop what the file says about values inside the graph: exporters and editors leave it stale."""
    for node in all_nodes(model.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape, value.type = None, None


def _lift_constants(model: ir.Model, ledger: Ledger) -> None:
    """Turn Constant nodes, in bodies too, into initializers of the graph."""
    before = [node for node in all_nodes(model.graph) if node.op_type == "Constant"]
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    for node in before:
        if node.graph is None:
            ledger.settle(origins(node), "folded", by="import", reason="a constant")
        elif node.graph is not model.graph:
            _name_constant(model, node)


def _name_constant(model: ir.Model, node: ir.Node) -> None:
    """Turn a Constant that is a result of its body into a copy of an initializer: a body's results are its own."""
    result, tensor = node.outputs[0], ir.convenience.get_const_tensor(node.outputs[0])
    if tensor is None:
        return  # a text, say
    assert node.graph is not None
    assert result.name is not None
    taken = {value.name for graph in graphs(model.graph) for inner in graph for value in inner.outputs}
    taken |= set(model.graph.initializers)
    name = next(n for n in (f"{result.name}.constant{k or ''}" for k in itertools.count()) if n not in taken)
    shape = ir.Shape([d for d in tensor.shape if isinstance(d, int)])
    constant = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(constant)
    copy = ir.node("Identity", [constant], name=node.name)
    set_origins(copy, origins(node))
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [copy], [result], copy.outputs)
    copy.outputs[0].name = copy.outputs[0].name or name
