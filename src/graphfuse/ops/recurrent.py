"""Recurrent layers: LSTM, GRU and RNN.

The inputs of all steps meet their weights in one matrix product; what remains is a `Recurrence`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphfuse.graph.dims import Dim, is_static, same
from graphfuse.graph.dtypes import F32, F64, I64
from graphfuse.ops import expr as E
from graphfuse.ops.activation import elu, hard_sigmoid, leaky_relu, relu
from graphfuse.ops.expr import Const, Expr, Load, Result
from graphfuse.ops.matmul import matrix_product
from graphfuse.ops.recurrence import DIRECTION, ITEM, STEP, UNIT, Phase, Recurrence, State, at, product
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, sample
from graphfuse.ops.tensor import Tensor, concat, constant, map_, reshape, slice_, transpose

# ---------------------------------------------------------------- activations


@dataclass(frozen=True)
class Activation:
    """A formula, and the defaults of its parameters alpha and beta; None where there is none."""

    formula: Callable[..., Expr]
    parameters: tuple[float | None, ...] = ()


ACTIVATIONS = {
    "Relu": Activation(relu),
    "Tanh": Activation(E.tanh),
    "Sigmoid": Activation(E.sigmoid),
    "Softplus": Activation(lambda x: E.unary("softplus", x)),
    "Softsign": Activation(lambda x: x / (E.unary("abs", x) + 1)),
    "LeakyRelu": Activation(leaky_relu, (0.01,)),
    "ThresholdedRelu": Activation(lambda x, alpha: E.where(x > alpha, x, 0), (1.0,)),
    "Elu": Activation(elu, (1.0,)),
    "HardSigmoid": Activation(hard_sigmoid, (0.2, 0.5)),
    "Affine": Activation(lambda x, alpha, beta: x * alpha + beta, (None, None)),
    "ScaledTanh": Activation(lambda x, alpha, beta: E.tanh(x * beta) * alpha, (None, None)),
}


@dataclass(frozen=True)
class Function:
    """An activation of a layer with its parameters."""

    name: str
    parameters: tuple[float, ...]

    def __call__(self, x: Expr) -> Expr:
        return ACTIVATIONS[self.name].formula(x, *self.parameters)


def functions_of(node: OpNode, defaults: Sequence[str], directions: int) -> list[tuple[Function, ...]]:
    """The activations of each direction; each takes what it needs from the lists of alphas and betas."""
    names = node.attr("activations") or [*defaults] * directions
    if len(names) != len(defaults) * directions:
        raise NotSupported(f"{len(names)} activations where {len(defaults) * directions} are needed")
    given = [list(node.attr(f"activation_{which}") or ()) for which in ("alpha", "beta")]
    functions = [_function(name, given) for name in names]
    n = len(defaults)
    return [tuple(functions[d * n : (d + 1) * n]) for d in range(directions)]


def _function(name: str, given: Sequence[list[float]]) -> Function:
    if name not in ACTIVATIONS:
        raise NotSupported(f"the activation {name!r} is unknown")
    values: list[float] = []
    for default, queue, which in zip(ACTIVATIONS[name].parameters, given, ("alpha", "beta"), strict=False):
        value = queue.pop(0) if queue else default
        if value is None:
            raise NotSupported(f"the activation {name} has no default: activation_{which} must be given")
        values.append(value)
    return Function(name, tuple(values))


# ---------------------------------------------------------------- what the layers share


@dataclass
class Layer:
    """The operands of a recurrent node. Layout 1 is layout 0 with the axes of inputs and results in another order."""

    node: OpNode
    gates: int
    units: int
    reverse: tuple[bool, ...]
    batch_first: bool
    x: Tensor  # [steps, items, directions * gates * units]: the inputs times their weights
    recurrent: Tensor  # [directions, gates * units, units]
    bias: Tensor | None  # [directions, 2 * gates * units]
    folded: bool  # the bias is in x
    lengths: Tensor | None
    scales: Tensor | None = None  # [directions, gates * units], of recurrent weights that are quantised

    def state(self, k: int) -> Tensor | None:
        """The k-th input, an initial state, as [directions, items, units]."""
        given = self.node.optional(k)
        if given is None:
            return None
        given = transpose(given, (1, 0, 2)) if self.batch_first and given.rank == 3 else given
        return shaped(f"input {k}", given, (len(self.reverse), self.x.shape[1], self.units))


@dataclass
class Cell:
    """The expressions of a nest: of all of a layer's directions, or of one, its number then a constant."""

    layer: Layer
    direction: Expr
    functions: tuple[Function, ...]

    def input(self, gate: int) -> Expr:
        """The inputs' part of what a gate's activation is applied to."""
        layer = self.layer
        row = self.direction * (layer.gates * layer.units) + (UNIT + gate * layer.units)
        part = at(layer.x, STEP, ITEM, row)
        return part if layer.folded or layer.bias is None else part + self.parameter(layer.bias, gate)

    def recurrent(self, gate: int, k: int, apart: bool = False) -> Expr:
        """The last state's part, the k-th product. `apart`: with its bias, which is never in x."""
        layer = self.layer
        part = product(k, layer.x.dtype)
        if layer.bias is None or (layer.folded and not apart):
            return part
        return part + self.parameter(layer.bias, layer.gates + gate)

    def sum(self, gate: int, k: int) -> Expr:
        """What a gate's activation is applied to."""
        return self.input(gate) + self.recurrent(gate, k)

    def parameter(self, tensor: Tensor, block: int) -> Load:
        """The unit's element in a block of a bias or of peephole weights, [directions, blocks * units]."""
        return at(tensor, self.direction, UNIT + block * self.layer.units)

    def apply(self, k: int, x: Expr) -> Expr:
        """The k-th activation of a gate's sum, which `clip` bounds."""
        clip = self.layer.node.attr("clip")
        return self.functions[k](x if not clip else E.maximum(E.minimum(x, clip), -clip))

    def state(self, name: str, initial: Tensor | None) -> State:
        """A state from its initial value, zero where not given."""
        dtype = self.layer.x.dtype
        start = Const(0.0, dtype) if initial is None else at(initial, self.direction, ITEM, UNIT)
        length = self._length()
        # onnxruntime: the last state of an empty sequence is zero
        return State(name, start, None if length is None else E.where(length > 0, Result(name, dtype), 0))

    def within(self, value: Expr, otherwise: Expr | float) -> Expr:
        """The value while the item's sequence lasts."""
        lasts = self._lasts()
        return value if lasts is None else E.where(lasts, value, otherwise)

    def _lasts(self) -> Expr | None:
        length = self._length()
        return None if length is None else length > STEP

    def _length(self) -> Expr | None:
        lengths = self.layer.lengths
        return None if lengths is None else E.cast(at(lengths, ITEM), I64)

    def nest(self, reverse: tuple[bool, ...], states: Sequence[State], phases: Sequence[Phase], y: Expr) -> Recurrence:
        steps, items, _ = self.layer.x.shape
        states, phases, y = tuple(states), tuple(phases), self.within(y, 0)
        layer = self.layer
        return Recurrence(reverse, steps, items, layer.units, layer.x.dtype, states, phases, y, self._lasts())


# A layer's nest for some of its directions, whose weights [directions, gates * units, units] are given.
Builder = Callable[[Cell, Tensor, tuple[bool, ...]], Recurrence]
REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _lower(node: OpNode, gates: int, defaults: Sequence[str], build: Builder, apart: bool = False) -> list[Tensor]:
    """All results of a recurrent node: Y, then the last states. `apart`: the last gate's recurrent bias is not in x."""
    layer = _layer(node, gates, apart)
    functions = functions_of(node, defaults, len(layer.reverse))
    if len(set(functions)) == 1:
        direction = Const(0, I64) if len(layer.reverse) == 1 else DIRECTION
        results = build(Cell(layer, direction, functions[0]), layer.recurrent, layer.reverse).tensors()
    else:
        results = _side_by_side(layer, functions, build)
    if not layer.batch_first:
        return results
    return [transpose(results[0], (2, 0, 1, 3)), *(transpose(last, (1, 0, 2)) for last in results[1:])]


def _side_by_side(layer: Layer, functions: Sequence[tuple[Function, ...]], build: Builder) -> list[Tensor]:
    """Directions of different activations: a nest for each."""
    sides = []
    for d, backward in enumerate(layer.reverse):
        cell = Cell(layer, Const(d, I64), functions[d])
        sides.append(build(cell, _direction(layer, d), (backward,)).tensors())
    return [concat(pair, pair[0].rank - 3) for pair in zip(*sides, strict=True)]


def _direction(layer: Layer, d: int) -> Tensor:
    known, weights = layer.node.constant(2), layer.recurrent
    if known is not None:
        return constant(known[d : d + 1], f"recurrent weights {d}")
    return slice_(weights, (d, 0, 0), (1, *weights.shape[1:]), (1, 1, 1))


def _layer(node: OpNode, gates: int, apart: bool) -> Layer:
    x, w, r = (node.input(k) for k in range(3))
    direction, layout = node.attr("direction", "forward"), node.attr("layout", 0)
    if direction not in REVERSE or layout not in (0, 1):
        raise NotSupported(f"direction = {direction!r} with layout = {layout}")
    if x.dtype not in (F32, F64):
        raise NotSupported(f"recurrent layers of {x.dtype.name.lower()}")
    units = node.attr("hidden_size") or (r.shape[2] if r.rank == 3 else None)
    if not isinstance(units, int) or units < 1 or x.rank != 3:
        raise NotSupported("the number of hidden units must be known at compile time: give hidden_size")
    reverse = REVERSE[direction]
    width = gates * units
    shaped("the weights", w, (len(reverse), width, x.shape[2]))
    shaped("the recurrent weights", r, (len(reverse), width, units))
    total = len(reverse) * width
    sums = matrix_product(x, _input_weights(node, total))
    bias = node.optional(3)
    known = node.constant(3)
    if bias is not None:
        shaped("the bias", bias, (len(reverse), 2 * width))
    if known is not None:
        sums = map_(lambda v, b: v + b, sums, summed_bias(known, gates, apart))
    sums = transpose(sums, (1, 0, 2)) if layout == 1 else sums
    lengths = node.optional(4)
    if lengths is not None:
        shaped("sequence_lens", lengths, (sums.shape[1],))
    return Layer(node, gates, units, reverse, layout == 1, sums, r, bias, known is not None, lengths)


def _input_weights(node: OpNode, total: int) -> Tensor:
    """The weights of all directions and gates as one matrix, [inputs, total]."""
    known, w = node.constant(1), node.input(1)
    if known is not None:
        return constant(known.reshape(total, known.shape[2]).T, "input weights")
    return transpose(reshape(w, (total, w.shape[2])), (1, 0))


def summed_bias(bias: np.ndarray, gates: int, apart: bool) -> Tensor:
    """The biases of inputs and recurrence as one."""
    of_x, of_h = np.moveaxis(bias.astype(np.float64).reshape(len(bias), 2, gates, -1), 1, 0)
    total = of_x + of_h
    if apart:
        total[:, -1] = of_x[:, -1]
    return constant(total.reshape(-1).astype(bias.dtype), "bias")


def shaped(what: str, x: Tensor, shape: Sequence[Dim]) -> Tensor:
    fits = x.rank == len(shape) and all(same(d, s) or not is_static(d, s) for d, s in zip(x.shape, shape, strict=True))
    if not fits:
        raise NotSupported(f"{what}: the shape is {list(x.shape)}, not {list(shape)}")
    return x


# ---------------------------------------------------------------- the layers


def _one_phase(cell: Cell, weights: Tensor, values: Sequence[tuple[str, Expr]]) -> Phase:
    return Phase("h", weights, tuple(range(cell.layer.gates)), tuple(values), cell.layer.scales)


def lstm_cell(cell: Cell, weights: Tensor, reverse: tuple[bool, ...]) -> Recurrence:
    """Gates i, o, f, c; i, f and o look at the cell's state through the peepholes P."""
    layer = cell.layer
    peepholes = layer.node.optional(7)
    if peepholes is not None:
        shaped("the peephole weights", peepholes, (len(layer.reverse), 3 * layer.units))
    dtype = layer.x.dtype
    old = Result("c", dtype)

    def gate(k: int, function: int, seen: Expr) -> Expr:
        total = cell.sum(k, k)
        if peepholes is not None:
            total = total + cell.parameter(peepholes, k) * seen
        return cell.apply(function, total)

    i = gate(0, 0, old)
    forget = gate(2, 0, old) if not layer.node.attr("input_forget", 0) else 1 - i
    new = forget * old + i * cell.apply(1, cell.sum(3, 3))
    h = gate(1, 0, new) * cell.functions[2](new)  # in onnxruntime, clip leaves the state as it is
    states = [cell.state("h", layer.state(5)), cell.state("c", layer.state(6))]
    values = [("h", cell.within(h, Result("h", dtype))), ("c", cell.within(new, old))]
    return cell.nest(reverse, states, [_one_phase(cell, weights, values)], h)


def _gru(cell: Cell, weights: Tensor, reverse: tuple[bool, ...]) -> Recurrence:
    """Gates z, r, h; without linear_before_reset the state is reset before it is multiplied: a second phase."""
    layer = cell.layer
    old = Result("h", layer.x.dtype)
    states = [cell.state("h", layer.state(5))]
    z, r = cell.apply(0, cell.sum(0, 0)), cell.apply(0, cell.sum(1, 1))
    if layer.node.attr("linear_before_reset", 0):
        proposed = cell.apply(1, cell.input(2) + r * cell.recurrent(2, 2, apart=True))
        h = (1 - z) * proposed + z * old
        return cell.nest(reverse, states, [_one_phase(cell, weights, [("h", cell.within(h, old))])], h)
    proposed = cell.apply(1, cell.sum(2, 0))
    kept = Result("z", layer.x.dtype)
    h = (1 - kept) * proposed + kept * old
    gates = Phase("h", weights, (0, 1), (("z", z), ("reset", r * old)))
    update = Phase("reset", weights, (2,), (("h", cell.within(h, old)),))
    return cell.nest(reverse, states, [gates, update], h)


def _rnn(cell: Cell, weights: Tensor, reverse: tuple[bool, ...]) -> Recurrence:
    layer = cell.layer
    h = cell.apply(0, cell.sum(0, 0))
    value = cell.within(h, Result("h", layer.x.dtype))
    return cell.nest(reverse, [cell.state("h", layer.state(5))], [_one_phase(cell, weights, [("h", value)])], h)


def _sample(
    gates: int,
    *shape: int,
    directions: int = 1,
    states: int = 0,
    peepholes: bool = False,
    bias: bool = True,
    lengths: Sequence[int] | None = None,
    known: bool = True,
    dtype: Any = np.float32,
    **attributes: Any,
) -> Sample:
    """A layer on (steps, items, inputs, units); `states` initial ones; weights `known` at compile time."""
    steps, items, inputs, units = shape
    first = attributes.get("layout", 0)
    d, wide = directions, gates * units
    state = (items, d, units) if first else (d, items, units)
    given: list[np.ndarray | None] = [
        floats(*((items, steps) if first else (steps, items)), inputs, dtype=dtype),
        floats(d, wide, inputs, low=-1, high=1, dtype=dtype, seed=1),
        floats(d, wide, units, low=-1, high=1, dtype=dtype, seed=2),
        floats(d, 2 * wide, low=-1, high=1, dtype=dtype, seed=3) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        *(floats(*state, dtype=dtype, seed=4 + k) for k in range(states)),
    ]
    if peepholes:
        given += [None] * (7 - len(given)) + [floats(d, 3 * units, dtype=dtype, seed=6)]
    constants = [k for k in (1, 2, 3, 7) if k < len(given) and given[k] is not None and known]
    outputs = attributes.pop("outputs", 3 if gates == 4 else 2)
    while given[-1] is None:
        given.pop()
    return sample(*given, constants=constants, outputs=outputs, hidden_size=units, **attributes)


def _samples(gates: int, activations: Sequence[str], states: int) -> list[Sample]:
    """What every layer has: directions, states, lengths, sizes of every kind, activations, clip, layout."""
    n = len(activations)
    both: dict[str, Any] = {"directions": 2, "direction": "bidirectional"}
    onnx: dict[str, Any] = {"reference": "onnx"}
    others = ["LeakyRelu", "HardSigmoid", "ScaledTanh"][:n]
    more = ["Softplus", "ThresholdedRelu", "Affine"][:n]
    return [
        _sample(gates, 5, 2, 3, 17),
        _sample(gates, 9, 1, 4, 1, states=states, outputs=1),
        _sample(gates, 2, 5, 3, 100, states=states, bias=False),
        _sample(gates, 3, 1, 4, 130),
        _sample(gates, 4, 3, 2, 40, known=False, states=states),
        _sample(gates, 5, 2, 3, 17, direction="reverse", states=states),
        _sample(gates, 5, 3, 3, 17, **both, states=states, lengths=[5, 0, 3]),
        _sample(gates, 3, 1, 4, 100, **both),
        _sample(gates, 5, 3, 3, 5, direction="reverse", lengths=[1, 5, 2]),
        _sample(gates, 5, 2, 3, 17, clip=0.25),
        _sample(gates, 5, 2, 3, 5, activations=others, activation_alpha=[0.1, 0.3, 0.8], activation_beta=[0.4, 0.9]),
        _sample(gates, 2, 2, 3, 5, **both, activations=[*more, *reversed(activations)], activation_alpha=[0.5, 0.7],
                activation_beta=[0.2]),
        _sample(gates, 4, 2, 3, 5, activations=["Relu", "Softsign", "Elu"][:n]),
        _sample(gates, 5, 2, 3, 17, layout=1, states=states, **onnx),
        _sample(gates, 3, 2, 3, 9, states=states, dtype=np.float64, **onnx),
        _sample(gates, 3, 2, 3, 9, activations=["Sine"] * n, rejected="'Sine' is unknown"),
        _sample(gates, 3, 2, 3, 9, activations=["Affine"] * n, rejected="activation_alpha must be given"),
        _sample(gates, 3, 2, 3, 9, activations=["Tanh"] * (n + 1), rejected="activations where"),
        _sample(gates, 3, 2, 3, 9, direction="reversed", rejected="direction"),
    ]  # fmt: skip


@op(
    "LSTM",
    samples=lambda: [
        *_samples(4, ["Sigmoid", "Tanh", "Tanh"], 2),
        _sample(4, 5, 2, 3, 17, peepholes=True, states=2),
        _sample(4, 5, 3, 3, 5, peepholes=True, lengths=[5, 1, 4], directions=2, direction="bidirectional", clip=0.5),
        _sample(4, 5, 2, 3, 17, peepholes=True, known=False),
        _sample(4, 5, 2, 3, 17, peepholes=True, input_forget=1),
    ],
)
def lstm(node: OpNode) -> list[Tensor]:
    return _lower(node, 4, ("Sigmoid", "Tanh", "Tanh"), lstm_cell)


@op(
    "GRU",
    samples=lambda: [
        *_samples(3, ["Sigmoid", "Tanh"], 1),
        _sample(3, 5, 2, 3, 17, linear_before_reset=1),
        _sample(3, 3, 1, 4, 100, linear_before_reset=1, bias=False),
        _sample(3, 5, 2, 3, 17, linear_before_reset=1, known=False, directions=2, direction="bidirectional"),
        _sample(3, 5, 2, 3, 17, linear_before_reset=1, lengths=[2, 5], clip=0.5, states=1),
    ],
)
def gru(node: OpNode) -> list[Tensor]:
    return _lower(node, 3, ("Sigmoid", "Tanh"), _gru, apart=bool(node.attr("linear_before_reset", 0)))


@op("RNN", samples=lambda: _samples(1, ["Tanh"], 1))
def rnn(node: OpNode) -> list[Tensor]:
    return _lower(node, 1, ("Tanh",), _rnn)
