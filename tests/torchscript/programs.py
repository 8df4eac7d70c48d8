"""Scripted modules with control flow, lists and attributes that change."""

from __future__ import annotations

import torch
from torch import nn

T = torch.Tensor


class DataIf(nn.Module):
    """A branch that the data chooses, with another inside."""

    def forward(self, x: T) -> T:
        if bool(x.sum() > 0):
            y = x * 2
            if bool(x.max() > 2):
                y = y.neg()
        else:
            y = x - 1
        return y + 1


class EarlyReturn(nn.Module):
    def forward(self, x: T) -> T:
        if bool(x.sum() > 0):
            return x * 2
        return x - 1


class NumbersInBranches(nn.Module):
    """Numbers that the data chooses, used as sizes, factors and conditions."""

    def forward(self, x: T) -> T:
        n, f, deep = 1, 0.5, False
        if int(x.argmax()) % 2 == 0:
            n, f, deep = 2, 1.5, True
        y = x[:n] * f
        if deep:
            y = y + 1
        return y.sum(0) + n


class While(nn.Module):
    """How often it runs depends on the data."""

    def forward(self, x: T) -> T:
        k = 0
        while bool(x.abs().max() > 0.1) and k < 50:
            x = x * 0.5
            k += 1
        return x + k


class ForSize(nn.Module):
    """A loop over a tensor's length, which stays open."""

    def forward(self, x: T) -> T:
        total = torch.zeros_like(x[0])
        for k in range(x.size(0)):
            total = total + x[k] * k
        return total


class Rows(nn.Module):
    """Results of a loop of open length in a list."""

    def forward(self, x: T) -> T:
        rows: list[T] = []
        state = torch.zeros_like(x[0])
        for k in range(x.size(0)):
            state = torch.tanh(x[k] + 0.5 * state)
            rows.append(state)
        return torch.stack(rows)


class Nested(nn.Module):
    """A branch in a loop in a loop."""

    def forward(self, x: T) -> T:
        total = x.new_zeros(())
        for i in range(x.size(0)):
            for j in range(x.size(1)):
                v = x[i, j]
                if bool(v > 0):
                    total = total + v
                else:
                    total = total - 0.5 * v
        return total


class Break(nn.Module):
    """A loop that ends early, with a value carried out."""

    def forward(self, x: T) -> T:
        found = -1
        for k in range(x.size(0)):
            if bool(x[k].sum() > 1):
                found = k
                break
        return torch.tensor(found) + x.size(0)


class Lists(nn.Module):
    """Lists, tuples and dicts that are known, and modules in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.sizes = [1, 2, 3]

    def forward(self, x: T) -> dict[str, T]:
        found: list[T] = []
        for k, layer in enumerate(self.layers):
            x = layer(x).relu()
            if k != 1:
                found.append(x)
        parts = {"sum": x.sum(), "first": found[0]}
        parts["last"] = found[-1] * self.sizes[-1]
        pair = (x, [found[0], x])
        return {"a": parts["sum"] + parts["last"], "b": pair[1][0] + len(found)}


class InPlace(nn.Module):
    """Writes through views, in branches and loops."""

    def forward(self, x: T) -> T:
        y = x.clone()
        y[:, 0] = 7
        for k in range(2):
            y[k, 1:3] += k
        if bool(x.sum() > 0):
            y[-1].mul_(3)
        row = y[0]
        y.add_(1)
        return y + row


class InPlaceLoop(nn.Module):
    """A tensor that a loop of open length writes to."""

    def forward(self, x: T) -> T:
        y = torch.zeros_like(x)
        for k in range(x.size(0)):
            y[k] = x[k].cumsum(0)
            y[k, 0] += 1
        return y


class Guarded(nn.Module):
    """Exceptions that are known not to be raised, and ones that only the data would tell."""

    def forward(self, x: T) -> T:
        if x.dim() != 2:
            raise ValueError("not a matrix")
        if bool(x.abs().max() > 1e6):
            raise ValueError("too large")
        assert x.size(1) == 4
        return x + 1


class Optional(nn.Module):
    """An argument that may be left out, and one with a default."""

    def forward(self, x: T, y: T | None = None, scale: float = 2.0, bias: bool = True) -> T:
        if y is not None:
            x = x + y
        return x * scale + (1 if bias else 0)


class Recurrent(nn.Module):
    """Every recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 3, 2)
        self.rnn = nn.RNN(3, 3, nonlinearity="relu", bias=False)
        self.cell = nn.GRUCell(3, 4)
        self.lstm_cell = nn.LSTMCell(4, 2)

    def forward(self, x: T) -> tuple[T, T]:
        y, (h, c) = self.lstm(x)
        y, _ = self.gru(y)
        y, _ = self.rnn(y)
        h1 = self.cell(y[-1])
        h2, c2 = self.lstm_cell(h1)
        return y, h2 + c2 + h.sum() + c.sum()


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

    def forward(self, x: T) -> T:
        return self.encoder(x)


class Net(nn.Module):
    """A small network of images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3),
            nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(8, 5)

    def forward(self, x: T) -> T:
        return torch.log_softmax(self.head(self.features(x)), 1)


class Counter(nn.Module):
    """A tensor and numbers that survive a call, of the same shape from the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.calls: int = 0

    def forward(self, x: T) -> T:
        self.total += x.sum(0)
        self.calls += 1
        return self.total * self.calls


class Smoother(nn.Module):
    """A state that is empty before the first call, and for which the first call is like any other from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.zeros([0])

    def forward(self, x: T) -> T:
        if not len(self.state):
            self.state = torch.zeros([x.size(0), 3])
        self.state = 0.9 * self.state + 0.1 * x
        return self.state


class FirstIsOther(nn.Module):
    """A state that the first call makes in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.zeros([0])
        self.linear = nn.Linear(3, 3)

    def forward(self, x: T) -> T:
        if not len(self.state):
            self.state = self.linear(x)
        else:
            self.state = self.state * 0.5 + self.linear(x)
        return self.state + 1


class FlatInPlace(nn.Module):
    """In place on what may be a view, whose base is not read again."""

    def forward(self, x: T) -> T:
        return (x * 1).flatten(1).relu_() + 1


class FlatInPlaceRead(nn.Module):
    def forward(self, x: T) -> T:
        y = x * 1
        y.flatten().relu_()
        return y


class ExpandedInPlace(nn.Module):
    def forward(self, x: T) -> T:
        y = x[0] * 1
        y.expand(3, 4).add_(1)
        return y


class ViewBeforeWrite(nn.Module):
    def forward(self, x: T) -> T:
        y = x * 1
        z = y.t().reshape(-1)
        y.add_(1)
        return z


class Grows(nn.Module):
    """A state of another shape after each call."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.zeros([0, 4])

    def forward(self, x: T) -> T:
        self.state = torch.cat([self.state, x])
        return self.state.sum(0)


class NumbersInList(nn.Module):
    """How many numbers a list holds depends on the data."""

    def forward(self, x: T) -> T:
        found: list[int] = []
        for k in range(x.size(0)):
            if bool(x[k].sum() > 0):
                found.append(k)
        return torch.tensor(found)


class Random(nn.Module):
    def forward(self, x: T) -> T:
        return nn.functional.dropout(x, 0.5, True)


class Foreign(nn.Module):
    """Two operators that nothing spells."""

    def forward(self, x: T) -> T:
        return torch.fft.rfft(x).abs() + torch.linalg.inv(x)[:, :1]


class Squeezes(nn.Module):
    def forward(self, x: T) -> T:
        return x.squeeze(0) + 1


class StateInBranch(nn.Module):
    """Attributes that only a branch reads and changes, one of them a bool, and a tensor that it writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.h = torch.zeros(2, 3)
        self.register_buffer("total", torch.zeros(3))
        self.on = False

    def forward(self, x: T) -> T:
        if bool(x.sum() > 0):
            self.h = self.h + x
            self.on = True
        elif self.on:
            self.h = self.h * 0.5
            self.total += self.h.sum(0)
        return self.h * 2 + self.total


class ViewsInBranches(nn.Module):
    """Views made outside of branches and loops that write to them or to their base."""

    def forward(self, x: T) -> T:
        y = x * 1
        v = y[0]
        for k in range(x.size(0)):
            y[k] += 1
            v.mul_(2)
            if bool(v.sum() > 3):
                y[-1] = v
        return y + v
