"""Einstein summation: diagonals, sums, and products of two operands at a time, as matrix products where they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.ops.expr import Expr
from graphfuse.ops.matmul import matrix_product
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample, scalar
from graphfuse.ops.tensor import Tensor, broadcast, expand, index_map, map_, reduce, reshape, transpose

_ELLIPSIS = "..."
_TOKEN = re.compile(r"[A-Za-z]|\.\.\.")


def _samples() -> list[Sample]:
    a, b, c = floats(3, 4), floats(4, 5, seed=1), floats(5, 2, seed=2)
    x, y = floats(2, 3, 4), floats(2, 4, 5, seed=1)
    equations: list[tuple[str, tuple[np.ndarray, ...]]] = [
        ("ij->ji", (a,)),
        ("ij", (a,)),
        ("ba", (a,)),
        ("ij->i", (a,)),
        ("ij->", (a,)),
        ("ii->i", (floats(4, 4),)),
        ("iij->ji", (floats(3, 3, 5),)),
        ("...ii->...i", (floats(3, 5, 5),)),
        ("ij,jk->ik", (a, b)),
        ("ij , jk", (a, b)),
        ("bij,bjk->bik", (x, y)),
        ("bij,bjk->kbi", (x, y)),
        ("...ij,...jk->...ik", (x, floats(1, 4, 5, seed=1))),
        ("...ij,jk->...ik", (x, b)),
        ("bij,j->b...i", (x, floats(4, seed=1))),
        ("i,i", (floats(5), floats(5, seed=1))),
        ("i,j->ij", (floats(5), floats(3, seed=1))),
        ("bi,bi->b", (a, floats(3, 4, seed=1))),
        ("ij,ij->ij", (a, floats(3, 4, seed=1))),
        ("ij,j->ij", (a, floats(4, seed=1))),
        ("bhqd,bkhd->bhqk", (floats(2, 3, 4, 5), floats(2, 6, 3, 5, seed=1))),
        ("abcd,cdef->abef", (floats(2, 3, 4, 5), floats(4, 5, 2, 3, seed=1))),
        ("ij,jk,kl->il", (a, b, c)),
        ("ij,kl->il", (a, c)),
        ("ij,jk->ik", (floats(3, 1), b)),
        (",ij->ij", (scalar(2.0), a)),
        ("Ij,jK->IK", (a.astype(np.float64), b.astype(np.float64))),
        ("ij,jk->ik", (ints(3, 4), ints(4, 5, seed=1))),
    ]
    return [
        *(sample(*xs, equation=equation) for equation, xs in equations),
        sample(a, equation="ij,jk->ik", rejected="1 operand", reference="onnx"),
        sample(a, equation="ijk->i", rejected="rank 2", reference="onnx"),
        sample(a, equation="ij->k", rejected="'k'", reference="onnx"),
        sample(a, equation="ij->ii", rejected="twice", reference="onnx"),
    ]


@dataclass(frozen=True)
class _Term:
    """A tensor whose axes have labels, each once."""

    tensor: Tensor
    labels: tuple[str, ...]

    def extent(self, label: str) -> Dim:
        return self.tensor.shape[self.labels.index(label)]


@op("Einsum", samples=_samples)
def einsum(node: OpNode) -> Tensor:
    operands = [node.input(k) for k in range(len(node.inputs))]
    inputs, output = _parse(node.attr("equation"), operands)
    terms = [_diagonal(x, labels) for x, labels in zip(operands, inputs, strict=True)]
    known = {label for term in terms for label in term.labels}
    for label in output:
        if label not in known:
            raise NotSupported(f"the result's axis {label!r} is in no operand")
    if len(set(output)) < len(output):
        raise NotSupported(f"an axis appears twice in the result {''.join(output)!r}")
    result = _summed(terms[0], _wanted(terms[1:], output))
    for k in range(1, len(terms)):
        wanted = _wanted(terms[k + 1 :], output)
        right = _summed(terms[k], {*wanted, *result.labels})
        result = _product(_summed(result, {*wanted, *right.labels}), right, wanted)
    return transpose(result.tensor, [result.labels.index(label) for label in output])


def _parse(equation: str, operands: Sequence[Tensor]) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand's axes and of the result's; what an ellipsis covers is labelled from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    tokens = [_TOKEN.findall(part) for part in (*parts, right)]
    if "".join(map("".join, tokens)) != "".join(parts) + right or any(t.count(_ELLIPSIS) > 1 for t in tokens):
        raise NotSupported(f"the equation {equation!r} cannot be read")
    if len(parts) != len(operands):
        raise NotSupported(f"the equation {equation!r} for {len(operands)} operand{'s' * (len(operands) > 1)}")
    covered = [x.rank - sum(t != _ELLIPSIS for t in labels) for x, labels in zip(operands, tokens, strict=False)]
    for x, labels, n in zip(operands, tokens, covered, strict=False):
        if n < 0 or (n > 0 and _ELLIPSIS not in labels):
            raise NotSupported(f"an operand of rank {x.rank} for {''.join(labels)!r}")
    hidden = max((n for n, labels in zip(covered, tokens, strict=False) if _ELLIPSIS in labels), default=0)
    inputs = [_spread(labels, n) for labels, n in zip(tokens, covered, strict=False)]
    if not arrow:
        letters = [label for labels in tokens[:-1] for label in labels if label != _ELLIPSIS]
        return inputs, [*_hidden(hidden), *sorted(label for label in set(letters) if letters.count(label) == 1)]
    if hidden and _ELLIPSIS not in tokens[-1]:
        raise NotSupported(f"the result of {equation!r} lacks the ellipsis of the operands")
    return inputs, _spread(tokens[-1], hidden)


def _hidden(count: int) -> list[str]:
    return [f"...{k}" for k in range(count - 1, -1, -1)]


def _spread(labels: Sequence[str], count: int) -> list[str]:
    return [name for label in labels for name in (_hidden(count) if label == _ELLIPSIS else [label])]


def _wanted(terms: Sequence[_Term], output: Sequence[str]) -> set[str]:
    return {*output, *(label for term in terms for label in term.labels)}


def _diagonal(x: Tensor, labels: Sequence[str]) -> _Term:
    once = tuple(dict.fromkeys(labels))
    if len(once) == len(labels):
        return _Term(x, once)
    shape = [x.shape[list(labels).index(label)] for label in once]

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(i[once.index(label)] for label in labels)

    return _Term(index_map(x, shape, index), once)


def _summed(term: _Term, wanted: set[str]) -> _Term:
    """The sum over the axes that nobody asks for any more."""
    axes = [k for k, label in enumerate(term.labels) if label not in wanted]
    kept = [k for k in range(len(term.labels)) if k not in axes]
    total = reduce("sum", term.tensor, axes)
    return _Term(reshape(total, [total.shape[k] for k in kept]), tuple(term.labels[k] for k in kept))


def _product(a: _Term, b: _Term, wanted: set[str]) -> _Term:
    """The product of two terms, summed over what both have and nobody asks for."""
    both = [label for label in a.labels if label in b.labels]
    inner = [label for label in both if label not in wanted]
    batch = [label for label in both if label in wanted]
    rows = [label for label in a.labels if label not in both]
    columns = [label for label in b.labels if label not in both]
    if not inner or not (rows or columns):
        labels = (*batch, *rows, *columns, *inner)
        spread = map_(lambda x, y: x * y, _arranged(a, labels), _arranged(b, labels))
        return _summed(_Term(spread, labels), wanted)
    a, b = _widened(a, b, inner), _widened(b, a, inner)
    left = _merged(a, batch, rows, inner)
    right = _merged(b, batch, inner, columns)
    y = matrix_product(left, right)
    shape = [*y.shape[: len(batch)], *map(a.extent, rows), *map(b.extent, columns)]
    return _Term(reshape(y, shape), (*batch, *rows, *columns))


def _arranged(term: _Term, labels: Sequence[str]) -> Tensor:
    """The term's axes in another order, an axis of size 1 for each label that it lacks."""
    own = [label for label in labels if label in term.labels]
    ordered = transpose(term.tensor, [term.labels.index(label) for label in own])
    return reshape(ordered, [term.extent(label) if label in own else 1 for label in labels])


def _widened(term: _Term, other: _Term, labels: Sequence[str]) -> _Term:
    """The term with axes of size 1 repeated as often as the other's are long."""
    shape = list(term.tensor.shape)
    for label in labels:
        (shape[term.labels.index(label)],) = broadcast((term.extent(label),), (other.extent(label),))
    return _Term(expand(term.tensor, shape), term.labels)


def _merged(term: _Term, batch: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Tensor:
    """The term as matrices: the batch's axes, then one axis for each of the two groups."""
    ordered = transpose(term.tensor, [term.labels.index(label) for label in (*batch, *first, *second)])
    groups = [D.product(map(term.extent, group)) for group in (first, second)]
    return reshape(ordered, [*ordered.shape[: len(batch)], *groups])
