"""Recurrent layers as PyTorch's modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from graphfuse.export.torch.call import Call, Refused, op

Array = np.ndarray[Any, Any]
# ONNX's gates in PyTorch's order.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_USUAL = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


@op("LSTM", "GRU", "RNN")
def recurrent(c: Call) -> Any:
    kind, direction = c.node.op_type, c.attr("direction")
    sides = 2 if direction == "bidirectional" else 1
    w, r = c.known(1, "its weights"), c.known(2, "its weights")
    bias = c.known(3, "its bias") if c.has(3) else None
    states = [c[k] if c.has(k) else None for k in ((5, 6) if kind == "LSTM" else (5,))]
    layer = _layer(c, w, sides, bias is not None)
    batched = bool(c.attr("layout"))
    x = c[0].transpose(0, 1) if batched else c[0]
    x = torch.flip(x, [0]) if direction == "reverse" else x
    given = [s.transpose(0, 1) if batched and s is not None else s for s in states]
    weights = _weights(kind, w, r, bias, sides)
    args: list[Any] = [x]
    if any(s is not None for s in given):
        zeros = c.call(torch.zeros, [sides, c.size(0, 0 if batched else 1), r.shape[2]], dtype=c.dtype(0))
        full = [zeros if s is None else s for s in given]
        args.append(tuple(full) if kind == "LSTM" else full[0])
    found = c.module(layer, 1, *args, **weights)
    y, last = found[0], found[1]
    y = torch.flip(y, [0]) if direction == "reverse" else y
    ends = (last[0], last[1]) if kind == "LSTM" else (last,)
    y = y.unflatten(-1, (sides, r.shape[2])).permute([1, 0, 2, 3] if batched else [0, 2, 1, 3])
    if batched:
        y, ends = y.permute([0, 1, 2, 3]), tuple(e.transpose(0, 1) for e in ends)
        y = y.permute([0, 1, 2, 3])
    return (y, *ends)


def _layer(c: Call, w: Array, sides: int, biased: bool) -> nn.Module:
    kind = c.node.op_type
    usual = _USUAL[kind] * sides
    functions = [f.lower() for f in c.attr("activations", usual)]
    nonlinear = functions[0]
    if kind == "RNN" and set(functions) == {"relu"}:
        usual = ["relu"] * sides
    if functions != usual:
        raise Refused(f"its activations are {', '.join(functions)}")
    if c.attr("clip") or c.attr("input_forget") or (kind == "LSTM" and c.has(7)):
        raise Refused("it clips its gates, couples them, or has peepholes")
    if kind == "GRU" and not c.attr("linear_before_reset"):
        raise Refused("it resets before the product (linear_before_reset=0)")
    if c.has(4):
        lengths = c.known(4, "the lengths of its sequences")
        if any(length != c.shape(0)[c.attr("layout")] for length in lengths.tolist()):
            raise Refused("its sequences differ in length")
    hidden = w.shape[1] // len(_GATES[kind])
    options: dict[str, Any] = {"bias": biased, "bidirectional": sides == 2, "dtype": c.dtype(0)}
    if kind == "RNN":
        options["nonlinearity"] = nonlinear
    made: nn.Module = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind](w.shape[2], hidden, **options)
    return made


def _weights(kind: str, w: Array, r: Array, bias: Array | None, sides: int) -> dict[str, Array | None]:
    found: dict[str, Array | None] = {}
    for side in range(sides):
        end = "_reverse" if side else ""
        found[f"weight_ih_l0{end}"] = _ordered(kind, w[side])
        found[f"weight_hh_l0{end}"] = _ordered(kind, r[side])
        if bias is not None:
            half = bias.shape[1] // 2
            found[f"bias_ih_l0{end}"] = _ordered(kind, bias[side, :half])
            found[f"bias_hh_l0{end}"] = _ordered(kind, bias[side, half:])
    return found


def _ordered(kind: str, gates: Array) -> Array:
    parts = np.split(gates, len(_GATES[kind]))
    return np.concatenate([parts[k] for k in _GATES[kind]])
