"""Train the demo model: a small residual network that reads handwritten digits, exported with nothing fused.

Data: scikit-learn's `load_digits` (UCI optical recognition of handwritten digits, 1797 images of 8x8, 17 grey levels),
scaled up to 32x32. Writes digits.onnx and digits_test.npz (the fifth of the images that training never saw) into
src/graphfuse/demo.

    pip install -e '.[train]' && python tools/train_demo_model.py
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.onnx.symbolic_helper import parse_args

DEMO = Path(__file__).resolve().parents[1] / "src" / "graphfuse" / "demo"
SIDE = 32
OPSET = 18


class Residual(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))); the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitNet(nn.Module):
    """image (N, 1, 32, 32) float32 in 0..1 -> scores (N, 10) float32; 156 330 weights, 39 M multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.block1 = Residual(32, 32, 1)
        self.block2 = Residual(32, 64, 2)
        self.block3 = Residual(64, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block3(self.block2(self.block1(self.stem(x))))
        return self.classifier(self.dropout(self.pool(y).flatten(1)))


def split_digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images, test images (N, 1, 32, 32) uint8; train labels, test labels (N,) int64."""
    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32))[:, None] / 16
    large = F.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images = (large * 255).round().to(torch.uint8).numpy()
    labels = digits.target.astype(np.int64)
    return tuple(train_test_split(images, labels, test_size=0.2, random_state=seed, stratify=labels))


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 12 % and shifted by up to 2 pixels."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, scale = uniform(np.deg2rad(12)), 1 + uniform(0.12)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    dx, dy = uniform(4 / SIDE), uniform(4 / SIDE)
    matrix = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> DigitNet:
    """Adam with a one-cycle rate; the same weights every time on one machine."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    batch = 64
    steps = epochs * (len(x) // batch)
    model = DigitNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for step in range(len(x) // batch):
            chosen = order[step * batch : (step + 1) * batch]
            loss = F.cross_entropy(model(moved(x[chosen], generator)), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d}/{epochs}  loss {total / (len(x) // batch):.4f}", flush=True)
    return model.eval()


def dropout_symbolic(g: Any, x: Any, ratio: Any, train: bool) -> Any:
    """aten::dropout -> Dropout with training_mode false, where the exporter would drop the node."""
    off = g.op("Constant", value_t=torch.tensor(False))
    ratio = g.op("Constant", value_t=torch.tensor(ratio, dtype=torch.float32))
    return g.op("Dropout", x, ratio, off)


def export(model: DigitNet, path: Path) -> None:
    """Write the model for any batch size; SystemExit if a batch norm, dropout or residual add did not survive."""
    torch.onnx.register_custom_op_symbolic("aten::dropout", parse_args("v", "f", "b")(dropout_symbolic), OPSET)
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, SIDE, SIDE),),
        buffer,
        dynamo=False,  # the exporter that names nodes by module path: /block1/conv1/Conv
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )
    proto = onnx.load_from_string(buffer.getvalue())
    counts = Counter(node.op_type for node in proto.graph.node)
    print(dict(counts))
    for op, least in {"Conv": 9, "BatchNormalization": 9, "Dropout": 1, "Add": 3, "Relu": 7}.items():
        if counts[op] < least:
            raise SystemExit(f"the exporter left {counts[op]} {op} nodes, expected {least}: has it begun to fuse?")
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, default=DEMO)
    options = parser.parse_args()
    train_images, test_images, train_labels, test_labels = split_digits(options.seed)
    model = train(train_images, train_labels, options.epochs, options.seed)
    with torch.no_grad():
        scores = model(torch.from_numpy(test_images).float() / 255)
    accuracy = float((scores.argmax(1).numpy() == test_labels).mean())
    print(f"accuracy on the {len(test_labels)} held-out images: {accuracy:.2%}")
    export(model, options.out / "digits.onnx")
    np.savez_compressed(options.out / "digits_test.npz", images=test_images, labels=test_labels.astype(np.uint8))
    for name in ("digits.onnx", "digits_test.npz"):
        print(f"{options.out / name}: {(options.out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
