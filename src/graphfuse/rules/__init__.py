"""Rewrite rules, one file each; the folder listing is the registry.

`simplify` and `recognize` are the two stages; each rule can be switched off by its file's name.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import onnx_ir as ir

from graphfuse.graph.origins import check_origins
from graphfuse.ledger import Ledger
from graphfuse.rules.engine import Pattern, run_rules
from graphfuse.rules.rule import Rule
from graphfuse.rules.values import drop_exact

Stage = Literal["simplify", "recognize"]
ErrorClass = Literal["exact", "reassociated", "folded"]


@dataclass(frozen=True)
class RuleFile:
    """A rule as its file declares it."""

    name: str
    stages: tuple[Stage, ...]
    error_class: ErrorClass
    order: int
    rules: tuple[type[Rule], ...]
    apply: Callable[[ir.Model, Ledger], bool] | None
    module: ModuleType


@functools.cache
def rule_files() -> tuple[RuleFile, ...]:
    """All rules, in the order in which they are tried."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if not hasattr(module, "STAGE"):
            continue
        stages: Any = (module.STAGE,) if isinstance(module.STAGE, str) else module.STAGE
        found.append(
            RuleFile(
                name=info.name,
                stages=stages,
                error_class=module.ERROR_CLASS,
                order=getattr(module, "ORDER", 50),
                rules=tuple(getattr(module, "RULES", ())),
                apply=getattr(module, "apply", None),
                module=module,
            )
        )
    return tuple(sorted(found, key=lambda file: (file.order, file.name)))


@functools.cache
def _patterns(file: RuleFile) -> tuple[Pattern, ...]:
    instances = [rule() for rule in file.rules]
    return tuple(Pattern(rule, compiled, file.name) for rule in instances for compiled in rule.compile(file.name))


def run_stage(stage: Stage, model: ir.Model, ledger: Ledger, disabled: frozenset[str] = frozenset()) -> None:
    """Run the rules of one stage on the model, in place, all but the disabled ones."""
    files = [file for file in rule_files() if stage in file.stages and file.name not in disabled]
    patterns = [pattern for file in files for pattern in _patterns(file)]
    passes = [functools.partial(file.apply, model, ledger) for file in files if file.apply is not None]
    run_rules(model, ledger, patterns, passes)
    check_origins(model, ledger, stage)


def simplify(model: ir.Model, ledger: Ledger, disabled: frozenset[str] = frozenset()) -> ir.Model:
    """Fold what is constant and drop what has no effect; the model is changed in place and returned.

    The ledger learns the fate of every node that is gone, and every near miss. disabled: names of rules to leave out.
    """
    run_stage("simplify", model, ledger, disabled)
    return model


def recognize(model: ir.Model, ledger: Ledger, disabled: frozenset[str] = frozenset()) -> ir.Model:
    """Replace spelled-out gelu, layer norm, softmax and the like by the one op they are; as `simplify` otherwise."""
    run_stage("recognize", model, ledger, disabled)
    drop_exact(model)
    return model
