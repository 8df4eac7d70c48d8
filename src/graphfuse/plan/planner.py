"""Planning: where every tensor lives, which kernel computes each region, in which order, in which memory.

Placement goes from the outputs backward, so that what is concatenated, padded or returned is computed in place; then
the regions are planned in order of execution, with copies only where no view can say it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from graphfuse.errors import UnsupportedModelError
from graphfuse.fusion.element import Elements
from graphfuse.fusion.passes import RowProgram, schedule
from graphfuse.fusion.regions import VIEWS, Fusion, Region
from graphfuse.graph.dims import Dim, assuming, estimate, measured, product, same, same_shape
from graphfuse.graph.origins import origins
from graphfuse.ops.control import Conditional, Iteration
from graphfuse.ops.expr import Arg, Expr
from graphfuse.ops.tensor import Concat, Map, Opaque, Pad, Reduce, Reshape, Tensor, Transpose
from graphfuse.plan import overwrite
from graphfuse.plan.calls import Assign, Call, Candidate, Choose, Plan, Read, arena_of, cheapest
from graphfuse.plan.control import plan_control
from graphfuse.plan.layout import Layouts
from graphfuse.plan.memo import KernelMemo
from graphfuse.plan.memory import Arena
from graphfuse.plan.site import ContractionSite, Kernel, KernelCode, Lines, NestKernel, NestSite, accumulator
from graphfuse.plan.strides import borders, parts, resolve, same_place
from graphfuse.plan.view import Buffer, View, dense
from graphfuse.target import Target

# For the predicted time of pointwise work.
_CYCLES_PER_US = 3e3

RowsEmitter = Callable[[RowProgram, dict[Tensor, View], Target], KernelCode]


def plan(
    fusion: Fusion,
    kernels: Sequence[Kernel],
    rows: RowsEmitter,
    target: Target,
    where: str = "",
    nests: Sequence[NestKernel] = (),
    choose: Choose = cheapest,
    sum_block: int = 0,
    improve: Callable[[Plan], Plan] = lambda plan: plan,
) -> Plan:
    """Plan the fused program; sum_block: see `ContractionSite`; improve: what is done to the plans of bodies.

    Raises UnsupportedModelError when no kernel accepts a contraction or a loop nest.
    """
    tools = _Tools(kernels, rows, target, nests, choose, sum_block, improve, KernelMemo(target), {}, [])
    with assuming(fusion.program.one_item):
        return Planner(fusion, tools).run(where)


@dataclass(frozen=True)
class _Tools:
    """What planners of a model and of its bodies share."""

    kernels: Sequence[Kernel]
    rows: RowsEmitter
    target: Target
    nests: Sequence[NestKernel]
    choose: Choose
    sum_block: int
    improve: Callable[[Plan], Plan]
    memo: KernelMemo
    constants: dict[Buffer, Tensor]
    refused: list[tuple[str, str, str]]


class Planner:
    """Plans one program; the bodies of its control flow have planners of their own."""

    def __init__(self, fusion: Fusion, tools: _Tools) -> None:
        self.fusion = fusion
        self.program = fusion.program
        self.tools = tools
        self.target = tools.target
        self.layouts = Layouts()
        self.views: dict[Tensor, View] = {}
        self.calls: list[Call] = []
        self.copies: dict[Tensor, str] = {}
        self._ready: set[Tensor] = set()
        self._measured: set[str] = set()  # the measured sizes that are known
        self._learns: list[Read | Assign] = []  # those that become so ahead of the next call

    def run(self, where: str) -> Plan:
        inputs = self._place_leaves()
        self._place_outputs()
        self._plan_regions()
        self._return_outputs()
        if self.tools.refused:
            raise UnsupportedModelError(self.tools.refused, where=where)
        self._learn(measured(*(d for t in self.program.outputs for d in t.shape)))
        returned = {k: self.view(t) for k, t in enumerate(self.program.outputs) if _is_measured(t)}
        input_names = [t.value.name or "" for t in inputs if t.value is not None]
        output_names = [value.name or "" for value in self.program.graph.outputs]
        return self._finished(inputs, self.program.outputs, input_names, output_names, returned=returned)

    def body(self, fusion: Fusion) -> Planner:
        """A planner for a body of control flow."""
        return Planner(fusion, self.tools)

    def run_body(
        self,
        leaves: Mapping[Tensor, View],
        homes: Sequence[tuple[Tensor, View]],
        ends: Sequence[Tensor],
        needs: Iterable[Dim],
        kept: Sequence[View] = (),
    ) -> Plan:
        """The plan of a body.

        leaves: where what it reads is; homes: where its results are wanted; ends: what has to exist behind its last
        call besides; needs: sizes that are to be known then; kept: places that are read then.
        """
        self.views.update(leaves)
        for t, home in homes:
            self._settle_home(t, home)
        self._plan_regions()
        for t, home in homes:
            self.ensure(t)
            if not same_place(self.view(t), home):
                self.copy(self.view(t), home, t, "the result of a body is wanted in memory of its own")
        for t in ends:
            self.ensure(t)
        self._learn(measured(*needs))
        return self.tools.improve(self._finished([], [], [], [], ends=(*kept, *(self.view(t) for t in ends))))

    def _plan_regions(self) -> None:
        self._place_backward()
        # Level by level: what is placed in memory whose size a lower level computes is not computed before it.
        for region in sorted(self.fusion.regions, key=lambda r: self.program.level.get(r.anchor, 0)):
            for t in region.leaves:
                self.ensure(t)
            self._plan_region(region)

    def _finished(
        self,
        inputs: list[Tensor],
        outputs: list[Tensor],
        input_names: list[str],
        output_names: list[str],
        *,
        returned: dict[int, View] | None = None,
        ends: tuple[View, ...] = (),
    ) -> Plan:
        plan = Plan(
            self.calls,
            Arena(),
            inputs,
            outputs,
            input_names,
            output_names,
            self.program.guards,
            self.views,
            self.tools.constants,
            self.copies,
            dict(self.program.one_item),
            learns=tuple(self._learns),
            ends=ends,
            returned=returned or {},
        )
        return replace(plan, arena=arena_of(plan.calls, plan.kept))

    # ------------------------------------------------------------------ placement

    def _place_leaves(self) -> list[Tensor]:
        inputs: list[Tensor] = []
        for value in self.program.graph.inputs:
            t = self.program.of_value[value]
            if self.program.constant(t) is not None:
                continue
            t_buffer = Buffer("input", product(t.shape), t.dtype, len(inputs), value.name or "")
            self.views[t] = dense(t_buffer, t.shape)
            inputs.append(t)
        return inputs

    def _place_outputs(self) -> None:
        for k, t in enumerate(self.program.outputs):
            self._settle_home(t, self._output(t, k))

    def _output(self, t: Tensor, k: int) -> View:
        """Memory for an output: the caller's, or where its size is measured, memory that the caller is shown."""
        if _is_measured(t):
            return dense(Buffer("arena", product(t.shape), t.dtype, name=self.program.name(t)), t.shape)
        return dense(Buffer("output", product(t.shape), t.dtype, k), t.shape)

    def _settle_home(self, t: Tensor, home: View) -> bool:
        """Let a tensor be computed right where it is wanted, through views that can be inverted."""
        found = self._behind_views(t, home)
        if found is None or found[0] in self.views or found[0].prim is None or self._is_view(found[0]):
            return False
        if not self._is_known_to(found[0], found[1]):
            return False
        self.views[found[0]] = found[1]
        return True

    def _is_known_to(self, t: Tensor, home: View) -> bool:
        """Whether the measured sizes that a place depends on are known when a tensor is computed."""
        names = measured(home.buffer.elements, home.offset, *home.strides)
        level = self.program.level
        sources = [self.program.measures.tensor(name) for name in names]
        return all(level.get(s, -1) < level.get(t, 0) for s in sources if s is not None)

    def _behind_views(self, t: Tensor, home: View) -> tuple[Tensor, View] | None:
        """The tensor of which `t` is another view, and where its elements are when those of `t` are at `home`."""
        while isinstance(t.prim, (Transpose, Reshape)) and self._is_view(t):
            source = t.args[0]
            if isinstance(t.prim, Transpose):
                home = home.transposed([t.prim.perm.index(k) for k in range(t.rank)])
            else:
                reshaped = home.reshaped(source.shape)
                if reshaped is None:
                    return None
                home = reshaped
            t = source
        return t, home

    def _is_view(self, t: Tensor) -> bool:
        return isinstance(t.prim, VIEWS) and t not in self.fusion.region_of

    def _place_backward(self) -> None:
        """Give every concat and pad its memory before its parts, so that the parts can be computed in place."""
        for t in reversed(self.program.tensors):
            if isinstance(t.prim, Reshape) and self._is_view(t):
                self._place_reshaped(t)
            if not isinstance(t.prim, (Concat, Pad)):
                continue
            if t not in self.views:
                self.views[t] = self._fresh(t)
            self._place_parts(t)

    def _place_reshaped(self, t: Tensor) -> None:
        """Let what a reshape would have to copy be computed in the reshape's order: heads of attention side by side.

        Only where the innermost axis stays innermost, so that the kernel stores whole vectors as before.
        """
        found = self._behind_views(t, self._fresh(t))
        if found is None or found[0] not in self.fusion.region_of or found[0] in self.views:
            return
        source, home = found
        inner = self.layouts.order(source)[-1:]
        if self._seen_through(t, source) is None and all(home.strides[k] == 1 for k in inner):
            self.views[source] = home

    def _seen_through(self, t: Tensor, source: Tensor) -> View | None:
        """The view that `t` is of `source` in its usual order, or None when strides can't say it."""
        chain: list[Tensor] = []
        while t is not source:
            chain.append(t)
            t = t.args[0]
        view: View | None = dense(Buffer("layout", 0, t.dtype), t.shape, self.layouts.order(t))
        for x in reversed(chain):
            view = None if view is None else resolve(x, view)
        return view

    def _place_parts(self, t: Tensor) -> None:
        for a, home in parts(t, self.views[t]):
            if t.args.count(a) == 1:
                self._settle_home(a, home)

    def _fresh(self, t: Tensor) -> View:
        name = self.program.name(t)
        return dense(Buffer("arena", product(t.shape), t.dtype, name=name), t.shape, self.layouts.order(t))

    def view(self, t: Tensor) -> View:
        """Where a tensor is."""
        if t not in self.views:
            self.views[t] = self._constant_view(t) if t.prim is None else self._fresh(t)
        return self.views[t]

    def _constant_view(self, t: Tensor) -> View:
        buffer = Buffer("weight", product(t.shape), t.dtype, name=self.program.name(t))
        self.tools.constants[buffer] = t
        return dense(buffer, t.shape)

    # ------------------------------------------------------------------ views, placements, copies

    def ensure(self, tensor: Tensor) -> None:
        """Make a tensor that a region is about to read exist: resolve its views, fill in its placements."""
        stack = [tensor]
        while stack:
            t = stack[-1]
            waiting = [] if self._exists(t) else [a for a in reversed(t.args) if not self._exists(a)]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            if not self._exists(t):
                self._ready.add(t)
                self._make(t)

    def _exists(self, t: Tensor) -> bool:
        return t in self._ready or t in self.fusion.region_of

    def _make(self, t: Tensor) -> None:
        if isinstance(t.prim, VIEWS):
            self._resolve_view(t)
        elif isinstance(t.prim, (Concat, Pad)):
            self._fill_in(t)
        else:
            self.view(t)

    def _resolve_view(self, t: Tensor) -> None:
        source = self.view(t.args[0])
        found = resolve(t, source)
        if found is None:
            packed = dense(Buffer("arena", product(source.shape), t.dtype, name=self.program.name(t)), source.shape)
            self.copy(source, packed, t, "its elements do not lie in the order that the new shape needs")
            found = packed.reshaped(t.shape)
            assert found is not None, "a dense tensor can be viewed under any shape"
        self.views[t] = found

    def _fill_in(self, t: Tensor) -> None:
        if isinstance(t.prim, Pad):
            for border in borders(t, self.views[t]):
                self._fill(border, t)
        for a, home in parts(t, self.views[t]):
            if not same_place(self.view(a), home):
                self.copy(self.view(a), home, t, "the part lives elsewhere already")

    def copy(self, source: View, target: View, t: Tensor, why: str) -> None:
        leaf = Tensor(source.shape, source.dtype)
        copy = Tensor(source.shape, source.dtype, Map((leaf,), Arg(0, source.dtype)))
        self._call_rows("copy", copy, {leaf: source, copy: target}, t)
        self.copies[t] = why

    def _fill(self, target: View, t: Tensor) -> None:
        assert isinstance(t.prim, Pad)
        fill = Tensor(target.shape, t.dtype, Map((), t.prim.fill))
        self._call_rows("fill", fill, {fill: target}, t)

    def _call_rows(self, label: str, result: Tensor, views: dict[Tensor, View], t: Tensor) -> None:
        if _is_empty(result):
            return
        region = Region("rows", [result], result.shape, outputs=[result])
        code = self.tools.rows(schedule(region), views, self.target)
        self.append(Call(code, f"{label} for {self.program.name(t)}", self.nodes([t]), None, "rows"))

    def _return_outputs(self) -> None:
        for k, t in enumerate(self.program.outputs):
            self.ensure(t)
            view = self.view(t)
            mine = view.buffer.kind == "output" and view.buffer.index == k
            if (mine or (_is_measured(t) and view.buffer.kind == "arena")) and view.is_contiguous():
                continue
            target = self._output(t, k)
            self.copy(view, target, t, "the output is wanted in memory of its own")
            if _is_measured(t):
                self.views[t] = target

    # ------------------------------------------------------------------ regions

    def _plan_region(self, region: Region) -> None:
        if all(_is_empty(t) and not _is_control(t) for t in region.outputs):
            return
        if region.kind == "contraction":
            call = self._plan_contraction(region)
        elif region.kind == "opaque":
            call = self._plan_nest(region)
        else:
            call = self._plan_rows(region)
        if call is not None:
            call.nodes = self.nodes(region.tensors)
            self.append(call)

    def _plan_rows(self, region: Region) -> Call:
        program = schedule(region)
        views = {t: self.view(t) for t in [*region.leaves, *region.outputs]}
        placed = [views[t] for t in region.outputs]
        code = self.tools.rows(program, views, self.target)
        cost = estimate(code.work) / (2 * self.target.lanes * _CYCLES_PER_US)
        call = Call(code, region.name, (), region, "rows", placed, pixel_lines(region, code, views), cost)
        call.overwrites = overwrite.of_rows(region, program, views)
        # Scheduled anew: the emitter lays out a program's spills as it goes.
        call.emit_at = lambda view: self.tools.rows(schedule(region), {**views, region.outputs[0]: view}, self.target)
        return call

    def _plan_contraction(self, region: Region) -> Call | None:
        anchor = region.anchor
        results: dict[Tensor, Expr] = {anchor: accumulator(anchor)}
        elements = Elements(region.tensors, region.space, results)
        whole = [t for t in region.outputs if not isinstance(t.prim, Reduce)]
        outputs = [(t, elements.at_canonical(t)) for t in whole]
        sums = [(t, elements.at_canonical(t.args[0])) for t in region.outputs if isinstance(t.prim, Reduce)]
        views = {t: self.view(t) for t in [*region.leaves, *region.outputs]}
        site = ContractionSite(anchor, outputs, views, self.program.constant, sums, self.tools.sum_block)
        reasons: list[str] = []
        candidates: list[Candidate] = []
        for kernel in self.tools.kernels:
            able = not sums or getattr(kernel, "sums_lines", False)
            reason = kernel.accepts(site, self.target) if able else "it sums no lines"
            if reason is None:
                candidates.append(
                    Candidate(kernel, self.tools.memo.cost(kernel, site), partial(self.tools.memo.emit, kernel, site))
                )
            else:
                reasons.append(f"{kernel.name}: {reason}")
        if not candidates:
            node = self.program.node_of[anchor]
            # What kernels for such contractions say comes first, what others are for last.
            reasons.sort(key=lambda reason: f"{site.prim.kind} is not" in reason)
            self.tools.refused.append(
                (node.op_type, self.program.name(anchor), "no kernel takes it: " + ", ".join(reasons))
            )
            return None
        candidates.sort(key=lambda c: c.cost)
        chosen = self.tools.choose(anchor, candidates)
        kernel = chosen.kernel
        call = Call(
            chosen.code,
            region.name,
            (),
            region,
            kernel.name,
            results=[views[t] for t in region.outputs],
            lines=self.tools.memo.lines(kernel, site),
            cost=chosen.cost,
            for_any_rows=partial(self.tools.memo.emit, kernel, site, any_rows=True),
            candidates=tuple(candidates),
        )
        if getattr(kernel, "in_place", False):
            call.overwrites = overwrite.of_contraction(site)
            call.emit_at = lambda view: self.tools.memo.emit(
                kernel, replace(site, views={**views, region.outputs[0]: view})
            )
        return call

    def _plan_nest(self, region: Region) -> Call | None:
        results = {t.prim.index: t for t in region.outputs if isinstance(t.prim, Opaque)}
        assert isinstance(region.anchor.prim, Opaque)
        nest = region.anchor.prim.nest
        if isinstance(nest, (Conditional, Iteration)):
            plan_control(self, region, nest)
            return None
        views = {t: self.view(t) for t in [*region.leaves, *region.outputs]}
        site = NestSite(nest, results, views, self.program.constant)
        reasons: list[str] = []
        for kernel in self.tools.nests:
            reason = kernel.accepts(site, self.target)
            if reason is None:
                call = Call(kernel.emit(site, self.target), region.name, (), region, kernel.name)
                call.results = [views[t] for t in region.outputs]
                call.overwrites = overwrite.of_nest(site)
                call.emit_at = partial(_emit_with, kernel, site, region.outputs[0], self.target)
                return call
            reasons.append(f"{kernel.name}: {reason}")
        node, name = self.program.node_of[region.anchor], self.program.name(region.anchor)
        self.tools.refused.append((node.op_type, name, ", ".join(reasons) or f"there is no kernel for a {nest.name}"))
        return None

    def nodes(self, tensors: Sequence[Tensor]) -> tuple[str, ...]:
        """The user's nodes that tensors belong to."""
        nodes = dict.fromkeys(self.program.node_of[t] for t in tensors if t in self.program.node_of)
        return tuple(dict.fromkeys(name for node in nodes for name in origins(node)))

    def append(self, call: Call) -> None:
        """Add a call, ahead of which the sizes that it needs become known."""
        self._learn(measured(*call.sizes))
        call.learns, self._learns = tuple(self._learns), []
        self.calls.append(call)

    def assign(self, sizes: Mapping[str, Dim]) -> None:
        """Have measured sizes computed from others ahead of the next call."""
        self._learn(measured(*sizes.values()))
        self._measured.update(sizes)
        self._learns += [Assign(name, value) for name, value in sizes.items()]

    def _learn(self, names: Iterable[str]) -> None:
        """Have measured sizes read from where they have been computed."""
        for name in names:
            if name in self._measured:
                continue
            self._measured.add(name)
            source, tensor = self.program.measures.sources[name], self.program.measures.tensor(name)
            if tensor is not None and source.index is not None:
                self.ensure(tensor)
                self._learns.append(Read(name, self.view(tensor), source.index, self.program.name(tensor)))


def _emit_with(kernel: NestKernel, site: NestSite, result: Tensor, target: Target, view: View) -> KernelCode:
    """The code of a nest whose result is elsewhere."""
    return kernel.emit(replace(site, views={**site.views, result: view}), target)


def pixel_lines(region: Region, code: KernelCode, views: Mapping[Tensor, View]) -> Lines | None:
    """What the rows of a pointwise region are where they are the pixels of an image, channels innermost."""
    if len(region.outputs) != 1 or not all(isinstance(t.prim, Map) for t in region.tensors):
        return None
    [y] = region.outputs
    images = [t for t in region.leaves if same_shape(t.shape, y.shape)]
    if y.rank != 4 or y.shape[1] == 1 or views[y].strides[1] != 1 or not images:
        return None
    batch, _, height, width = y.shape
    if not same(code.rows, product((batch, height, width))):
        return None
    return Lines(views[images[-1]], batch, height, height, rows_per_line=width)


def _is_control(t: Tensor) -> bool:
    """Whether it is control flow that computes a tensor; it has to run for the sizes that it tells, whatever else."""
    return isinstance(t.prim, Opaque) and isinstance(t.prim.nest, (Conditional, Iteration))


def _is_empty(t: Tensor) -> bool:
    """Whether a tensor has no elements, whatever the sizes are."""
    return any(isinstance(d, int) and d == 0 for d in t.shape)


def _is_measured(t: Tensor) -> bool:
    return bool(measured(*t.shape))
