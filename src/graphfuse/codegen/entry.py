"""Writing model_run: the calls of a plan in order, the sizes that they need, the guards, control flow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphfuse.codegen.places import Places
from graphfuse.codegen.sizes import Sizes
from graphfuse.codegen.writer import Writer
from graphfuse.errors import InternalError
from graphfuse.fusion.guards import Guard
from graphfuse.graph.dims import add, measured, mul, product, symbol_named
from graphfuse.graph.dtypes import c_type, item_bytes
from graphfuse.plan.calls import Appended, Assign, Call, Choice, Plan, Read, Repeat
from graphfuse.plan.memory import aligned
from graphfuse.plan.site import KernelCode
from graphfuse.plan.view import Buffer, View

STOPPED = -2  # what model_run returns where model_stop ended it


@dataclass
class _Progress:
    """What has been written of a function: sizes that are known, guards that are checked, memory that is taken."""

    known: set[str] = field(default_factory=set)
    guarded: set[int] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def copy(self) -> _Progress:
        """What a body of control flow begins with."""
        return _Progress(set(self.known), set(self.guarded), set(self.taken))


class Entry:
    """Writes model_run of a plan.

    kernels: the kernels that it calls, name -> C text; messages: what each status above 0 means, from 1; returned: the
    measured sizes in the shapes of outputs.
    """

    def __init__(self, plan: Plan, sizes: Sizes, places: Places, embed_weights: bool) -> None:
        self.plan, self.sizes, self.places, self.embed_weights = plan, sizes, places, embed_weights
        self.kernels: dict[str, str] = {}
        self._laps: dict[int, int] = {}  # of calls in bodies, where they are timed: which stamps are theirs
        self.messages = [g.message for g in plan.guards]
        self.returned = measured(*(d for t in plan.outputs for d in t.shape))

    @property
    def out_type(self) -> str:
        """What `out` points to: addresses of outputs of measured sizes are written there."""
        return "void *" if self.plan.returned else "void *const"

    @property
    def dims_type(self) -> str:
        """What `dims` points to: measured sizes of outputs are written there."""
        return "int64_t" if self.returned else "const int64_t"

    def model_run(self, timed: bool = False) -> str:
        """model_run, or the model_profile of a build for profiling."""
        w, plan = Writer(), self.plan
        name, more = ("model_profile", ", int64_t *stamps") if timed else ("model_run", "")
        arguments = f"const void *weights, const void *const *in, {self.out_type} *out, {self.dims_type} *dims,"
        w.line(f"GF_API int {name}({arguments}")
        with self.sizes.function(w, f"                     void *arena, gf_pool *pool{more})"):
            for name in ("weights", "in", "out", "arena", "pool"):
                w.line(f"(void){name};")
            if self.embed_weights:
                w.line("if (weights == NULL) weights = model_weights;")
            for s in self.sizes.measured:
                w.line(f"int64_t {self.sizes.names[s]} = 0;")
                w.line(f"(void){self.sizes.names[s]};")
            self.places.declare(w)
            at = _Progress()
            self._guards(w, plan.guards, at)
            w.line(f"char *const scratch = (char *)arena + {self.sizes.text(add(self.places.head, plan.arena.size))};")
            w.line("(void)scratch;")
            inner, first = plan.inner_calls, len(plan.calls) + 1
            self._laps = {id(call): first + 2 * k for k, call in enumerate(inner)} if timed else {}
            if self._laps:
                w.line(f"for (int k = {first}; k < {first + 2 * len(inner)}; ++k) stamps[k] = 0;")
            for k, call in enumerate(plan.calls):
                if timed:
                    w.line(f"stamps[{k}] = gf_nanoseconds();")
                self._call(w, plan, call, at)
            if timed:
                w.line(f"stamps[{len(plan.calls)}] = gf_nanoseconds();")
            self._learn(w, plan, plan.learns, at)
            for k, s in enumerate(self.sizes.measured if timed else ()):
                w.line(f"stamps[{first + 2 * len(inner) + k}] = {self.sizes.names[s]};")
            for k, view in plan.returned.items():
                w.line(f"out[{k}] = {self.places.pointer(view)};")
            for k, s in enumerate(self.returned):
                w.line(f"dims[{len(self.sizes.symbols) + k}] = {self.sizes.names[s]};")
            w.line("return 0;")
        return w.text()

    # ------------------------------------------------------------------ sizes and memory

    def _guards(self, w: Writer, guards: Sequence[Guard], at: _Progress) -> None:
        """The guards whose sizes are all known by now."""
        for g in guards:
            if id(g) not in at.guarded and all(s in at.known for s in measured(g.left, g.right)):
                at.guarded.add(id(g))
                fails = ">" if g.at_most else "!="
                failed = f"{self.sizes.text(g.left)} {fails} {self.sizes.text(g.right)}"
                w.line(f"if ({failed}) return {self._status(g.message)};")

    def _learn(self, w: Writer, plan: Plan, learns: Sequence[Read | Assign], at: _Progress) -> None:
        """Measured sizes get their values; those that come from data are checked."""
        for x in learns:
            at.known.add(x.symbol)
            name = self.sizes.names[x.symbol]
            if isinstance(x, Assign):
                w.line(f"{name} = {self.sizes.text(x.value)};")
                continue
            view = x.view
            element = mul(x.index, view.strides[0]) if view.strides else 0
            place = f"(const {c_type(view.dtype)} *)({self.places.pointer(view)})"
            w.line(f"{name} = (int64_t)({place})[{self.sizes.text(element)}];")
            message = f"{x.node}: a size that it computes is negative, or beyond all memory"
            w.line(f"if ({name} < 0 || {name} > GF_MOST_BYTES) return {self._status(message)};")
        if learns:
            self._guards(w, plan.guards, at)

    def _status(self, message: str) -> int:
        """What model_run returns to say so."""
        if message not in self.messages:
            self.messages.append(message)
        return self.messages.index(message) + 1

    def _take(self, w: Writer, call: Call, at: _Progress) -> None:
        """Memory for what the call is the first to name, where the size is known only now."""
        for p in call.code.pointers:
            buffer = p.buffer if isinstance(p, View) else None
            if buffer is None or not at.known.issuperset(measured(buffer.elements)):
                continue
            if not self.places.is_grown(buffer):  # a branch may know the size of what is measured outside
                continue
            name = self.places.variable(buffer)
            if name is not None and name not in at.taken:
                at.taken.add(name)
                self.places.grow(w, buffer, self.sizes.saturating(buffer.bytes))

    # ------------------------------------------------------------------ calls

    def _call(self, w: Writer, plan: Plan, call: Call, at: _Progress) -> None:
        code = call.code
        self._learn(w, plan, call.learns, at)
        self._take(w, call, at)
        if call.control is not None:
            w.comment(f"{call.label}: {', '.join(call.nodes)}")
            with w.block():
                if isinstance(call.control, Choice):
                    self._choice(w, call.control, at)
                else:
                    self._repeat(w, call, call.control, at)
            return
        name = self._kernel(code)
        w.comment(f"{call.label}: {', '.join(call.nodes)}" if call.nodes else call.label)
        with w.block():
            w.line("void *const p[] = {")
            for p in code.pointers:
                w.line(f"  (void *)({self.places.pointer(p)}),")
            w.line("};")
            dims = "NULL"
            if code.dims:
                const = "const " if code.repeat == 1 else ""
                w.line(f"{const}int64_t d[] = {{" + ", ".join(self.sizes.text(d) for d in code.dims) + "};")
                dims = "d"
            scratch = self.sizes.text(aligned(code.scratch))
            if measured(code.scratch):
                threads = "(pool == NULL ? 1 : gf_pool_threads(pool))"
                size = f"gf_mul_sat({self.sizes.saturating(aligned(code.scratch))}, {threads})"
                w.line(f"char *const scratch = gf_take(&slots[{self.places.slots - 1}], {size}, 0);")
                w.line("if (scratch == NULL) return -1;")
            split = (
                f"{self.sizes.text(code.rows)}, {code.row_grain}, {self.sizes.text(code.columns)}, {code.column_grain}"
            )
            if code.repeat != 1:
                w.line(f"for (; d[0] < {self.sizes.text(code.repeat)}; ++d[0])")
            fork = "gf_parallel_cols" if code.columns_first else "gf_parallel"
            w.line(f"{fork}(pool, {name}, p, {dims}, {split}, {self.sizes.text(code.work)}, scratch, {scratch});")

    def _kernel(self, code: KernelCode) -> str:
        for part in code.parts:
            self._kernel(part)
        name = code.name
        text = code.source.replace("@NAME@", name)
        if self.kernels.setdefault(name, text) != text:
            raise InternalError("two kernels have the same digest", where=name)
        return name

    # ------------------------------------------------------------------ control flow

    def _choice(self, w: Writer, control: Choice, at: _Progress) -> None:
        progress = [at.copy() for _ in control.bodies]
        with w.block(f"if (*(const uint8_t *)({self.places.pointer(control.condition)}))"):
            self._body(w, control.bodies[0], progress[0])
        with w.block("else"):
            self._body(w, control.bodies[1], progress[1])
        for end in progress:
            at.known |= end.known
            at.taken |= end.taken

    def _repeat(self, w: Writer, call: Call, control: Repeat, at: _Progress) -> None:
        number = self.sizes.names[control.number]
        at.known |= {control.number, *(name for c in control.carriers for name in c.sizes)}
        at.taken |= self._names(c.before for c in control.carriers)
        ends = control.condition is not None or control.goes_on is not None
        if ends:
            start = (
                "1" if control.condition is None else f"*(const uint8_t *)({self.places.pointer(control.condition)})"
            )
            w.line(f"int going = {start};")
        conditions = [] if control.trips is None else [f"{number} < {self.sizes.text(control.trips)}"]
        with w.block(f"for ({number} = 0; {' && '.join([*conditions, *(['going'] if ends else [])])}; ++{number})"):
            inside = at.copy()
            if self.places.stoppable:
                w.line(f"if (__atomic_load_n(stop, __ATOMIC_RELAXED)) return {STOPPED};")
            self._body(w, control.bodies[0], inside)
            for x in control.appended:
                self._add_row(w, control, x, call)
            if control.goes_on is not None:
                w.line(f"going = *(const uint8_t *)({self.places.pointer(control.goes_on)});")
            self._advance(w, control)
        if control.count in self.sizes.measured:
            w.line(f"{self.sizes.names[control.count]} = {number};")
        at.known.add(control.count)
        at.known |= {name for x in control.appended for name in x.sizes}
        at.taken |= self._names(x.stack.buffer for x in control.appended)

    def _add_row(self, w: Writer, control: Repeat, x: Appended, call: Call) -> None:
        """Put what an iteration adds to a stack behind the rows of those before."""
        number = symbol_named(control.number)
        for name, size in x.sizes.items():
            mine, now = self.sizes.names[name], self.sizes.text(size)
            w.line(f"if ({self.sizes.names[control.number]} == 0) {mine} = {now};")
            message = f"{call.nodes[0]}: what it stacks has another shape in every iteration"
            w.line(f"if ({mine} != {now}) return {self._status(message)};")
        row = mul(product(x.stack.shape[1:]), item_bytes(x.stack.dtype))
        bytes_each, so_far = self.sizes.text(row), self.sizes.text(mul(number, row))
        self.places.grow(w, x.stack.buffer, self.sizes.saturating(mul(number + 1, row)), so_far)
        end = f"{self.places.variable(x.stack.buffer)} + {so_far}"
        w.line(f"if ({bytes_each} > 0) memcpy({end}, {self.places.pointer(x.part)}, (size_t){bytes_each});")

    def _advance(self, w: Writer, control: Repeat) -> None:
        """What an iteration made becomes what the next one begins with."""
        changes = {name: size for c in control.carriers for name, size in c.sizes.items()}
        for name, size in changes.items():
            w.line(f"const int64_t after{name} = {self.sizes.text(size)};")
        for name in changes:
            w.line(f"{self.sizes.names[name]} = after{name};")
        for c in control.carriers:
            if c.after is not None:
                self.places.swap(w, c.before, c.after)

    def _body(self, w: Writer, plan: Plan, at: _Progress) -> None:
        self._guards(w, plan.guards, at)
        clock = w.fresh("clock") if self._laps and plan.calls else ""
        if clock:
            w.line(f"int64_t {clock} = gf_nanoseconds();")
        for call in plan.calls:
            self._call(w, plan, call, at)
            if clock:
                w.line(f"gf_lap(stamps + {self._laps[id(call)]}, &{clock});")
        self._learn(w, plan, plan.learns, at)

    def _names(self, buffers: Iterable[Buffer]) -> set[str]:
        return {name for buffer in buffers if (name := self.places.variable(buffer)) is not None}
