"""New values for a compiled model's weights: folded and packed again, without compiling where the C stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse.codegen.module import Module
from graphfuse.codegen.weights import Recipe
from graphfuse.compiler import Job, emit, fuse_model, plan_fusion, recognize, simplify
from graphfuse.errors import InputError
from graphfuse.fusion.likeness import alike
from graphfuse.fusion.program import lower_graph
from graphfuse.fusion.regions import Fusion
from graphfuse.graph.dtypes import F32
from graphfuse.ledger import Ledger
from graphfuse.plan.calls import Plan

Array = np.ndarray[Any, Any]


class Updater:
    """Makes the weights of a compiled model anew from other values of its constants.

    job: a finished compilation that kept its imported graph (`Job.updatable`). The arrays that a library reads are
    found from the names of the graph's initializers, through every fold and arrangement.
    """

    def __init__(self, job: Job) -> None:
        assert job.pristine is not None, "the job was not asked to stay updatable"
        self._job, self._pristine = job, job.pristine
        self._module: Module = job.results["emit"]
        fusion: Fusion = job.results["fuse"]
        self._program = fusion.program
        self.names = tuple(name for name in self._pristine.graph.initializers if name is not None)

    def weights(self, values: Mapping[str, Array]) -> list[Array] | None:
        """The arrays of weights.bin for these values of initializers; the others keep theirs.

        None where the C itself would be another: a rule that looks at values decides otherwise, or a kernel does.
        Raises InputError for a name that is no initializer of the model, or an array of another type or shape.
        """
        return self._packed_again(values) or self._planned_again(values)

    def model(self, values: Mapping[str, Array]) -> ir.Model:
        """The imported graph with these values of initializers. Raises InputError."""
        model = self._pristine.clone()
        for name, array in values.items():
            value = model.graph.initializers.get(name)
            if value is None or value.const_value is None:
                raise InputError(f"the model has no weight {name!r}")
            _check(name, array, value.const_value)
            value.const_value = ir.tensor(np.ascontiguousarray(array), dtype=value.dtype, name=name)
        return model

    def _rewritten(self, values: Mapping[str, Array]) -> tuple[Job, ir.Model]:
        """A job with a ledger of its own, and the graph behind all rules."""
        job = dataclasses.replace(self._job, ledger=Ledger(), results={}, timings={}, pristine=None)
        for name in self._job.ledger.names:
            job.ledger.register(name, self._job.ledger.op_type(name))
        for record in self._imported():
            job.ledger.settle([record], "folded", by="import")
        return job, recognize(job, simplify(job, self.model(values)))

    def _imported(self) -> Sequence[str]:
        return [record.name for record in self._job.ledger.nodes if record.by == "import"]

    def _packed_again(self, values: Mapping[str, Array]) -> list[Array] | None:
        """The same recipes with other constants, where the program is the same and nothing looks at their values."""
        job, model = self._rewritten(values)
        program = lower_graph(model.graph, job.where, job.dims, job.options.numerics == "strict")
        pairs = alike(self._program, program)
        if pairs is None:
            return None
        new = dict(pairs)
        recipes = self._module.recipes
        read = {recipe.source for recipe in recipes}
        # What is no recipe's may be in the text; and the values of before may lie in memory that is written to.
        if any(old not in read and self._program.constant(old) is not None for old in new):
            return None
        if any(_is_judged_by_value(recipe) for recipe in recipes):
            return None
        found = [program.constant(new[recipe.source]) if recipe.source in new else None for recipe in recipes]
        arrays = [array for array in found if array is not None and _is_tame(array)]
        if len(arrays) < len(recipes):
            return None
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda both: both[0].array(both[1]), zip(recipes, arrays, strict=True)))

    def _planned_again(self, values: Mapping[str, Array]) -> list[Array] | None:
        """Planned and emitted anew, where the text is the same."""
        job, model = self._rewritten(values)
        job.results["recognize"] = model
        job.results["fuse"] = fuse_model(job, model)
        planned: Plan = plan_fusion(job, job.results["fuse"])
        module = emit(job, planned)
        return module.weights if module.source() == self._module.source() else None


def _check(name: str, array: Array, before: ir.TensorProtocol) -> None:
    shape, dtype = tuple(before.shape.numpy()), before.dtype.numpy()
    if array.shape != shape or array.dtype != dtype:
        what = f"this is {array.dtype} {array.shape}, expected {dtype} {shape}"
        raise InputError(what, where=f"weight {name!r}", remedy="compile the model anew where its sizes have changed")


def _is_judged_by_value(recipe: Recipe) -> bool:
    """Whether the plan looked at the values: they were all of a narrower type, and are stored so; or are integers."""
    return recipe.source.dtype == F32 and recipe.packed is not None and recipe.packed.dtype != F32


def _is_tame(array: Array) -> bool:
    """Whether no kernel would refuse the values: sums of transformed weights want finite ones."""
    return array.dtype.kind != "f" or bool(np.isfinite(array.min(initial=0)) and np.isfinite(array.max(initial=0)))
