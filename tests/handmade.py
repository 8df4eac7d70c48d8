"""A small module in hand-written C on the artifact's face: for tests of what comes after the emit stage."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from graphfuse.artifact import Bundle, Manifest, Tensor, read_bundle, stage_bundle
from graphfuse.codegen.module import HEADER, Module, Port, model_call
from graphfuse.options import CompileOptions, default_cache_root
from graphfuse.runtime.preamble import pool_source, preamble
from graphfuse.toolchain import build, find_compiler

WEIGHTS = np.array([1.0, -2.0, 0.5, 4.0], np.float32)

_KERNEL = (
    "GF_KERNEL void {name}(void *const *p, const int64_t *d,"
    " int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch)"
)
_KERNELS = {
    "relu_scale": """{
    const float *w = p[0], *x = p[1];
    float *h = p[2];
    (void)d, (void)c0, (void)c1, (void)scratch;
    for (int64_t i = r0 * 4; i < r1 * 4; i++) h[i] = (x[i] > 0 ? x[i] : 0) * w[i % 4];
}""",
    "add_bias": """{
    const float *h = p[0], *bias = p[1];
    float *y = p[2];
    (void)d, (void)c0, (void)c1, (void)scratch;
    for (int64_t r = r0; r < r1; r++)
        for (int64_t c = 0; c < 4; c++) y[r * 4 + c] = h[r * 4 + c] + bias[r];
}""",
}
_ENTRY = """
GF_API void model_release(void *arena) { (void)arena; }
GF_API int64_t model_arena_bytes(const int64_t *dims, int threads) { return 16 * dims[0] + 64 * threads; }
GF_API void model_output_shapes(const int64_t *dims, int64_t *shapes) {
    shapes[0] = dims[0], shapes[1] = 4, shapes[2] = 2 * dims[0];
}
GF_API int model_run(const void *weights, const void *const *in, void *const *out, const int64_t *dims, void *arena,
                     gf_pool *pool) {
    if (dims[0] > 100000) return 1;
    void *const relu[] = {(void *)weights, (void *)in[0], arena};
    gf_parallel(pool, relu_scale, relu, dims, dims[0], 1, 1, 1, 1 << 20, 0, 0);
    void *const add[] = {arena, (void *)in[1], out[0]};
    gf_parallel(pool, add_bias, add, dims, dims[0], 1, 1, 1, 1 << 20, 0, 0);
    int64_t *index = out[1];
    for (int64_t i = 0; i < 2 * dims[0]; i++) index[i] = i / 2;
    return 0;
}
"""


def rows_module(lanes: int) -> Module:
    """y = relu(x) * WEIGHTS + bias, rows = 0 0 1 1 ... ; x: float32 (N, 4), bias: float32 (N,), rows: int64 (2*N,)."""
    return Module(
        preamble=preamble(lanes, False),
        amalgamated_preamble=preamble(lanes, True),
        kernels={name: _KERNEL.replace("{name}", name) + body for name, body in _KERNELS.items()},
        entry=_ENTRY + model_call(2, 2),
        header=HEADER,
        pool=pool_source(),
        weights=[WEIGHTS],
        dims=["N"],
        inputs=[Port("x", "float32", ["N", 4]), Port("bias", "float32", ["N"])],
        outputs=[Port("y", "float32", ["N", 4]), Port("rows", "int64", ["2*N"])],
        guards=["more than 100000 rows"],
    )


def rows_expected(x: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(x, 0) * WEIGHTS + bias[:, None], np.arange(2 * len(bias)) // 2


def copy_module(lanes: int, dtype: str, bytes_each: int, shape: list[int | str]) -> Module:
    """y = x for any dtype and shape; dims are the symbols of the shape in order."""
    dims = list(dict.fromkeys(name for dim in shape for name in re.findall(r"[A-Za-z_]\w*", str(dim))))
    names = {name: f"dims[{k}]" for k, name in enumerate(dims)}
    sizes = [re.sub(r"[A-Za-z_]\w*", lambda found: names[found[0]], str(dim)) for dim in shape]
    stores = " ".join(f"shapes[{k}] = {size};" for k, size in enumerate(sizes))
    entry = f"""
GF_API void model_release(void *arena) {{ (void)arena; }}
GF_API int64_t model_arena_bytes(const int64_t *dims, int threads) {{ (void)dims, (void)threads; return 0; }}
GF_API void model_output_shapes(const int64_t *dims, int64_t *shapes) {{ (void)dims, (void)shapes; {stores} }}
GF_API int model_run(const void *weights, const void *const *in, void *const *out, const int64_t *dims, void *arena,
                     gf_pool *pool) {{
    (void)weights, (void)dims, (void)arena, (void)pool;
    memcpy(out[0], in[0], (size_t)({" * ".join(("1", *sizes))}) * {bytes_each});
    return 0;
}}
"""
    port = [Port(name, dtype, list(shape)) for name in "xy"]
    texts = preamble(lanes, False), preamble(lanes, True)
    return Module(*texts, {}, entry + model_call(1, 1), HEADER, pool_source(), [], dims, [port[0]], [port[1]])


def warm_options(folder: Path, **chosen: object) -> CompileOptions:
    """Options with an empty object cache in `folder`, but with the zig runtime that earlier runs have built."""
    zig = default_cache_root() / "zig"
    zig.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "zig").exists():
        (folder / "zig").symlink_to(zig)
    return CompileOptions(cache_dir=folder, **chosen)  # type: ignore[arg-type]


def manifest_of(module: Module, options: CompileOptions) -> Manifest:
    """The manifest of a module, without the hashes that sealing adds."""
    target = options.target()
    inputs, outputs = (
        tuple(Tensor(port.name, port.dtype, tuple(port.shape)) for port in ports)
        for ports in (module.inputs, module.outputs)
    )
    compiler = find_compiler(options.cc, target).version
    return Manifest(inputs, outputs, tuple(module.dims), tuple(module.guards), target, "0.0", compiler)


def make_artifact(folder: Path, module: Module, options: CompileOptions | None = None) -> Bundle:
    """Builds `module` and writes its artifact to `folder`."""
    options = options or CompileOptions()
    with stage_bundle(folder) as staging:
        build(module, options.target(), options, staging.folder)
        staging.add("model.c", module.source())
        staging.add("model.h", module.header)
        if module.weights:
            staging.add("weights.bin", module.weight_chunks())
        staging.seal(manifest_of(module, options))
    return read_bundle(folder)
