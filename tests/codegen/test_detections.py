"""The end of a detector: sizes that depend on data, one on the other, through loop nests, gathers and maps."""

from __future__ import annotations

import numpy as np
import onnxruntime

from codegen.building import build, emitted, parse
from ops.cases import inferred

TEXT = """g (float[1, N, 4] boxes, float[1, 3, N] scores) => (
    float[K, 4] found, float[K] best, int64[K] labels, int64[2, Q] where
) <int64[1] most = {50}, float[1] share = {0.5}, float[1] least = {0.3}, int64[1] twenty = {20}, int64 two = {2},
   int64 one = {1}, int64[1] first = {0}, float half = {0.5}> {
    chosen = NonMaxSuppression(boxes, scores, most, share, least)
    number = Gather<axis = 1>(chosen, two)
    kind = Gather<axis = 1>(chosen, one)
    flat = Squeeze(boxes, first)
    kept = Gather<axis = 0>(flat, number)
    score = GatherND(scores, chosen)
    count = Shape(score)
    k = Min(count, twenty)
    best, order = TopK(score, k)
    found = Gather<axis = 0>(kept, order)
    labels = Gather<axis = 0>(kind, order)
    far = Greater(found, half)
    where = NonZero(far)
}"""


def test_the_same_as_onnxruntime_whatever_is_found() -> None:
    model = parse(TEXT)
    (run,) = build([emitted(inferred(model))])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    random = np.random.default_rng(0)
    for n in (1, 5, 50, 400):
        middle, reach = random.uniform(0, 1, (1, n, 2)), random.uniform(0.05, 0.3, (1, n, 2))
        boxes = np.concatenate([middle - reach, middle + reach], 2).astype(np.float32)
        for highest in (1.0, 0.2):  # of 0.2 none is enough
            data = {"boxes": boxes, "scores": random.uniform(0, highest, (1, 3, n)).astype(np.float32)}
            for threads in (1, 2):
                for a, b in zip(run(data, threads=threads), session.run(None, data), strict=True):
                    np.testing.assert_array_equal(a, b)
