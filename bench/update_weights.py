"""Time `update_weights` of a ResNet-50 whose weights have changed: folded, packed and taken over, nothing compiled.

python bench/update_weights.py --rounds 10
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

import graphfuse as gf


def conv_bn(inner: int, outer: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outer)]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al. 2015)."""

    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        outer = 4 * width
        steps = [*conv_bn(inner, width, 1), nn.ReLU(), *conv_bn(width, width, 3, stride), nn.ReLU()]
        self.steps = nn.Sequential(*steps, *conv_bn(width, outer, 1))
        plain = inner == outer and stride == 1
        self.shortcut: nn.Module = nn.Identity() if plain else nn.Sequential(*conv_bn(inner, outer, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.steps(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [*conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inner = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        for k in range(depth):
            width = 64 << stage
            layers.append(Bottleneck(inner, width, 2 if stage and not k else 1))
            inner = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, 1000)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    module, x = resnet50(), torch.randn(1, 3, 224, 224)
    fused = gf.fuse(module, (x,))
    times = []
    for _ in range(chosen.rounds):
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(1 + 0.01 * torch.randn(()))
        started = time.perf_counter()
        fused.update_weights(module.state_dict())
        times.append(time.perf_counter() - started)
        with torch.no_grad():
            torch.testing.assert_close(fused(x), module(x), rtol=1e-3, atol=1e-3)
    print(f"update_weights of ResNet-50: best {min(times):.3f} s, median {statistics.median(times):.3f} s")


if __name__ == "__main__":
    main()
