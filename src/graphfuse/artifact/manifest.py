"""manifest.json: what an artifact computes, for which machine, and the hashes of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphfuse.artifact.dims import symbols_of
from graphfuse.errors import ArtifactError
from graphfuse.target import Target

FORMAT = "graphfuse artifact"
FORMAT_VERSION = 3

# NumPy's name (ml_dtypes' from bfloat16 on) -> onnxruntime's name of the element type.
DTYPES = {
    "float32": "float", "float64": "double", "float16": "float16",
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16",
    "int32": "int32", "uint32": "uint32", "int64": "int64", "uint64": "uint64",
    "bool": "bool", "bfloat16": "bfloat16",
    "float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz",
    "float8_e8m0fnu": "float8e8m0", "float4_e2m1fn": "float4e2m1",
    "int4": "int4", "uint4": "uint4", "int2": "int2", "uint2": "uint2",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One input or output: the user's name, NumPy's dtype name, and dims as number, symbol or expression."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Manifest:
    """What the C face of an artifact does not say itself.

    symbols: the free dimensions in the order that model_run takes them; each occurs in the shape of some input;
    measured: the sizes of outputs that depend on data, in the order that model_run writes them, behind the symbols;
    guards: guards[i - 1] is the message for model_run's return value i; target: the machine the library is for (its
    cores are not kept); producer: version of graphfuse; compiler: version of the C compiler; weights_bytes: length of
    weights.bin, 0 when the weights are in the library; files: SHA-256 of every other file, by name; results: what the
    user's model returns where some of it are lists of tensors: name -> the names of its tensors, None for a tensor;
    states: what the model keeps from one call to the next, of sizes that are known. model_run takes them behind the
    inputs, and writes their next values behind the outputs; states.bin holds what they start from, one after the other;
    source: what kind of model it was made from, such as "TFLite"; ranges: the least and the largest value (None: any)
    of symbols that the model means something for.
    Raises ValueError when the parts contradict each other.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    symbols: tuple[str, ...]
    guards: tuple[str, ...]
    target: Target
    producer: str
    compiler: str
    weights_bytes: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    measured: tuple[str, ...] = ()
    results: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    states: tuple[Tensor, ...] = ()
    source: str = ""
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, tensors in (("input", self.inputs), ("output", self.outputs), ("state", self.states)):
            names = [tensor.name for tensor in tensors]
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind}s share a name")
            for tensor in tensors:
                self._check_tensor(tensor, {*self.symbols, *(self.measured if kind == "output" else ())})
        if any(isinstance(dim, str) for tensor in self.states for dim in tensor.shape):
            raise ValueError("the size of a state is not known")
        dims = {dim for tensor in self.inputs for dim in tensor.shape if isinstance(dim, str)}
        bound = dims | {symbol for dim in dims - {*self.symbols} for symbol in symbols_of(dim)}
        for symbol in self.symbols:
            if symbol not in bound:
                raise ValueError(f"no input has the dimension {symbol!r}")
        if (
            len(set(self.symbols)) != len(self.symbols)
            or not (self.outputs or self.results or self.states)
            or self.weights_bytes < 0
        ):
            raise ValueError("symbols twice, no outputs, or a negative size of weights")
        listed = [tensor for name, names in self.results.items() for tensor in ([name] if names is None else names)]
        if self.results and listed != [tensor.name for tensor in self.outputs]:
            raise ValueError("the lists that are returned are not made of the outputs")
        if unknown := [name for name in self.ranges if name not in self.symbols]:
            raise ValueError(f"there is a range for {unknown[0]!r}, which is no dimension")

    def _check_tensor(self, tensor: Tensor, known: set[str]) -> None:
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{tensor.name!r} has the unknown dtype {tensor.dtype!r}")
        for dim in tensor.shape:
            unknown = set() if isinstance(dim, int) or dim in known else {*symbols_of(dim)} - known
            if unknown or (isinstance(dim, int) and dim < 0):
                raise ValueError(f"{tensor.name!r} has the unknown dimension {dim!r}")

    def to_json(self) -> str:
        """The text of manifest.json: same manifest, same bytes."""
        target = self.target
        tensors = {
            kind: [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in listed]
            for kind, listed in (("inputs", self.inputs), ("outputs", self.outputs), ("states", self.states))
        }
        fields = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "producer": self.producer,
            "compiler": self.compiler,
            "source": self.source,
            "target": {
                "arch": target.arch,
                "os": target.os,
                "abi": target.abi,
                "cpu": target.cpu,
                "features": list(target.features),
                "l1": target.l1,
                "l2": target.l2,
                "l3": target.l3,
            },
            "symbols": list(self.symbols),
            "measured": list(self.measured),
            "ranges": {name: list(limits) for name, limits in self.ranges.items()},
            "results": {name: None if names is None else list(names) for name, names in self.results.items()},
            **tensors,
            "guards": list(self.guards),
            "weights_bytes": self.weights_bytes,
            "files": dict(sorted(self.files.items())),
        }
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def is_manifest(text: str) -> bool:
    """Whether a text is the manifest of some artifact of graphfuse, of whatever version."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("format") == FORMAT


def parse_manifest(text: str, where: str) -> Manifest:
    """The manifest in `text`. Raises ArtifactError, naming the file `where`, for anything that is not one of ours."""
    if not is_manifest(text):
        raise ArtifactError("this is no graphfuse artifact", where=where, remedy="name a folder that graphfuse wrote")
    fields = json.loads(text)
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        why = f"its format is version {version!r}, this graphfuse reads version {FORMAT_VERSION}"
        raise ArtifactError(
            "another version of graphfuse wrote this", where=where, why=why, remedy="compile the model anew"
        )
    try:
        return _manifest(fields)
    except ValueError as error:
        why = str(error)
        raise ArtifactError("the manifest is damaged", where=where, why=why, remedy="compile the model anew") from error


def _manifest(fields: dict[str, Any]) -> Manifest:
    machine = _typed(fields, "target", dict)
    sizes = {name: _typed(machine, name, int) for name in ("l1", "l2", "l3")}
    names = {name: _typed(machine, name, str) for name in ("arch", "os", "abi", "cpu")}
    target = Target(**names, features=_texts(machine, "features"), **sizes)
    files = _typed(fields, "files", dict)
    if not all(isinstance(digest, str) for digest in files.values()):
        raise ValueError("'files' holds something that is no hash")
    return Manifest(
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
        symbols=_texts(fields, "symbols"),
        guards=_texts(fields, "guards"),
        target=target,
        producer=_typed(fields, "producer", str),
        compiler=_typed(fields, "compiler", str),
        weights_bytes=_typed(fields, "weights_bytes", int),
        files=files,
        measured=_texts(fields, "measured"),
        results=_results(_typed(fields, "results", dict)),
        states=_tensors(fields, "states"),
        source=_typed(fields, "source", str),
        ranges=_ranges(fields.get("ranges", {})),  # artifacts of earlier days have none
    )


def _ranges(fields: Any) -> dict[str, tuple[int, int | None]]:
    found: dict[str, tuple[int, int | None]] = {}
    for name, limits in fields.items() if isinstance(fields, dict) else [("", None)]:
        if not isinstance(limits, list) or len(limits) != 2 or type(limits[0]) is not int:
            raise ValueError("'ranges' holds something that is no range")
        if limits[1] is not None and type(limits[1]) is not int:
            raise ValueError("'ranges' holds something that is no range")
        found[name] = (limits[0], limits[1])
    return found


def _tensors(fields: dict[str, Any], name: str) -> tuple[Tensor, ...]:
    tensors = []
    for item in _typed(fields, name, list):
        if not isinstance(item, dict):
            raise ValueError(f"{name!r} holds something that is no tensor")
        shape = _typed(item, "shape", list)
        if not all(type(dim) in (int, str) for dim in shape):
            raise ValueError(f"{name!r} holds something that is no dimension")
        tensors.append(Tensor(_typed(item, "name", str), _typed(item, "dtype", str), tuple(shape)))
    return tuple(tensors)


def _results(fields: dict[str, Any]) -> dict[str, tuple[str, ...] | None]:
    return {name: None if names is None else _texts(fields, name) for name, names in fields.items()}


def _texts(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    values: Sequence[Any] = _typed(fields, name, list)
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name!r} holds something that is no text")
    return tuple(values)


def _typed(fields: dict[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name!r} is missing or no {kind.__name__}")
    return value
