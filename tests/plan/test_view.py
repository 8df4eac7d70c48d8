"""Views are NumPy's strides: every step gives the same elements, or says that strides can't."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphfuse.graph.dims import dim, evaluate
from graphfuse.graph.dtypes import F32
from graphfuse.plan.view import Buffer, View, dense, physical_order

Drawn = tuple[View, np.ndarray]


def start(shape: tuple[int, ...], order: tuple[int, ...]) -> Drawn:
    """A buffer of numbered elements with its axes laid out in any order."""
    count = int(np.prod(shape))
    physical = np.arange(count).reshape([shape[k] for k in order])
    return dense(Buffer("arena", count, F32), shape, order), physical.transpose(np.argsort(order))


def elements(view: View) -> np.ndarray:
    """The number of the element at each index of the view."""
    grid = np.indices([int(d) for d in view.shape])
    return view.offset + sum(grid[k] * s for k, s in enumerate(view.strides)) + np.zeros(grid.shape[1:], np.int64)


@st.composite
def steps(draw: st.DrawFn) -> Drawn:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    view, array = start(shape, tuple(draw(st.permutations(range(len(shape))))))
    for _ in range(draw(st.integers(0, 4))):
        view, array = draw(st.sampled_from([_transposed, _sliced, _expanded, _reshaped]))(draw, view, array)
    return view, array


def _transposed(draw: st.DrawFn, view: View, array: np.ndarray) -> Drawn:
    perm = draw(st.permutations(range(array.ndim)))
    return view.transposed(perm), array.transpose(perm)


def _sliced(draw: st.DrawFn, view: View, array: np.ndarray) -> Drawn:
    starts, strides, shape, index = [], [], [], []
    for n in array.shape:
        first, step = draw(st.integers(0, n - 1)), draw(st.sampled_from([1, 1, 2, -1]))
        size = draw(st.integers(1, -(-(n - first) // step) if step > 0 else first + 1))
        starts.append(first)
        strides.append(step)
        shape.append(size)
        index.append(first + step * np.arange(size))
    return view.sliced(starts, strides, shape), array[np.ix_(*index)]


def _expanded(draw: st.DrawFn, view: View, array: np.ndarray) -> Drawn:
    lead = draw(st.lists(st.integers(1, 3), max_size=1))
    shape = (*lead, *(draw(st.integers(1, 3)) if n == 1 else n for n in array.shape))
    return view.expanded(shape), np.broadcast_to(array, shape)


def _reshaped(draw: st.DrawFn, view: View, array: np.ndarray) -> Drawn:
    factors = [f for n in array.shape for f in _factors(n)]
    cuts = sorted(draw(st.sets(st.integers(0, len(factors)), max_size=3)))
    shape = [int(np.prod(part)) for part in np.split(np.array(factors, int), cuts)]
    result = view.reshaped(shape)
    return (view, array) if result is None else (result, array.reshape(shape))


def _factors(n: int) -> list[int]:
    for f in (2, 3, 5):
        if n % f == 0:
            return [f, *_factors(n // f)]
    return []


@given(steps())
@settings(max_examples=300)
def test_a_view_reads_what_numpy_reads(drawn: Drawn) -> None:
    view, array = drawn
    assert tuple(view.shape) == array.shape
    np.testing.assert_array_equal(elements(view), array)


@given(steps())
def test_contiguous_means_one_after_another(drawn: Drawn) -> None:
    view, array = drawn
    in_order = array.reshape(-1) - array.reshape(-1)[0]
    assert view.is_contiguous() == bool((in_order == np.arange(array.size)).all())


@given(steps(), st.data())
def test_a_reshape_is_refused_only_where_strides_fail(drawn: Drawn, data: st.DataObject) -> None:
    view, array = drawn
    flat = view.reshaped([array.size])
    gaps = set(np.diff(array.reshape(-1)).tolist())
    assert (flat is not None) == (len(gaps) <= 1)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_unknown_sizes(n: int) -> None:
    """The same algebra over a symbol, its value filled in afterwards."""
    size = dim("N")
    view = dense(Buffer("arena", 12 * size, F32), (size, 3, 4), (1, 0, 2))  # type: ignore[arg-type]
    found = view.transposed((2, 0, 1)).sliced((1, 0, 0), (2, 1, 1), (2, size, 3))
    array = np.arange(12 * n).reshape(3, n, 4).transpose(2, 1, 0)[1::2]
    filled = View(
        found.buffer,
        tuple(evaluate(d, {"N": n}) for d in found.shape),
        tuple(evaluate(s, {"N": n}) for s in found.strides),
        evaluate(found.offset, {"N": n}),
    )
    np.testing.assert_array_equal(elements(filled), array)
    assert dense(view.buffer, (size, 3, 4)).reshaped((size, 12)) is not None
    assert dense(view.buffer, (size, 3, 4), (1, 0, 2)).reshaped((size, 12)) is None
    assert view.reshaped((size, 12)) is None


def test_the_physical_order_is_found_again() -> None:
    size = dim("N")
    for order in [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)]:
        view = dense(Buffer("arena", 12 * size, F32), (size, 3, 4), order)  # type: ignore[arg-type]
        assert physical_order(view) == order
