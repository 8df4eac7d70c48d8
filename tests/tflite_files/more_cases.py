"""One small model for each form of the operators that move elements or find them by index."""

from __future__ import annotations

import numpy as np

from .builder import Q
from .cases import I32, C, I, X, Y, case, floats, ints

case("", "RESHAPE", [floats(2, 3, 4), I(4, -1)])
case("option", "RESHAPE", [floats(2, 3, 4)], options="ReshapeOptions", newShape=[6, 4])
case("", "SQUEEZE", [floats(1, 3, 1, 4)], options="SqueezeOptions", squeezeDims=[0])
case("all", "SQUEEZE", [floats(1, 3, 1, 4)], options="SqueezeOptions", squeezeDims=[])
case("", "EXPAND_DIMS", [floats(3, 4), C(np.int32(1))])
case("", "TRANSPOSE", [floats(2, 3, 4), I(2, 0, 1)])
case("", "SHAPE", [floats(2, 3, 4)], I32, options="ShapeOptions", outType=2)
case("", "RANK", [floats(2, 3, 4)], I32)
case("", "CONCATENATION", [floats(2, 3, 4), floats(2, 1, 4, seed=1)], options="ConcatenationOptions", axis=1)
case(
    "last",
    "CONCATENATION",
    [floats(2, 3, 4), floats(2, 3, 1, seed=1)],
    options="ConcatenationOptions",
    axis=-1,
    fusedActivationFunction=0,
)
case(
    "int8",
    "CONCATENATION",
    [X(ints(2, 3), Q(0.1, 3)), X(ints(2, 4, seed=1), Q(0.1, 3))],
    Y("int8", Q(0.1, 3)),
    options="ConcatenationOptions",
    axis=1,
)
case(
    "uint8, scales",
    "CONCATENATION",
    [
        X(ints(2, 3, low=0, high=256, dtype=np.uint8), Q(0.1, 3)),
        X(ints(2, 4, low=0, high=256, dtype=np.uint8, seed=1), Q(0.07, 99)),
    ],
    Y("uint8", Q(0.1, 3)),
    options="ConcatenationOptions",
    axis=1,
)
case("", "PACK", [floats(3, 4), floats(3, 4, seed=1)], options="PackOptions", valuesCount=2, axis=1)
case("", "UNPACK", [floats(3, 2, 4)], [Y(), Y()], options="UnpackOptions", num=2, axis=1)
case("", "SPLIT", [C(np.int32(1)), floats(3, 6)], [Y(), Y(), Y()], options="SplitOptions", numSplits=3)
case("", "SPLIT_V", [floats(3, 7), I(2, -1, 1), C(np.int32(-1))], [Y(), Y(), Y()], options="SplitVOptions", numSplits=3)
case("", "TILE", [floats(2, 3), I(2, 3)])
case("", "BROADCAST_TO", [floats(3, 1), I(2, 3, 4)])
case("", "BROADCAST_ARGS", [I(3, 1), I(2, 1, 4)], I32)
case("", "FILL", [I(2, 3), C(np.float32(1.5))])
case("", "RANGE", [C(np.int32(2)), C(np.int32(17)), C(np.int32(3))], I32)
case("", "PAD", [floats(2, 3, 4), C(np.array([[0, 1], [2, 0], [1, 1]], np.int32))])
case("int8", "PAD", [X(ints(2, 3), Q(0.1, 7)), C(np.array([[0, 1], [2, 0]], np.int32))], Y("int8", Q(0.1, 7)))
case("", "PADV2", [floats(2, 3), C(np.array([[0, 1], [2, 0]], np.int32)), C(np.float32(-3))])
for _mode in (0, 1):
    case(
        f"{_mode}",
        "MIRROR_PAD",
        [floats(3, 4), C(np.array([[1, 2], [2, 0]], np.int32))],
        options="MirrorPadOptions",
        mode=_mode,
    )
case("", "SLICE", [floats(3, 4, 5), I(1, 0, 2), I(2, -1, 2)])
case("computed", "SLICE", [floats(3, 4), np.array([1, 0], np.int32), np.array([2, 3], np.int32)])
_ss = "StridedSliceOptions"
case("", "STRIDED_SLICE", [floats(5, 6, 7), I(1, 0, -1), I(4, 6, -5), I(2, 1, -1)], options=_ss)
case(
    "masks",
    "STRIDED_SLICE",
    [floats(5, 6, 7), I(1, 2, 3), I(4, 5, 6), I(1, 2, 1)],
    options=_ss,
    beginMask=2,
    endMask=5,
    shrinkAxisMask=0,
)
case("shrunk", "STRIDED_SLICE", [floats(5, 6, 7), I(1, -1, 0), I(2, 0, 7), I(1, 1, 1)], options=_ss, shrinkAxisMask=3)
case(
    "new axis",
    "STRIDED_SLICE",
    [floats(5, 6), I(0, 1, 0), I(0, 4, 6), I(1, 1, 1)],
    options=_ss,
    newAxisMask=1,
    endMask=4,
)
case("backwards", "STRIDED_SLICE", [floats(5, 6), I(0, 0), I(0, 0), I(-1, -2)], options=_ss, beginMask=3, endMask=3)
case("", "REVERSE_V2", [floats(3, 4, 5), I(1)])
case(
    "",
    "REVERSE_SEQUENCE",
    [floats(4, 3, 2), C(np.array([1, 3, 2], np.int64))],
    options="ReverseSequenceOptions",
    seqDim=0,
    batchDim=1,
)
case("", "DEPTH_TO_SPACE", [floats(2, 3, 4, 8)], options="DepthToSpaceOptions", blockSize=2)
case("", "SPACE_TO_DEPTH", [floats(2, 6, 4, 3)], options="SpaceToDepthOptions", blockSize=2)
case("", "SPACE_TO_BATCH_ND", [floats(2, 5, 4, 3), I(2, 3), C(np.array([[1, 0], [0, 2]], np.int32))])
case("", "BATCH_TO_SPACE_ND", [floats(12, 3, 2, 3), I(2, 3), C(np.array([[1, 0], [0, 2]], np.int32))])

for _how in ({}, {"alignCorners": True}, {"halfPixelCenters": True}):
    for _size in ((7, 9), (2, 3)):
        case(
            f"{list(_how)} {_size}",
            "RESIZE_BILINEAR",
            [floats(2, 4, 5, 3), I(*_size)],
            options="ResizeBilinearOptions",
            tolerance=1e-5,
            **_how,
        )
        case(
            f"{list(_how)} {_size}",
            "RESIZE_NEAREST_NEIGHBOR",
            [floats(2, 4, 5, 3), I(*_size)],
            options="ResizeNearestNeighborOptions",
            **_how,
        )
case(
    "int8",
    "RESIZE_BILINEAR",
    [X(ints(2, 4, 5, 3), Q(0.1, 3)), I(8, 10)],
    Y("int8", Q(0.1, 3)),
    options="ResizeBilinearOptions",
    halfPixelCenters=True,
    steps=1,
)
case(
    "int8",
    "RESIZE_NEAREST_NEIGHBOR",
    [X(ints(2, 4, 5, 3), Q(0.1, 3)), I(8, 10)],
    Y("int8", Q(0.1, 3)),
    options="ResizeNearestNeighborOptions",
)

case("", "GATHER", [floats(5, 4, 3), ints(2, 3, low=0, high=4, dtype=np.int32)], options="GatherOptions", axis=1)
case(
    "items",
    "GATHER",
    [floats(3, 4, 5), ints(3, 2, low=0, high=4, dtype=np.int32)],
    options="GatherOptions",
    axis=1,
    batchDims=1,
)
case("", "GATHER_ND", [floats(5, 4, 3), C(np.array([[0, 1], [4, 3], [2, 2]], np.int32))])
case("", "EMBEDDING_LOOKUP", [ints(4, low=0, high=5, dtype=np.int32), C(floats(5, 3))])
case("", "SCATTER_ND", [C(np.array([[1], [3], [1]], np.int32)), floats(3, 2), I(5, 2)])
case("", "SPARSE_TO_DENSE", [C(np.array([[0, 1], [2, 3]], np.int32)), I(3, 4), floats(2), C(np.float32(-1))])
for _axis in (-1, 0):
    case(
        f"{_axis}",
        "ONE_HOT",
        [np.array([[0, 2], [-1, 5]], np.int32), C(np.int32(4)), C(np.float32(2)), C(np.float32(-1))],
        options="OneHotOptions",
        axis=_axis,
    )
case("", "SELECT", [floats(3, 4) > 0, floats(3, 4, seed=1), floats(3, 4, seed=2)])
case("rows", "SELECT", [floats(3) > 0, floats(3, 4, seed=1), floats(3, 4, seed=2)])
case("", "SELECT_V2", [floats(4) > 0, floats(3, 4, seed=1), floats(3, 1, seed=2)])
case("", "WHERE", [floats(3, 4) > 0], Y("int64"))
case("", "UNIQUE", [ints(12, low=0, high=5, dtype=np.int32)], [I32, I32], options="UniqueOptions", idxOutType=2)
case("", "DYNAMIC_UPDATE_SLICE", [floats(5, 6), floats(2, 3, seed=1), np.array([4, 1], np.int32)])
case("", "SEGMENT_SUM", [floats(5, 3), C(np.array([0, 0, 1, 2, 2], np.int32))])
for _kind in ("SUM", "PROD", "MAX", "MIN"):
    case("", f"UNSORTED_SEGMENT_{_kind}", [floats(5, 3), C(np.array([2, 0, 1, -1, 2], np.int32)), C(np.int32(4))])
case("", "MATRIX_DIAG", [floats(2, 3)])
case("", "MATRIX_SET_DIAG", [floats(2, 3, 4), floats(2, 3, seed=1)])
_boxes = np.array([[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3], [0, 2.1, 1, 3.1], [5, 5, 6, 6]], np.float32)
_scores = np.array([0.9, 0.75, 0.6, 0.95, 0.3], np.float32)
_nms = [_boxes, _scores, C(np.int32(4)), C(np.float32(0.5)), C(np.float32(0.4))]
case("", "NON_MAX_SUPPRESSION_V4", _nms, [I32, I32])
case("", "NON_MAX_SUPPRESSION_V5", [*_nms, C(np.float32(0))], [I32, Y(), I32])
case("", "BITCAST", [ints(5, dtype=np.int32)], Y("uint32"))
