"""How a program is called: arguments taken apart into tensors, results put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphfuse.errors import InputError
from graphfuse.importers.exported import describe


class Call:
    """How the arguments of a program are taken apart, and its results put together.

    tensors: (place among the leaves of the arguments, name) of those that the compiled model takes.
    """

    def __init__(self, program: Any) -> None:
        signature = program.graph_signature
        specs = [spec for spec in signature.input_specs if spec.kind.name == "USER_INPUT"]
        wanted = [spec for spec in signature.output_specs if spec.kind.name == "USER_OUTPUT"]
        self.in_spec, self.out_spec = program.call_spec.in_spec, program.call_spec.out_spec
        self.tensors = [(k, s.arg.name) for k, s in enumerate(specs) if not hasattr(s.arg, "value")]
        self.constants = [(k, s.arg.name, s.arg.value) for k, s in enumerate(specs) if hasattr(s.arg, "value")]
        self.dtypes = {
            node.name: getattr(node.meta.get("val"), "dtype", torch.int64)
            for node in program.graph.nodes
            if node.op == "placeholder"
        }
        # What each result is: a tensor, a size, or a value that is known.
        self.results = [("known", s.arg.value) if hasattr(s.arg, "value") else (_kind(s.arg), None) for s in wanted]
        plain = pytree.tree_structure((tuple(object() for _ in specs), {}))
        self.flat = len(specs) if self.in_spec == plain else -1
        self.plain = not self.constants and self.flat >= 0
        self.single = [kind for kind, _ in self.results] == ["tensor"] and self.out_spec.is_leaf()

    def leaves(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """The leaves of the arguments. Raises InputError where they do not fit."""
        leaves: Sequence[Any] = args
        if kwargs or len(args) != self.flat:
            leaves = self._from_tree(args, kwargs)
        for k, name, value in self.constants:
            if type(leaves[k]) is not type(value) or leaves[k] != value:
                what = f"it is {leaves[k]!r}, and was fixed at {value!r} when the module was fused"
                raise InputError(what, where=f"input {name!r}", remedy="fuse the module for this value as well")
        return leaves

    def _from_tree(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        from torch.export._tree_utils import reorder_kwargs

        try:
            ordered = reorder_kwargs(dict(kwargs), self.in_spec) if kwargs else {}
        except ValueError as error:
            what, remedy = "the arguments are not those of the example", "call it as in fuse()"
            raise InputError(what, why=describe(error), remedy=remedy) from error
        leaves, spec = pytree.tree_flatten((args, ordered))
        if spec != self.in_spec:
            what = f"{len(args)} arguments and {len(kwargs)} by keyword are not built as the example was"
            remedy = "call it as in fuse(), or fuse the module for these arguments as well"
            raise InputError(what, remedy=remedy)
        return leaves


def _kind(arg: Any) -> str:
    return "tensor" if type(arg).__name__ == "TensorArgument" else "size"
