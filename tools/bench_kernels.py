"""Times kernels on the layers of resnet18, resnet50 and mobilenet_v2, one thread: GFLOP/s, share of the core's peak.

    python tools/bench_kernels.py [--model NAME] [--layer TEXT] [--kernel NAME] [--cpu NAME] [--cold] [--ort]

Each layer has the epilogue it has in the network after folding: bias and activation, a residual where there is one.
Time is the wall clock's, the best of many calls: on a virtual machine the processor time of a thread can come out
shorter than it was, and the best of many finds just those. Without `--kernel` the cheapest by prediction runs, as in a
compilation. `--cold`: every call finds its weights in memory and not in a cache, as in a
network with more weights than cache. `--ort`: onnxruntime on the same layer, one thread; it lays out its input and
output anew at the edges of a model, here of every layer, and pays for a call from Python, so alone it looks slower
than within a network. Operations are counted with the padding: a kernel that skips it can pass 100 %.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from graphfuse.graph.dims import evaluate
from graphfuse.kernels import CONTRACTION_KERNELS
from graphfuse.plan.site import Kernel, Packed
from kernels import cases, harness  # type: ignore[import-not-found]

PEAK = """
void call(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch);
void call(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch) {
  (void)p, (void)d, (void)r0, (void)c0, (void)c1;
  gf_f32 x = gf_load_f32((const float *)scratch), y = x, a[12];
  for (int i = 0; i < 12; i++) a[i] = x * gf_splat_f32((float)i);
  for (int64_t k = 0; k < r1; k++) {
    _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) a[i] = a[i] * x + y;
  }
  for (int i = 1; i < 12; i++) a[0] += a[i];
  gf_store_f32((float *)scratch, a[0]);
}
"""


@dataclass
class Layer:
    """One layer of a network and how often it occurs there."""

    name: str
    count: int
    make: Callable[[], harness.Case]


def conv_layer(
    count: int,
    channels: int,
    size: int,
    out: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    residual: bool = False,
) -> Layer:
    around = ((kernel // 2,) * 2, (kernel // 2,) * 2)
    window = cases.window((kernel, kernel), strides=(stride, stride), pads=around, groups=groups)
    epilogue = RESIDUAL_RELU if residual else harness.BIAS_RELU
    kind = "dw" if groups > 1 else "conv"
    name = f"{kind} {kernel}x{kernel}{f' s{stride}' if stride > 1 else ''} {channels}->{out} @{size}"
    order = (0, 1, 2, 3) if channels == 3 else None
    shape = (1, channels, size, size)
    return Layer(name, count, lambda: cases.conv(shape, out, window, epilogue=epilogue, x_order=order))


RESIDUAL_RELU = harness.Epilogue(
    lambda acc, load, lib: lib.maximum(acc + load("channel") + load("full"), 0), ("channel", "full")
)


def pool_layer(channels: int, size: int) -> Layer:
    window = cases.window((3, 3), strides=(2, 2), pads=((1, 1), (1, 1)))
    return Layer(
        f"max_pool 3x3 s2 {channels} @{size}", 1, lambda: cases.pool("max_pool", (1, channels, size, size), window)
    )


def dense_layer(k: int, n: int) -> Layer:
    return Layer(f"gemm 1x{k}x{n}", 1, lambda: cases.matmul((1, k), (k, n), epilogue=harness.BIAS_RELU))


def resnet50() -> list[Layer]:
    layers = [conv_layer(1, 3, 224, 64, 7, 2), pool_layer(64, 112)]
    before = 64
    for width, size, blocks in ((64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3)):
        wide = 4 * width
        first = size if width == 64 else 2 * size
        stride = first // size
        layers += [
            conv_layer(1, before, first, width),
            conv_layer(1, width, first, width, 3, stride),
            conv_layer(blocks, width, size, wide, residual=True),
            conv_layer(1, before, first, wide, 1, stride),
            conv_layer(blocks - 1, wide, size, width),
            conv_layer(blocks - 1, width, size, width, 3),
        ]
        before = wide
    return [*layers, dense_layer(2048, 1000)]


def resnet18() -> list[Layer]:
    layers = [conv_layer(1, 3, 224, 64, 7, 2), pool_layer(64, 112)]
    layers += [conv_layer(2, 64, 56, 64, 3), conv_layer(2, 64, 56, 64, 3, residual=True)]
    for width, size in ((128, 28), (256, 14), (512, 7)):
        layers += [
            conv_layer(1, width // 2, 2 * size, width, 3, 2),
            conv_layer(1, width // 2, 2 * size, width, 1, 2),
            conv_layer(1, width, size, width, 3),
            conv_layer(2, width, size, width, 3, residual=True),
        ]
    return [*layers, dense_layer(512, 1000)]


def mobilenet_v2() -> list[Layer]:
    layers = [conv_layer(1, 3, 224, 32, 3, 2), conv_layer(1, 32, 112, 32, 3, groups=32), conv_layer(1, 32, 112, 16)]
    before, size = 16, 112
    for out, blocks, stride in ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)):
        wide, small = 6 * before, size // stride
        layers += [
            conv_layer(1, before, size, wide),
            conv_layer(1, wide, size, wide, 3, stride, groups=wide),
            conv_layer(1, wide, small, out),
        ]
        if blocks > 1:
            layers += [
                conv_layer(blocks - 1, out, small, 6 * out),
                conv_layer(blocks - 1, 6 * out, small, 6 * out, 3, groups=6 * out),
                conv_layer(blocks - 1, 6 * out, small, out, residual=True),
            ]
        before, size = out, small
    return [*layers, conv_layer(1, 320, 7, 1280), dense_layer(1280, 1000)]


MODELS = {"resnet18": resnet18, "resnet50": resnet50, "mobilenet_v2": mobilenet_v2}


def best_seconds(call: Callable[[], Any], seconds: float = 0.2) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def peak_gflops(configuration: harness.Configuration) -> float:
    library = harness.compiled(PEAK, configuration)
    scratch = np.full(64, 0.5, np.float32)
    rounds, place = 200_000, ctypes.c_void_p(int(scratch.ctypes.data))
    arguments = (None, None, *map(ctypes.c_int64, (0, rounds, 0, 0)), place)
    return 24 * configuration.target.lanes * rounds / best_seconds(lambda: library.call(*arguments)) * 1e-9


def chosen(case: harness.Case, name: str, configuration: harness.Configuration) -> Kernel | None:
    able = [k for k in CONTRACTION_KERNELS if k.accepts(case.site(), configuration.target) is None]
    able = [k for k in able if not name or k.name == name]
    return min(able, key=lambda k: k.cost(case.site(), configuration.target)) if able else None


def kernel_seconds(built: harness.Built, cold: bool) -> float:
    memory = harness.Memory(built.case)
    p, d, keep = built.arguments(memory)
    scratch = harness.aligned(evaluate(built.code.scratch, built.case.env) + 64, np.dtype(np.uint8))
    ranges = map(ctypes.c_int64, (0, built.rows, 0, built.columns))
    arguments = (p, d, *ranges, ctypes.c_void_p(int(scratch.ctypes.data)))
    if not cold or not keep:
        return best_seconds(lambda: built.function(*arguments))
    slot = next(k for k, q in enumerate(built.code.pointers) if isinstance(q, Packed))
    copies = [keep[0].copy() for _ in range(min(400, 1 + (128 << 20) // keep[0].nbytes))]
    times = []
    for copy in copies * 2:
        p[slot] = int(copy.ctypes.data)
        start = time.perf_counter()
        built.function(*arguments)
        times.append(time.perf_counter() - start)
    return float(np.percentile(times, 25))  # the best would be a call that found its weights in a cache after all


def onnxruntime_seconds(case: harness.Case) -> float:
    """The same convolution or product, with bias and relu (without the residual), by onnxruntime on one thread."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    x, out = case.args[0], case.out
    initializers = []
    inputs = ["x"]
    if len(case.args) > 1:
        bias = np.zeros(out.shape[case.lane], np.float32)
        initializers = [numpy_helper.from_array(case.constants[case.args[1]], "w"), numpy_helper.from_array(bias, "b")]
        inputs += ["w", "b"]
    a = case.attrs
    window = {} if a is None else {"kernel_shape": a.kernel, "strides": a.strides, "pads": a.pads_before + a.pads_after}
    if case.kind == "conv":
        window["group"] = a.groups
    op = {"conv": "Conv", "matmul": "Gemm", "max_pool": "MaxPool"}[case.kind]
    nodes = [helper.make_node(op, inputs, ["t"], **window), helper.make_node("Relu", ["t"], ["y"])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, t.shape) for n, t in (("x", x), ("y", out))]
    graph = helper.make_graph(nodes, "layer", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(0).standard_normal(x.shape, np.float32)}
    return best_seconds(lambda: session.run(None, feed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--layer", default="", help="only layers whose name holds this")
    parser.add_argument("--kernel", default="", help="this kernel instead of the cheapest")
    parser.add_argument("--cpu", default=harness.host_target().cpu_name)
    parser.add_argument("--cc", default="zig")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--ort", action="store_true")
    options = parser.parse_args()
    configuration = harness.Configuration(options.cpu, options.cc, quick=False)
    peak = peak_gflops(configuration)
    print(f"{configuration.cpu}, {configuration.cc}: peak {peak:.0f} GFLOP/s a core")
    for model in options.model or MODELS:
        total = total_ort = 0.0
        print(
            f"\n{model}\n{'layer':32}{'times':>6}{'us':>9}{'GFLOP/s':>9}{'% peak':>8}" + f"{'ort us':>9}" * options.ort
        )
        for layer in MODELS[model]():
            case = layer.make()
            kernel = chosen(case, options.kernel, configuration)
            if options.layer not in layer.name or kernel is None:
                continue
            built = harness.build({"": case}, kernel, configuration)[""]
            seconds = kernel_seconds(built, options.cold)
            rate = evaluate(built.code.work, case.env) / seconds * 1e-9
            line = f"{layer.name:32}{layer.count:6}{seconds * 1e6:9.1f}{rate:9.1f}{rate / peak * 100:8.1f}"
            total += layer.count * seconds
            if options.ort:
                ort = onnxruntime_seconds(case)
                total_ort += layer.count * ort
                line += f"{ort * 1e6:9.1f}"
            print(f"{line}  {built.code.describe}", flush=True)
        print(f"{'all layers':38}{total * 1e6:9.1f}" + f"{'':17}{total_ort * 1e6:9.1f}" * options.ort)


if __name__ == "__main__":
    main()
