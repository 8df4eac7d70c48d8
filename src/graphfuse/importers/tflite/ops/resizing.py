"""Images of another size."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.quantized import kept, real
from graphfuse.importers.tflite.registry import operator


@operator("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def resize(call: Call) -> ir.Value:
    """To a height and width. Nearest takes the one before, of centres the nearest with halves up."""
    s, bilinear = call.s, call.type == "RESIZE_BILINEAR"
    o = call.options("ResizeBilinearOptions" if bilinear else "ResizeNearestNeighborOptions")
    how = "align_corners" if o.AlignCorners() else "half_pixel" if o.HalfPixelCenters() else "asymmetric"
    if not bilinear and how == "half_pixel":
        how = "tf_half_pixel_for_nn"
    x = s.channels_first(real(call, 0) if bilinear else call.x(0))
    known = call.known(1)
    wanted = s.constant(known.ravel(), np.int64) if known is not None else s.ints(call.x(1))
    head = s("Shape", x, start=0, end=2)
    nearest = "round_prefer_ceil" if how == "align_corners" else "floor"
    y = s(
        "Resize", x, None, None, s("Concat", head, wanted, axis=0), coordinate_transformation_mode=how,
        mode="linear" if bilinear else "nearest", nearest_mode=None if bilinear else nearest,
    )  # fmt: skip
    return s.channels_last(kept(call, y) if bilinear else y)
