"""The interpreter itself: what it refuses, and the corners that no op's samples reach."""

from __future__ import annotations

import numpy as np
import pytest

from graphfuse.graph.dims import dim
from graphfuse.graph.dtypes import F32, I8, I32, I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const
from graphfuse.ops.interpret import evaluate
from graphfuse.ops.scalars import apply
from graphfuse.ops.tensor import (
    Evaluator,
    Nest,
    Tensor,
    concat,
    expand,
    generate,
    index_map,
    load,
    map_,
    opaque,
    pad,
    reduce,
    reshape,
    slice_,
    transpose,
)


def leaf(*shape: int | str, dtype: object = F32) -> Tensor:
    return Tensor(tuple(dim(d) for d in shape), dtype)  # type: ignore[arg-type]


def test_a_value_of_the_wrong_shape_is_refused() -> None:
    x = leaf(2, 3)
    wrong = Tensor((3, 3), F32, map_(E.exp, x).prim)
    with pytest.raises(ValueError, match=r"has the value|broadcast"):
        evaluate([wrong], {x: np.ones((2, 3), np.float32)})


def test_a_value_of_the_wrong_type_is_refused() -> None:
    x = leaf(2)
    wrong = Tensor((2,), I32, map_(E.exp, x).prim)
    with pytest.raises(ValueError, match="has the value float32"):
        evaluate([wrong], {x: np.ones(2, np.float32)})


def test_an_index_out_of_range_is_refused() -> None:
    x = leaf(3)
    beyond = index_map(x, (3,), lambda i: (i[0] + 1,))
    with pytest.raises(ValueError, match="out of range"):
        evaluate([beyond], {x: np.ones(3, np.float32)})


def test_a_guard_keeps_the_index_inside() -> None:
    x = leaf(3)
    shifted = index_map(x, (4,), lambda i: (i[0] - 1,), guard=lambda i: i[0] >= 1, fill=Const(9.0, F32))
    (y,) = evaluate([shifted], {x: np.array([1, 2, 3], np.float32)})
    assert y.tolist() == [9, 1, 2, 3]


def test_a_missing_leaf_is_named() -> None:
    with pytest.raises(ValueError, match="no value is given"):
        evaluate([Tensor((2,), F32, map_(E.exp, reshape(leaf(2, 1), (2,))).prim)], {})


def test_structured_views_equal_numpy() -> None:
    x, data = leaf(4, 6), np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {
        "transpose": (transpose(x, (1, 0)), data.T),
        "reshape": (reshape(x, (2, 2, 3, 2)), data.reshape(2, 2, 3, 2)),
        "reshape across": (reshape(x, (3, 8)), data.reshape(3, 8)),
        "slice": (slice_(x, (1, 5), (3, 3), (1, -2)), data[1:, 5::-2]),
        "expand": (expand(slice_(x, (0, 0), (1, 6), (1, 1)), (5, 6)), np.repeat(data[:1], 5, 0)),
        "concat": (concat([x, x], 1), np.concatenate([data, data], 1)),
        "pad": (pad(x, (1, 0), (0, 2), Const(7.0, F32)), np.pad(data, ((1, 0), (0, 2)), constant_values=7)),
        "reduce": (reduce("max", x, (-1,)), data.max(1, keepdims=True)),
    }
    values = evaluate([t for t, _ in views.values()], {x: data})
    for name, value, (_, wanted) in zip(views, values, views.values(), strict=True):
        np.testing.assert_array_equal(value, wanted, err_msg=name)


def test_symbols_take_their_values_from_the_environment() -> None:
    x = leaf("n", 3)
    rows = generate((dim("n"),), lambda i: i[0] * 2)
    picked = index_map(x, (dim("n"),), lambda i: (i[0], E.floormod(load(rows, i), 3)), rows)
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    (y,) = evaluate([picked], {x: data}, {"n": 4})
    assert y.tolist() == [data[k, 2 * k % 3] for k in range(4)]


class Sorting(Nest):
    """A nest of two results: the values in order, and where each was."""

    name = "sort"

    def __init__(self, x: Tensor) -> None:
        self.args = (x,)
        self.results = ((x.shape, F32), (x.shape, I64))
        self.runs = 0

    def meaning(self, evaluator: Evaluator) -> list[np.ndarray]:
        self.runs += 1
        order = np.argsort(evaluator.value(self.args[0]))
        return [evaluator.value(self.args[0])[order], order]


def test_a_nest_runs_its_own_meaning_once() -> None:
    x = leaf(3)
    nest = Sorting(x)
    values, order = evaluate([opaque(nest, 0), opaque(nest, 1)], {x: np.array([3, 1, 2], np.float32)})
    assert (values.tolist(), order.tolist(), nest.runs) == ([1, 2, 3], [1, 2, 0], 1)


@pytest.mark.parametrize(
    "fn, x, y, wanted",
    [
        ("div", -7, 2, -3),
        ("div", 7, -2, -3),
        ("div", 7, 0, 0),
        ("floordiv", -7, 2, -4),
        ("floormod", -7, 3, 2),
        ("fmod", -7, 3, -1),
        ("shl", 3, 4, 48),
    ],
)
def test_integer_division_and_shifts(fn: str, x: int, y: int, wanted: int) -> None:
    assert apply(fn, [np.array(x), np.array(y)], I64) == wanted


def test_every_scalar_function_has_a_meaning() -> None:
    for fn in E.FUNCTIONS:
        arity = {"select": 3, "saturate": 1, "bitcast": 1, **dict.fromkeys(E.CASTS, 1)}.get(fn)
        integral = fn.startswith(("bit", "sh")) or fn in ("floordiv", "floormod", "mod")
        x = np.array([1, 2]) if integral else np.array([0.25, 0.5])
        for n in [arity] if arity else (1, 2):
            args = [x > 0, x, x] if fn == "select" else [x] * n
            try:
                with np.errstate(invalid="ignore"):
                    value = apply(fn, args, I8 if fn == "saturate" else I64 if integral else F32)
            except TypeError:
                continue  # the other arity
            assert value.shape == x.shape, fn
            break
        else:
            pytest.fail(f"{fn} has no meaning")
