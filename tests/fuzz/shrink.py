"""From a failing model to a small one: fewer outputs, nodes cut off or stepped over, plainer values, smaller inputs."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from codegen import redzones
from fuzz.draw import Array
from fuzz.graphs import pruned
from fuzz.judge import Judge
from fuzz.oracles import NoAnswer, reference
from fuzz.running import Broken, Build, Library, check_rest, check_runs, emit
from graphfuse.errors import UnsupportedModelError


@dataclass(frozen=True)
class Case:
    """A model with inputs."""

    model: onnx.ModelProto
    inputs: Mapping[str, Array]

    def save(self, folder: Path, name: str) -> Path:
        """The model as a file, its text and inputs beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.onnx"
        onnx.save(self.model, path)
        np.savez(folder / f"{name}.npz", **dict(self.inputs))
        (folder / f"{name}.txt").write_text(self.text())
        return path

    def text(self) -> str:
        values = "\n".join(f"{k} = {_short(v)}" for k, v in self.inputs.items())
        constants = "\n".join(f"{t.name} = {_short(numpy_helper.to_array(t))}" for t in self.model.graph.initializer)
        return f"{onnx.printer.to_text(self.model)}\n{values}\n{constants}\n"


def _short(array: Array) -> str:
    with np.printoptions(threshold=40, edgeitems=4):
        return f"{array.dtype}{list(array.shape)} {array.tolist() if array.size <= 12 else array!r}"


def complaint(case: Case, way: str, build: Build) -> str:
    """What is wrong with the compiled model, a word first; empty where it is right, refused or has no reference."""
    if not build.is_sanitized:
        return _complaint(case, way, build)
    # What the sanitizer finds ends the process.
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_complain, args=(case, way, build, sender))
    process.start()
    sender.close()
    try:
        found = str(receiver.recv())
    except EOFError:
        found = ""
    process.join()
    died = redzones.report(process.pid)
    return (died or f"died with exit code {process.exitcode}") if process.exitcode else found


def _complain(case: Case, way: str, build: Build, sender: Connection) -> None:
    redzones.keep_report()
    sender.send(_complaint(case, way, build))


def _complaint(case: Case, way: str, build: Build) -> str:
    with tempfile.TemporaryDirectory(prefix="graphfuse-fuzz-") as name:
        folder = Path(name)
        try:
            judge = Judge(case.model, case.inputs)
            emitted = emit(case.model, way, build, folder)
            check_rest(case.model, folder)
        except (NoAnswer, UnsupportedModelError):
            return ""
        except Broken as error:
            return f"broken {error}"
        try:
            library = Library([emitted], build, folder)
        except Broken as error:
            return f"C {error}"
        _, kind, text = check_runs(library.runners[0], {"run": judge})
        library.close()
        return f"{kind} {text}".strip()


def shrink(case: Case, way: str, build: Build) -> tuple[Case, str]:
    """A smaller case that fails in the same manner, and what is wrong with it."""
    first = complaint(case, way, build)
    kind = _kind(first)
    if not kind:
        return case, ""
    known = first

    def fails(candidate: Case) -> bool:
        nonlocal known
        found = complaint(candidate, way, build)
        if _kind(found) == kind:
            known = found
            return True
        return False

    changed = True
    while changed:
        changed = False
        for reduction in (_single_outputs, _prefixes, _cuts, _bypasses, _plainer, _smaller):
            case, done = _first(case, reduction, fails)
            changed = changed or done
    return case, known


def _kind(text: str) -> str:
    """What makes two complaints the same: the word, and for errors the class of the error."""
    return " ".join(text.split()[:2]) if text.startswith("broken") else text.split(" ")[0]


def _first(case: Case, reduction: Callable[[Case], Iterator[Case]], fails: Callable[[Case], bool]) -> tuple[Case, bool]:
    """The case after all that the reduction can take away."""
    done = False
    again = True
    while again:
        again = False
        for candidate in reduction(case):
            if fails(candidate):
                case, done, again = candidate, True, True
                break
    return case, done


def _pruned(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> Case:
    small = pruned(model)
    return Case(small, {v.name: inputs[v.name] for v in small.graph.input})


def _with_outputs(case: Case, names: list[str]) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    known = {y.name: y for y in case.model.graph.output}
    del model.graph.output[:]
    values = _values(case, [n for n in names if n not in known])
    for name in names:
        if name in known:
            model.graph.output.append(known[name])
        elif name in values:
            dtype = helper.np_dtype_to_tensor_dtype(values[name].dtype)
            model.graph.output.append(helper.make_tensor_value_info(name, dtype, None))
    return _pruned(model, case.inputs)


def _values(case: Case, names: list[str]) -> dict[str, Array]:
    """What the reference gives inner values; none where it refuses."""
    probe = onnx.ModelProto()
    probe.CopyFrom(case.model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        return dict(zip(names, reference(probe)(case.inputs), strict=True)) if names else {}
    except NoAnswer:
        return {}


def _single_outputs(case: Case) -> Iterator[Case]:
    names = [y.name for y in case.model.graph.output]
    if len(names) > 1:
        for name in names:
            yield _with_outputs(case, [name])
        for name in names:
            yield _with_outputs(case, [n for n in names if n != name])


def _prefixes(case: Case) -> Iterator[Case]:
    """An inner value as the only output."""
    outputs = {y.name for y in case.model.graph.output}
    for node in case.model.graph.node[:-1]:
        for name in node.output:
            if name and name not in outputs:
                yield _with_outputs(case, [name])


def _cuts(case: Case) -> Iterator[Case]:
    """A value given as an input instead of computed; the latest first."""
    outputs = {y.name for y in case.model.graph.output}
    names = [name for node in case.model.graph.node for name in node.output if name and name not in outputs]
    values = _values(case, names)
    for name in reversed(names):
        if name not in values:
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        dtype = helper.np_dtype_to_tensor_dtype(values[name].dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, dtype, values[name].shape))
        for node in model.graph.node:
            for k, other in enumerate(node.output):
                if other == name:
                    node.output[k] = f"{name}.cut"
        yield _pruned(model, {**case.inputs, name: values[name]})


def _bypasses(case: Case) -> Iterator[Case]:
    """A node's input in place of its output."""
    for index, node in enumerate(case.model.graph.node):
        for name in dict.fromkeys(x for x in node.input if x):
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            changed = model.graph.node[index]
            changed.CopyFrom(helper.make_node("Identity", [name], [node.output[0]], name=node.name))
            if node.op_type != "Identity":
                yield _pruned(model, case.inputs)


def _plainer(case: Case) -> Iterator[Case]:
    """Attributes left out; constants and inputs of zeros, ones or small whole numbers."""
    for index, node in enumerate(case.model.graph.node):
        for k in range(len(node.attribute)):
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            del model.graph.node[index].attribute[k]
            yield replace(case, model=model)
    for name, array in case.inputs.items():
        for plain in _plain(array):
            yield replace(case, inputs={**case.inputs, name: plain})
    for index, tensor in enumerate(case.model.graph.initializer):
        for plain in _plain(numpy_helper.to_array(tensor)):
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(plain, tensor.name))
            yield replace(case, model=model)


def _plain(array: Array) -> Iterator[Array]:
    if array.dtype.kind not in "fiu" or array.size == 0:
        return
    ladder = np.arange(array.size).reshape(array.shape).astype(array.dtype)
    level = 0 if not array.any() else 1 if (array == 1).all() else 2 if np.array_equal(array, ladder) else 3
    if level > 0:
        yield np.zeros_like(array)
    if level > 1:
        yield np.ones_like(array)
    if level > 2:
        yield ladder


def _smaller(case: Case) -> Iterator[Case]:
    """Inputs and constants with one axis cut to half."""
    sizes = {v.name: v for v in case.model.graph.input}
    for name, array in case.inputs.items():
        for axis, n in enumerate(array.shape):
            dim = sizes[name].type.tensor_type.shape.dim[axis]
            for fewer in dict.fromkeys((1, n // 2, n - 1)):
                if not 0 < fewer < n:
                    continue
                yield _resized(case, axis, n, fewer, dim.dim_param, name)
    for index, tensor in enumerate(case.model.graph.initializer):
        array = numpy_helper.to_array(tensor)
        for axis, n in enumerate(array.shape):
            if n > 1:
                model = onnx.ModelProto()
                model.CopyFrom(case.model)
                half = np.ascontiguousarray(np.take(array, range(n // 2), axis))
                model.graph.initializer[index].CopyFrom(numpy_helper.from_array(half, tensor.name))
                yield replace(case, model=model)


def _resized(case: Case, axis: int, n: int, fewer: int, symbol: str, name: str) -> Case:
    """One axis of one input shorter; where it is a symbol's, all axes of that symbol."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs = dict(case.inputs)
    for value in model.graph.input:
        for k, dim in enumerate(value.type.tensor_type.shape.dim):
            if (symbol and dim.dim_param == symbol) or (not symbol and value.name == name and k == axis):
                inputs[value.name] = np.ascontiguousarray(np.take(inputs[value.name], range(fewer), k))
                if not symbol:
                    dim.dim_value = fewer
    return Case(model, inputs)
