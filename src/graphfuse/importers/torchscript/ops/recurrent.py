"""Recurrent layers and cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Tensor, Unspellable

# The order of the gates in ONNX, by torch's: input, output, forget, cell; update, reset, new.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def _gates(b: Builder, op_type: str, weight: Tensor) -> Tensor:
    """Weights, or a bias, with the gates in ONNX's order and an axis for the direction in front."""
    order = _GATES[op_type]
    if order != tuple(range(len(order))):
        parts = b("Split", weight, axis=0, num_outputs=len(order), count=len(order))
        weight = b("Concat", *(parts[k] for k in order), axis=0)
    return b("Unsqueeze", weight, [0])


def _joined(b: Builder, parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else b("Concat", *parts, axis=axis)


def _layer_weights(
    b: Builder, op_type: str, weights: Sequence[Tensor], has_biases: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """W, R and B of one layer from those of its directions, one behind the other."""
    each = 4 if has_biases else 2
    if len(weights) % each or not weights:
        raise Unspellable("a recurrent layer with projections is not supported")
    sides = [weights[k : k + each] for k in range(0, len(weights), each)]
    w = _joined(b, [_gates(b, op_type, side[0]) for side in sides])
    r = _joined(b, [_gates(b, op_type, side[1]) for side in sides])
    if not has_biases:
        return w, r, None
    both = [b("Concat", _gates(b, op_type, s[2]), _gates(b, op_type, s[3]), axis=1) for s in sides]
    return w, r, _joined(b, both)


def _layers(
    b: Builder, op_type: str, x: Tensor, states: Sequence[Tensor], params: Sequence[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool, activation: str = "",
) -> tuple[Tensor, ...]:  # fmt: skip
    """(output, last states of all layers). x: steps, batch, features, or with the batch first."""
    if dropout and train and num_layers > 1:
        raise Unspellable("dropout between the layers draws random numbers", "save the model after model.eval()")
    batched = x.rank == 3
    if not batched:
        x, batch_first = b("Unsqueeze", x, [1]), False
        states = [b("Unsqueeze", s, [1]) for s in states]
    x = b("Transpose", x, perm=[1, 0, 2]) if batch_first else x
    sides = 2 if bidirectional else 1
    each = len(params) // num_layers
    lasts: list[list[Tensor]] = [[] for _ in states]
    for layer in range(num_layers):
        w, r, bias = _layer_weights(b, op_type, params[layer * each : (layer + 1) * each], has_biases)
        hidden = r.shape[2]
        starts = [b("Slice", s, [layer * sides], [(layer + 1) * sides], [0]) if num_layers > 1 else s for s in states]
        attributes: dict[str, Any] = {
            "hidden_size": hidden, "direction": "bidirectional" if bidirectional else "forward"
        }  # fmt: skip
        if op_type == "GRU":
            attributes["linear_before_reset"] = 1
        if activation:
            attributes["activations"] = [activation] * sides
        found = b(op_type, x, w, r, bias, None, *starts, count=1 + len(starts), **attributes)
        y, *last = found
        for kept, state in zip(lasts, last, strict=True):
            kept.append(state)
        if bidirectional:
            turned = b("Transpose", y, perm=[0, 2, 1, 3])
            x = b.reshape(turned, [b.size(x, 0), b.size(x, 1), 2 * int(hidden or 0)])
        else:
            x = b("Squeeze", y, [1])
    x = b("Transpose", x, perm=[1, 0, 2]) if batch_first else x
    ends = [_joined(b, kept) for kept in lasts]
    if not batched:
        x, ends = b("Squeeze", x, [1]), [b("Squeeze", s, [1]) for s in ends]
    return x, *ends


def _unpacked(data: Any) -> None:
    if data is not None:
        raise Unspellable("packed sequences are not supported", "give the layer a padded tensor")


@op("lstm")
def lstm(
    b: Builder, input: Tensor, hx: list[Tensor], params: list[Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool = False, data: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    _unpacked(data)
    return _layers(
        b, "LSTM", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )  # fmt: skip


@op("gru")
def gru(
    b: Builder, input: Tensor, hx: Tensor, params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool = False, data: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    _unpacked(data)
    return _layers(
        b, "GRU", input, [hx], params, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )  # fmt: skip


def _rnn(name: str, activation: str) -> None:
    @op(name)
    def spell(
        b: Builder, input: Tensor, hx: Tensor, params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
        train: bool, bidirectional: bool, batch_first: bool = False, data: Any = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        _unpacked(data)
        return _layers(
            b, "RNN", input, [hx], params, has_biases, num_layers, dropout, train, bidirectional, batch_first,
            activation,
        )  # fmt: skip


_rnn("rnn_tanh", "Tanh")
_rnn("rnn_relu", "Relu")


def _cell(
    b: Builder, op_type: str, x: Tensor, states: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
    b_hh: Tensor | None, activation: str = "",
) -> tuple[Tensor, ...]:  # fmt: skip
    """One step: the layer on a sequence of one."""
    params = [w_ih, w_hh] if b_ih is None or b_hh is None else [w_ih, w_hh, b_ih, b_hh]
    starts = [b("Unsqueeze", s, [0]) for s in states]
    steps = b("Unsqueeze", x, [0])
    _, *ends = _layers(b, op_type, steps, starts, params, b_ih is not None, 1, 0.0, False, False, False, activation)
    return tuple(b("Squeeze", end, [0]) for end in ends)


@op("lstm_cell")
def lstm_cell(
    b: Builder, input: Tensor, hx: list[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _cell(b, "LSTM", input, hx, w_ih, w_hh, b_ih, b_hh)


@op("gru_cell")
def gru_cell(
    b: Builder, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return _cell(b, "GRU", input, [hx], w_ih, w_hh, b_ih, b_hh)[0]


def _rnn_cell(name: str, activation: str) -> None:
    @op(name)
    def spell(
        b: Builder, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return _cell(b, "RNN", input, [hx], w_ih, w_hh, b_ih, b_hh, activation)[0]


_rnn_cell("rnn_tanh_cell", "Tanh")
_rnn_cell("rnn_relu_cell", "Relu")
