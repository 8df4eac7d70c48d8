"""Well-known architectures in plain torch, small but of their true structure; random weights. Imports torch.

ARCHITECTURES: name -> (module in eval mode, with running statistics that are none's default; an example input).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """Bottlenecks, as in ResNet-50 (He et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Bottleneck(8, 4, 16, 1), Bottleneck(16, 4, 16, 1))
        self.layer2 = nn.Sequential(Bottleneck(16, 8, 32, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Bottleneck(nn.Module):
    def __init__(self, inner: int, width: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if inner != outer or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += identity
        return self.relu(x)


def conv_bn(inner: int, outer: int, kernel: int, stride: int, groups: int, act: nn.Module | None) -> nn.Sequential:
    layers = [nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outer)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeezed: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)
        self.activation, self.scale_activation = act, gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, perhaps squeeze-and-excite, projection (Sandler et al. 2018)."""

    def __init__(
        self, inner: int, outer: int, stride: int, act: Callable[[], nn.Module], se: nn.Module | None, kernel: int = 3
    ) -> None:
        super().__init__()
        hidden = inner * 4
        self.use_res = stride == 1 and inner == outer
        layers = [conv_bn(inner, hidden, 1, 1, 1, act()), conv_bn(hidden, hidden, kernel, stride, hidden, act())]
        self.block = nn.Sequential(*layers, *([se] if se else []), conv_bn(hidden, outer, 1, 1, 1, None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.use_res else self.block(x)


class MobileNet(nn.Module):
    def __init__(self, features: nn.Sequential, width: int, act: nn.Module | None) -> None:
        super().__init__()
        self.features = features
        head = [nn.Linear(width, 24), act] if act is not None else [nn.Dropout(0.2), nn.Linear(width, 24)]
        self.classifier = nn.Sequential(*head, nn.Dropout(0.2), nn.Linear(24, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


def mobilenet_v2() -> nn.Module:
    blocks = [InvertedResidual(8, 8, 1, nn.ReLU6, None), InvertedResidual(8, 12, 2, nn.ReLU6, None)]
    return MobileNet(
        nn.Sequential(conv_bn(3, 8, 3, 2, 1, nn.ReLU6()), *blocks, conv_bn(12, 32, 1, 1, 1, nn.ReLU6())), 32, None
    )


def mobilenet_v3() -> nn.Module:
    se = SqueezeExcite(32, 8, nn.ReLU(), nn.Hardsigmoid())
    blocks = [InvertedResidual(8, 8, 1, nn.ReLU, None), InvertedResidual(8, 12, 2, nn.Hardswish, se, 5)]
    last = conv_bn(12, 32, 1, 1, 1, nn.Hardswish())
    return MobileNet(nn.Sequential(conv_bn(3, 8, 3, 2, 1, nn.Hardswish()), *blocks, last), 32, nn.Hardswish())


def efficientnet() -> nn.Module:
    se = [SqueezeExcite(32, 2, nn.SiLU(), nn.Sigmoid()), SqueezeExcite(32, 2, nn.SiLU(), nn.Sigmoid())]
    blocks = [InvertedResidual(8, 8, 1, nn.SiLU, se[0]), InvertedResidual(8, 12, 2, nn.SiLU, se[1], 5)]
    return MobileNet(
        nn.Sequential(conv_bn(3, 8, 3, 2, 1, nn.SiLU()), *blocks, conv_bn(12, 32, 1, 1, 1, nn.SiLU())), 32, None
    )


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022: depthwise 7x7, then layer norm and a perceptron over the channels, scaled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16, eps=1e-6))
    down = nn.Sequential(LayerNorm2d(16, eps=1e-6), nn.Conv2d(16, 24, 2, 2))
    features = [stem, ConvNeXtBlock(16), ConvNeXtBlock(16), down, ConvNeXtBlock(24)]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 10))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Dosovitskiy et al. 2020."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        self.pos = nn.Parameter(torch.randn(1, 17, 32))
        self.blocks = nn.Sequential(Encoder(32, 4), Encoder(32, 4))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


class DenseLayer(nn.Module):
    def __init__(self, inner: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inner), nn.Conv2d(inner, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    """Huang et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.block = nn.ModuleList([DenseLayer(8, 4), DenseLayer(12, 4), DenseLayer(16, 4)])
        self.transition = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1, bias=False))
        self.pool, self.norm, self.classifier = nn.AvgPool2d(2), nn.BatchNorm2d(10), nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for layer in self.block:
            features.append(layer(features))
        x = self.norm(self.pool(self.transition(torch.cat(features, 1))))
        return self.classifier(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))


class UNet(nn.Module):
    """Ronneberger et al. 2015, with transposed convolutions and interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.double(3, 8), self.double(8, 16)
        self.pool, self.middle = nn.MaxPool2d(2), self.double(16, 16)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.up2, self.up1 = self.double(32, 8), self.double(16, 8)
        self.last = nn.Conv2d(8, 2, 1)

    @staticmethod
    def double(inner: int, outer: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(inner, outer, 3, 1, 1, nn.ReLU()), conv_bn(outer, outer, 3, 1, 1, nn.ReLU()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.up2(torch.cat([self.up(self.middle(self.pool(two))), two], 1))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.last(self.up1(torch.cat([x, one], 1)))


class Bert(nn.Module):
    """Devlin et al. 2018, as Hugging Face spells it: embeddings, encoders with a mask, pooler; a dictionary out."""

    def __init__(self, width: int = 32, heads: int = 4, words: int = 50) -> None:
        super().__init__()
        self.word, self.position, self.kind = (
            nn.Embedding(words, width),
            nn.Embedding(16, width),
            nn.Embedding(2, width),
        )
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(0.1)
        self.layer = nn.ModuleList([BertLayer(width, heads) for _ in range(2)])
        self.pooler = nn.Linear(width, width)
        self.register_buffer("position_ids", torch.arange(16)[None], persistent=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        length = input_ids.shape[1]
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(self.norm.weight.dtype)) * torch.finfo(torch.float32).min
        x = self.word(input_ids) + self.kind(torch.zeros_like(input_ids))
        x = self.dropout(self.norm(x + self.position(self.position_ids[:, :length])))
        for layer in self.layer:
            x = layer(x, mask)
        return {"last_hidden_state": x, "pooler_output": torch.tanh(self.pooler(x[:, 0]))}


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.output, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.intermediate, self.dense = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm2, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(0.1)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(-1, -2) / (q.shape[-1] ** 0.5) + mask
        context = (self.dropout(scores.softmax(-1)) @ v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.dropout(self.output(context)))
        return self.norm2(x + self.dropout(self.dense(F.gelu(self.intermediate(x)))))


def ready(module: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with running statistics as of a trained network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for inner in module.modules():
            if isinstance(inner, nn.BatchNorm2d):
                inner.running_mean.normal_(0, 0.5, generator=generator)
                inner.running_var.uniform_(0.5, 1.5, generator=generator)
                inner.weight.uniform_(0.5, 1.5, generator=generator)
                inner.bias.normal_(0, 0.5, generator=generator)
    return module.eval()


def built(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """One of ARCHITECTURES and its example arguments, the same each time."""
    torch.manual_seed(0)
    module = ready(ARCHITECTURES[name]())
    if name == "bert":
        ids = torch.randint(0, 50, (2, 11))
        return module, (ids, (torch.arange(11) < torch.tensor([[11], [7]])).long())
    return module, (torch.randn(2, 3, 32, 32),)


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "resnet": ResNet,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "efficientnet": efficientnet,
    "convnext": convnext,
    "vit": ViT,
    "densenet": DenseNet,
    "unet": UNet,
    "bert": Bert,
}
