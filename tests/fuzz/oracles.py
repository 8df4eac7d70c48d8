"""The references: onnxruntime with every optimisation off, and onnx's own evaluator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_loop import Loop as _Loop

from fuzz.graphs import captured, opsets

Array = np.ndarray[Any, Any]

onnxruntime.set_default_logger_severity(4)


class NoAnswer(Exception):
    """A reference that refuses a model or its inputs."""


class Onnxruntime:
    """A model in onnxruntime, one thread. Raises NoAnswer."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise NoAnswer(str(error)) from error

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        try:
            return [_array(y) for y in self._session.run(None, dict(inputs))]
        except NoAnswer:
            raise
        except Exception as error:
            raise NoAnswer(str(error)) from error


class LRN(OpRun):  # type: ignore[misc]
    """As ONNX has it; the evaluator's own takes the number of images for the number of channels."""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        channels = x.shape[1]
        before, behind = (size - 1) // 2, size // 2
        squares = (
            np.stack([(x[:, max(0, c - before) : c + behind + 1] ** 2).sum(1) for c in range(channels)], axis=1)
            if channels
            else x
        )
        return ((x / (bias + alpha / size * squares) ** beta).astype(x.dtype),)


class Gelu(OpRun):  # type: ignore[misc]
    """As ONNX has it; the evaluator's own has the constants of its function body as float32, also for float64."""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        wide = x.astype(np.float64)
        inner = np.tanh((wide + 0.044715 * wide**3) * math.sqrt(2 / math.pi))
        share = inner if approximate == "tanh" else np.vectorize(math.erf, otypes=[np.float64])(wide * math.sqrt(0.5))
        return ((wide * 0.5 * (1 + share)).astype(x.dtype),)


class Loop(_Loop):  # type: ignore[misc]
    """A condition that is left out is true, and an iteration's result a row, whatever its rank; the evaluator's own
    loop does not run then, and joins matrices along their first axis.
    """

    def __init__(self, onnx_node: onnx.NodeProto, run_params: dict[str, Any]) -> None:
        super().__init__(onnx_node, run_params)
        self._iterations: list[list[Array]] = []
        body = self._run_body

        def kept(*args: Any, **rest: Any) -> list[Array]:
            results: list[Array] = body(*args, **rest)
            self._iterations.append(results[1 + self.N :])
            return results

        self._run_body = kept

    def _run(self, trips: Array | None, condition: Array | None, *states: Array, **rest: Any) -> tuple[Array, ...]:
        self._iterations.clear()
        given = np.array(True) if condition is None else condition
        results = super()._run(trips, given, *states, **rest)
        rows = [np.stack(column) for column in zip(*self._iterations, strict=True)]
        return (*results[: self.N], *(rows or results[self.N :]))


class Evaluator:
    """A model in onnx's reference evaluator. Raises NoAnswer."""

    def __init__(self, model: onnx.ModelProto) -> None:
        try:
            self._evaluator = ReferenceEvaluator(model, new_ops=[Gelu, LRN, Loop])
        except Exception as error:  # whatever it lacks
            raise NoAnswer(str(error)) from error

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return [_array(y) for y in self._evaluator.run(None, dict(inputs))]
        except NoAnswer:
            raise
        except Exception as error:
            raise NoAnswer(str(error)) from error


BOTH = (Onnxruntime, Evaluator)


def _array(y: Any) -> Array:
    if not isinstance(y, np.ndarray | np.generic):
        raise NoAnswer("not a tensor")
    return np.array(y)  # a copy: what onnxruntime passes through may be an input's memory


class Stepwise:
    """A model node by node, each in the first of the references that has a kernel for it. Raises NoAnswer."""

    def __init__(self, model: onnx.ModelProto, order: Sequence[type[Onnxruntime | Evaluator]] = BOTH) -> None:
        self._model, self._order = model, order
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._opset = next(o.version for o in model.opset_import if o.domain == "")

    def __call__(
        self, inputs: Mapping[str, Array], blur: Callable[[Array], Array] = lambda computed: computed
    ) -> list[Array]:
        """The outputs; `blur` is put on all that the nodes compute."""
        values = {**self._constants, **inputs}
        for node in self._model.graph.node:
            read = {x for x in (*node.input, *captured(node)) if x in values}
            results = evaluate_node(node, {x: values[x] for x in sorted(read)}, self._opset, order=self._order)
            values.update(zip(node.output, results if node.op_type == "Constant" else map(blur, results), strict=True))
        return [values[y.name] for y in self._model.graph.output]


Reference = Onnxruntime | Stepwise


def reference(model: onnx.ModelProto) -> Reference:
    """onnxruntime where it takes the model, else node by node. Raises NoAnswer."""
    try:
        return Onnxruntime(model)
    except NoAnswer:
        return Stepwise(model)


def second_reference(model: onnx.ModelProto) -> Stepwise:
    """Every node in onnx's evaluator, but those that it lacks. Raises NoAnswer."""
    return Stepwise(model, BOTH[::-1])


def evaluate_node(
    node: onnx.NodeProto,
    inputs: Mapping[str, Array],
    opset: int,
    known: Collection[str] = (),
    order: Sequence[type[Onnxruntime | Evaluator]] = BOTH,
) -> list[Array]:
    """The results of one node; the inputs in `known` are constants. Raises NoAnswer."""
    given = {k: v for k, v in inputs.items() if k not in known}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in given.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [numpy_helper.from_array(v, k) for k, v in inputs.items() if k in known],
    )
    model = helper.make_model(graph, opset_imports=opsets([node], opset), ir_version=12)
    version = next(o.version for o in model.opset_import if o.domain == node.domain)
    known_here = onnx.defs.has(node.op_type, max_inclusive_version=version, domain=node.domain)
    if onnx.defs.has(node.op_type, domain=node.domain) and not known_here:
        raise NoAnswer(f"opset {version} has no {node.op_type}")
    if known_here and onnx.defs.get_schema(node.op_type, version, node.domain).deprecated:
        raise NoAnswer(f"{node.op_type} is deprecated")
    shapes = None if node.domain else _inferred(model)
    try:
        results = order[0](model)(given)
    except NoAnswer:
        results = order[1](model)(given)
    # A reference that contradicts the standard's own types and shapes is not to be trusted with the form.
    for k, result in enumerate(results):
        if shapes is not None and not shapes[k](result):
            raise NoAnswer(f"{node.op_type} has another type or shape than is inferred")
    return results


def _inferred(model: onnx.ModelProto) -> list[Callable[[Array], bool]]:
    """For each output whether a value has its type and shape. Raises NoAnswer for a node that is not valid."""
    try:
        known = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # the library's own classes
        raise NoAnswer(str(error)) from error

    def fits(info: onnx.ValueInfoProto) -> Callable[[Array], bool]:
        tensor = info.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]

        def check(y: Array) -> bool:
            if tensor.elem_type and helper.np_dtype_to_tensor_dtype(y.dtype) != tensor.elem_type:
                return False
            if not tensor.HasField("shape"):
                return True
            return len(dims) == y.ndim and all(d is None or d == n for d, n in zip(dims, y.shape, strict=True))

        return check

    return [fits(info) for info in known.graph.output]
