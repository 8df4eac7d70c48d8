"""Applies the rules of a stage until nothing changes, and accounts for every node of the user's that they touch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchingTracer, MatchStatus, RewriteRule

from graphfuse.errors import InternalError, ModelFileError, one_line
from graphfuse.graph.bodies import bodies, empty, graphs
from graphfuse.graph.infer import Inference, ShapeError, infer_shapes
from graphfuse.graph.origins import label, origins, set_origins
from graphfuse.ledger import Ledger
from graphfuse.rules.rule import ALL, Rule

_MOST_SWEEPS = 100


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A compiled rule: one order of operands of one pattern of one file."""

    rule: Rule
    rewriter: RewriteRule
    name: str


class _Misses(MatchingTracer):
    """Collects why checks refused; the engine's sweeps are repeated, so it is emptied before each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, str, str, str], None] = {}

    def log(self, rule: RewriteRule, container: Any, node: ir.Node, match_result: Any, status: MatchStatus) -> None:
        if status not in (MatchStatus.CONDITION_FAILED, MatchStatus.REPLACEMENT_FAILED) or not match_result.reason:
            return
        culprits = match_result.failure_nodes_and_values
        culprit = _name(culprits[0]) if culprits else ""
        self.found[str(rule.name), label(node), match_result.reason, culprit] = None


def _name(thing: ir.Node | ir.Value) -> str:
    return label(thing) if isinstance(thing, ir.Node) else thing.name or ""


def run_rules(
    model: ir.Model, ledger: Ledger, patterns: Sequence[Pattern], passes: Sequence[Callable[[], bool]]
) -> None:
    """Apply patterns and passes to the graph and its control-flow bodies until nothing changes.

    Near misses that remain at the end go to the ledger. Raises InternalError when the rules do not come to rest.
    """
    by_op: dict[str, list[Pattern]] = {}
    for pattern in patterns:
        by_op.setdefault(pattern.rewriter._target_pattern.output_node.op_type, []).append(pattern)
    misses = _Misses()
    rewriter = _Rewriter(model, ledger, misses)
    for _ in range(_MOST_SWEEPS):
        misses.found.clear()
        changed = rewriter.sweep(by_op)
        for apply in passes:
            changed = apply() or changed
        if not changed:
            break
        rewriter.inference = Inference(model)  # passes bring symbols of their own
    else:
        raise InternalError("the rewrite rules do not come to rest", where=rewriter.last)
    for rule, node, reason, culprit in misses.found:
        ledger.miss(rule, node, reason, culprit)
    # What was missed at a node that has become part of a larger op since is nobody's loss.
    ledger.misses = [miss for miss in ledger.misses if miss.node not in rewriter.absorbed]


class _Rewriter:
    def __init__(self, model: ir.Model, ledger: Ledger, misses: _Misses) -> None:
        self.model, self.ledger, self.misses = model, ledger, misses
        self.inference = Inference(model)
        self.last = ""
        self.absorbed: set[str] = set()
        self.taken = {value.name for graph in graphs(model.graph) for value in _values(graph)}
        self.node_names = {node.name for graph in graphs(model.graph) for node in graph}

    def sweep(self, by_op: dict[str, list[Pattern]]) -> bool:
        changed = False
        for graph in graphs(self.model.graph):
            for node in list(graph):
                for pattern in by_op.get(node.op_type, ()) if node.domain == "" else ():
                    if node.graph is graph and self._try(pattern, graph, node):
                        changed = True
                        break
        return changed

    def _try(self, pattern: Pattern, graph: ir.Graph, node: ir.Node) -> bool:
        try:
            delta = pattern.rewriter.try_rewrite(self.model, graph, node, tracer=self.misses)
        except Exception as error:
            raise InternalError(f"the rule {pattern.name} failed", where=label(node), why=repr(error)) from error
        if delta is None:
            return False
        self.last = f"{pattern.name} at {label(node)}"
        matched = sorted(delta.match.nodes, key=list(graph).index) if len(delta.match.nodes) > 1 else [node]
        kept = self._kept(pattern.rule, delta.match.bindings)
        for value in delta.new_initializers:
            value.name = self._fresh(self.taken, value.name or "constant")
            self.model.graph.register_initializer(value)
        carriers = self._replace(graph, node, delta.match.outputs, delta.new_outputs, delta.new_nodes)
        gone = _remove_dead(graph, matched, pattern.rule.absorbs)
        new_nodes = [*delta.new_nodes, *(node for node in carriers if node not in delta.new_nodes)]
        self._account(pattern, gone, kept, carriers, new_nodes)
        self._name(new_nodes, matched)
        return True

    @staticmethod
    def _kept(rule: Rule, bindings: dict[str, Any]) -> ir.Node | None:
        """The node whose origins the replacement carries on, when the rule names one."""
        return None if rule.keeps in (ALL, "") else bindings[rule.keeps].producer()

    def _replace(
        self,
        graph: ir.Graph,
        root: ir.Node,
        old_values: Sequence[ir.Value],
        new_values: Sequence[ir.Value],
        new_nodes: Sequence[ir.Node],
    ) -> list[ir.Node]:
        """Put the new values in place of the old; the nodes that make them, which carry on the origins, if any."""
        nodes, carriers = list(new_nodes), []
        pairs: list[tuple[ir.Value, ir.Value]] = []
        for old, new in zip(old_values, new_values, strict=True):
            if new.producer() not in nodes and old.is_graph_output() and _is_border(new, graph):
                # An output of the model must be a value of its own.
                copy = ir.node("Identity", [new])
                nodes.append(copy)
                new = copy.outputs[0]
            pairs.append((old, new))
        for old, new in pairs:
            producer = new.producer()
            made_here = producer is not None and producer in nodes
            if made_here:
                carriers.append(producer)
                new.type, new.shape = old.type, old.shape
                new.metadata_props.update(old.metadata_props)
            name, old_is_output = old.name, old.is_graph_output()
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            if made_here or old_is_output:
                old.name = None
                new.name = name
        graph.insert_after(root, nodes)
        for node in nodes:
            for k, value in enumerate(node.outputs):
                if not value.name or value.name.startswith("val_"):
                    value.name = self._fresh(self.taken, f"{label(root)}.{node.op_type}.{k}")
            if all(value.shape is None for value in node.outputs):
                self.inference.node(node)
        return [node for node in dict.fromkeys(carriers) if node is not None]

    def _account(
        self, pattern: Pattern, gone: list[ir.Node], kept: ir.Node | None, carriers: list[ir.Node], new: list[ir.Node]
    ) -> None:
        rule = pattern.rule
        settled: list[str] = []
        into = next(iter(origins(kept)), "") if kept is not None else ""
        for node in gone:
            stays = node is kept or rule.keeps == ALL
            same = next((n for n in new if n.op_type == node.op_type), None)
            carrier = same or (carriers[-1] if carriers else None)
            if stays and carrier is not None:
                set_origins(carrier, (*origins(carrier), *origins(node)))
                if rule.absorbs:
                    self.absorbed.update(origins(node))
            elif carriers and not rule.keeps:
                # A copy had to stay for the sake of an output's name; it stands for what it replaces.
                set_origins(carriers[-1], (*origins(carriers[-1]), *origins(node)))
            else:
                settled += origins(node)
        self.ledger.settle(settled, rule.fate, into=into, by=pattern.name, reason=rule.reason)

    def _name(self, new_nodes: Iterable[ir.Node], matched: list[ir.Node]) -> None:
        base = next((n.name for n in reversed(matched) if n.name), "node")
        for node in new_nodes:
            named = origins(node)[0] if origins(node) else f"{base}.{node.op_type}"
            self.node_names -= {n.name for n in matched if n.graph is None}
            node.name = self._fresh(self.node_names, named)

    @staticmethod
    def _fresh(taken: set[str | None], wanted: str) -> str:
        names = itertools.chain([wanted], (f"{wanted}_{k}" for k in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        return name


def _is_border(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether a value cannot take the place of an output of this graph: it has a place, or is made outside."""
    maker = value.producer()
    return value.is_graph_output() or maker is None or maker.graph is not graph


def _remove_dead(graph: ir.Graph, nodes: list[ir.Node], upstream: bool) -> list[ir.Node]:
    """Remove those of the nodes that nothing uses any more, and with `upstream` what only they used.

    Returns the removed nodes in graph order.
    """
    position = {node: k for k, node in enumerate(graph)} if upstream or len(nodes) > 1 else {}
    gone, waiting = [], nodes[::-1]
    while waiting:
        node = waiting.pop(0)
        if node.graph is not graph or not _is_dead(node):
            continue
        before = [value.producer() for value in node.inputs if value is not None] if upstream else []
        graph.remove(node, safe=True)
        gone.append(node)
        waiting += [producer for producer in dict.fromkeys(before) if producer is not None]
    return sorted(gone, key=lambda node: position.get(node, 0))


def _is_dead(node: ir.Node) -> bool:
    return all(not value.uses() and not value.is_graph_output() for value in node.outputs)


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def account_for(
    model: ir.Model, ledger: Ledger, change: Callable[[], object], by: str, why: Callable[[ir.Node], str]
) -> bool:
    """Run a pass that only removes nodes and settle the origins of those that are gone as removed; whether any are.

    why: the reason for each node, asked before the pass runs.
    """
    before = [(node, why(node)) for graph in graphs(model.graph) for node in graph]
    change()
    for node, _ in before:
        if node.graph is None:
            for body in bodies(node):
                empty(body)
    gone = [(node, reason) for node, reason in before if node.graph is None]
    for node, reason in gone:
        ledger.settle(origins(node), "removed", by=by, reason=reason)
    return bool(gone)


def infer_again(model: ir.Model) -> None:
    """Infer all shapes anew, now that a body has become part of the graph around it.

    Raises ModelFileError for a node that cannot take the shapes it is given.
    """
    try:
        infer_shapes(model)
    except ShapeError as error:
        why = one_line(f"{error} {error.__cause__ or ''}")
        what, remedy = "the shapes in the model do not fit together", "mend that node where the model is made"
        raise ModelFileError(what, why=why, remedy=remedy) from error
