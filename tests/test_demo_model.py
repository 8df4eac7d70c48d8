"""The shipped demo model: what it is made of, how well it reads, what its files weigh."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime

from graphfuse import demo


def test_nothing_is_fused_in_the_file() -> None:
    model = onnx.load(demo.MODEL)
    onnx.checker.check_model(model, full_check=True)
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["Conv"] == counts["BatchNormalization"] == 9
    assert counts["Dropout"] == 1
    assert counts["Add"] == 3
    assert all(node.name for node in model.graph.node)


def test_it_reads_digits() -> None:
    images, labels = demo.held_out_images()
    assert images.shape == (360, 1, 32, 32)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    scores = onnxruntime.InferenceSession(demo.MODEL).run(["scores"], {"image": images})[0]
    assert demo.accuracy(scores, labels) >= 0.98
    assert demo.accuracy(np.roll(scores, 1, axis=1), labels) < 0.2


def test_the_package_data_stays_small() -> None:
    assert sum(path.stat().st_size for path in demo.MODEL.parent.iterdir() if path.is_file()) < 1_000_000
