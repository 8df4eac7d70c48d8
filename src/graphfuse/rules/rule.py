"""What a rule file is made of: `Rule`, a pattern read as its formula, a check that gives reasons, and a rewrite.

A rule file declares STAGE ("simplify", "recognize" or both), ERROR_CLASS ("exact", "reassociated" or "folded"),
optionally ORDER (smaller runs first, 50 when absent), and RULES, the classes, or `apply(model, ledger) -> bool` for
what no pattern can say; HITS and NEAR_MISSES are its tests. The file's name is the rule's name.
"""

from __future__ import annotations

from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase
from onnxscript.rewriter._basics import MatchContext

from graphfuse.graph.origins import label
from graphfuse.ledger import Fate

ALL = "*"


class Rule(RewriteRuleClassBase):
    """One pattern of a rule file.

    keeps: what the replacement stands for: ALL (every matched node), or the name of a bound value, whose producer's
    origins it carries on; the other nodes are settled with `fate` and `reason`, `into` the kept one. exclusive: whether
    the values between matched nodes must have no other users; when False, nodes that are still used stay. absorbs: the
    replacement also stands for the nodes that are unused once the matched ones are gone.
    """

    keeps: ClassVar[str] = ALL
    fate: ClassVar[Fate] = "folded"
    reason: ClassVar[str] = ""
    exclusive: ClassVar[bool] = True
    absorbs: ClassVar[bool] = False
    commute: ClassVar[bool] = True
    op_type: ClassVar[str] = ""

    def compile(self, name: str) -> list[RewriteRule]:
        """The patterns to try, one for each order of commutative operands."""
        rule = RewriteRule(self.pattern, self.rewrite, self._check_all, name=name, remove_nodes=False)
        return list(rule.commute()) if self.commute else [rule]

    def _check_all(self, context: MatchContext, **bindings: Any) -> MatchResult:
        if len({node.graph for node in context.nodes}) > 1:
            return no()  # what stands outside a body runs once, or whichever branch is taken: it stays there
        result = self.check(context, **bindings)
        if not result or not self.exclusive:
            return result
        return self._check_users(context)

    def _check_users(self, context: MatchContext) -> MatchResult:
        matched = list(context.nodes)
        for node in matched:
            for value in node.outputs:
                if value in context.output_values:
                    continue
                if value.is_graph_output():
                    return no(f"{value.name} is also an output of the model", value)
                others = [user for user, _ in value.uses() if user not in matched]
                if others:
                    return no(f"the result of {label(node)} is also used by {label(others[0])}", value)
        return MatchResult()


class Recognition(Rule):
    """A rule that reads the expression around its root: what only served it is absorbed, the rest stays."""

    exclusive = False
    absorbs = True
    commute = False


def for_ops(rule: type[Rule], *op_types: str) -> tuple[type[Rule], ...]:
    """The same rule for several operator types; its pattern reads the type from `self.op_type`."""
    return tuple(type(f"{rule.__name__}{op}", (rule,), {"op_type": op}) for op in op_types)


def no(reason: str = "", culprit: ir.Value | ir.Node | None = None) -> MatchResult:
    """A refusal: with a reason it is a near miss and goes to the ledger, without one it is no match at all."""
    return MatchResult().fail(reason, culprit)


def yes() -> MatchResult:
    """An approval."""
    return MatchResult()
