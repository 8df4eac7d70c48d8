"""The last state of a recurrent layer as bytes, and its products with weights of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import U8

from .dot import QUAD, Dot
from .function import affine
from .tile import Tile

if TYPE_CHECKING:
    from .rnn_writer import LayerWriter


@dataclass(frozen=True)
class Quantized:
    """The vectors of all items, quantised together: C names of the bytes, the scale and the zero point."""

    writer: LayerWriter
    bytes: str
    scale: str
    zero: str

    @classmethod
    def write(cls, writer: LayerWriter, w: Writer, source: str, item: Dim) -> Quantized:
        """Quantise the items at `source`, `item` elements apart, to scratch, as DynamicQuantizeLinear says."""
        plan, fn = writer.plan, writer.fn
        units, items, lanes = plan.nest.units, fn.dim(plan.nest.items, "n"), plan.lanes
        whole, rest = units // lanes * lanes, units % lanes
        x, whole_bytes = w.fresh("from"), w.fresh("bytes")
        least, most, scale, zero = w.fresh("least"), w.fresh("most"), w.fresh("scale"), w.fresh("zero")
        w.line(f"uint8_t *const {whole_bytes} = (uint8_t *)scratch;")
        w.line(f"gf_f32 {least} = {{0}}, {most} = {{0}};")

        def each(body: list[str]) -> None:
            with w.loop("b", "0", items):
                w.line(f"const float *const {x} = {source} + {affine([('b', item)], fn.params)};")
                if whole:
                    with w.loop("j", "0", str(whole), str(lanes)):
                        w.line(f"const gf_f32 v = gf_load_f32({x} + j);")
                        for line in body:
                            w.line(line.replace("@", "j"))
                if rest:
                    with w.block():
                        w.line(f"const gf_f32 v = gf_load_part_f32({x} + {whole}, {rest});")
                        for line in body:
                            w.line(line.replace("@", str(whole)))

        # The zeros beyond a part are in the range anyway. NaN is left out.
        each([f"{least} = gf_minb_f32(v, {least}), {most} = gf_maxb_f32(v, {most});"])
        low, high = w.let("float", f"gf_hmin_f32({least})", "low"), w.let("float", f"gf_hmax_f32({most})", "high")
        w.line(f"const float {scale} = {high} == {low} ? 1.0f : ({high} - {low}) / 255.0f;")
        w.line(f"const gf_f32 by = gf_splat_f32({scale});")
        w.line(f"const gf_f32 up = gf_round_f32(gf_splat_f32(-{low}) / by);")
        w.line("const gf_f32 moved = gf_minb_f32(gf_maxb_f32(up, (gf_f32){0}), gf_splat_f32(255.0f));")
        turned = Dot(U8, plan.target).turned
        w.line(f"const int32_t {zero} = (int32_t)moved[0]{' - 128' if turned else ''};")
        byte = "gf_saturate_f32_u8(gf_round_f32(v / by) + moved)"
        byte = f"{byte} ^ gf_splat_u8(128)" if turned else byte
        each([f"gf_store_u8({whole_bytes} + b * {plan.padded} + @, {byte});"])
        return cls(writer, whole_bytes, scale, zero)

    def tile(self, w: Writer, tile: Tile, x: str, base: str, depth: str) -> None:
        """The sums p{m}_{v} of a tile, in float32; `base`: its panel of weights."""
        plan = self.writer.plan
        dot = Dot(U8, plan.target)
        dot.turned = False  # it is done
        columns = tile.vectors * plan.lanes
        y = w.fresh("y")
        w.line(f"const int8_t *{y} = {base} + {2 * columns * QUAD};")
        dot.declare(w, tile, y)
        k = w.fresh("k")
        with w.loop(k, "0", depth, str(QUAD)):
            dot.step(w, tile, lambda m: f"{x} + {m * plan.padded} + {k}", y)
            w.line(f"{y} += {columns * QUAD};")
        for v in range(tile.vectors):
            place = f"{base} + {v * plan.lanes * QUAD}"
            sums = w.let("gf_i32", f"gf_load_i32((const int32_t *)(const void *)({place}))", "sums")
            moved = w.let("gf_i32", f"gf_mul_i32({sums}, gf_splat_i32({self.zero}))", "moved")
            factor = f"gf_load_f32((const float *)(const void *)({place} + {columns * QUAD}))"
            factor = w.let("gf_f32", f"{factor} * gf_splat_f32({self.scale})", "factor")
            for m in range(tile.rows):
                w.line(f"const gf_f32 p{m}_{v} = gf_cast_i32_f32(gf_sub_i32(c{m}_{v}, {moved})) * {factor};")
