"""Where the buffers of a plan are, as C expressions: in the arena, in slots that grow, behind pointers that change."""

from __future__ import annotations

from graphfuse.codegen.sizes import Sizes
from graphfuse.codegen.weights import Weights
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import add, measured
from graphfuse.graph.dtypes import item_bytes
from graphfuse.plan.calls import Plan, Repeat
from graphfuse.plan.memory import aligned
from graphfuse.plan.site import Packed
from graphfuse.plan.view import Buffer, View

_SLOT_BYTES = 24  # of a gf_slot
_STOP_BYTES = 8  # of the word by which a run is stopped


class Places:
    """The memory of a plan and of the bodies in it.

    slots: how many there are; the last is for scratch of measured size, where a call wants such. stoppable: whether a
    loop may run so long that one wants to stop it. head: the bytes that this takes at the beginning of the arena.
    """

    def __init__(self, plan: Plan, sizes: Sizes, weights: Weights) -> None:
        self.plan, self.sizes, self.weights = plan, sizes, weights
        calls = list(plan.every_call)
        self._plans = list(plan.every_plan)
        self._pointers: dict[Buffer, str] = {}  # of loops' carried values
        for c in (c for call in calls if isinstance(call.control, Repeat) for c in call.control.carriers):
            self._pointers[c.before] = f"carried_{len(self._pointers)}"
            if c.after is not None:
                self._pointers[c.after] = f"next_{len(self._pointers)}"
        behind = {place for buffer in self._pointers for place in buffer.behind}
        others = [buffer for buffer in plan.arena.slots if buffer not in behind]
        # A result in the place of an operand is the same memory under the same name.
        homes = {buffer: self._home(buffer) for buffer in others}
        names = {home: f"memory_{k}" for k, home in enumerate(dict.fromkeys(homes.values()))}
        self._grown = {buffer: names[home] for buffer, home in homes.items()}
        late_scratch = any(measured(call.code.scratch) for call in calls)
        self.slots = max(plan.arena.slots.values(), default=-1) + 1 + late_scratch
        self.stoppable = any(isinstance(call.control, Repeat) and call.control.is_open for call in calls)
        self.stop = f"(int *)((char *)arena + {self.slots * _SLOT_BYTES})"
        self.head = int(aligned(self.slots * _SLOT_BYTES + self.stoppable * _STOP_BYTES))  # type: ignore[call-overload]

    def _home(self, buffer: Buffer) -> Buffer:
        for plan in self._plans:
            while buffer in plan.homes:
                buffer = plan.homes[buffer]
        return buffer

    def declare(self, w: Writer) -> None:
        """The variables that say where tensors of measured sizes and carried values are."""
        if self.slots:
            w.line("gf_slot *const slots = arena;")
            w.line("(void)slots;")
        if self.stoppable:
            w.line(f"const int *const stop = {self.stop};")
        for name in dict.fromkeys(self._grown.values()):
            w.line(f"char *{name} = NULL;")
        for buffer, name in self._pointers.items():
            place = buffer.behind[-1 if name.startswith("next") else 0]
            if place in self.plan.arena.slots:
                w.line(f"char *{name} = NULL;")
                w.line(f"int {name}_slot = {self.plan.arena.slots[place]};")
            else:
                w.line(f"char *{name} = {self._in_arena(place)};")
                w.line(f"(void){name};")

    def variable(self, buffer: Buffer) -> str | None:
        """The variable that says where a buffer is, if one does."""
        place = buffer.resolved
        return self._pointers.get(place) or self._grown.get(place)

    def is_grown(self, buffer: Buffer) -> bool:
        """Whether a buffer's memory is taken while the model runs."""
        place = buffer.resolved
        return all(each in self.plan.arena.slots for each in place.behind or (place,))

    def grow(self, w: Writer, buffer: Buffer, size: str, kept: str = "0") -> None:
        """Have at least so many bytes for a buffer, of which the first `kept` stay as they are."""
        name = self.variable(buffer)
        slot = f"{name}_slot" if buffer.resolved in self._pointers else self.plan.arena.slots[buffer.resolved]
        w.line(f"if (({name} = gf_take(&slots[{slot}], {size}, {kept})) == NULL) return -1;")

    def swap(self, w: Writer, before: Buffer, after: Buffer) -> None:
        """Let two pointers change what they point to."""
        now, then = self._pointers[before], self._pointers[after]
        with w.block():
            w.line(f"char *const place = {now};")
            w.line(f"{now} = {then}, {then} = place;")
            if before.is_measured:
                w.line(f"const int slot = {now}_slot;")
                w.line(f"{now}_slot = {then}_slot, {then}_slot = slot;")

    def pointer(self, p: object) -> str:
        """The address of a view's first element, or of packed weights."""
        if isinstance(p, Packed):
            return f"(const char *)weights + {self.weights.packed(p)}"
        assert isinstance(p, View), p
        base, offset = self._base(p.buffer.resolved), self.sizes.text(p.offset * item_bytes(p.dtype))
        return base if offset == "0" else f"{base} + {offset}"

    def _base(self, buffer: Buffer) -> str:
        variable = self.variable(buffer)
        if variable is not None:
            return variable
        if buffer.kind == "arena" and buffer.is_measured:
            return "(char *)NULL"  # no call names it: it has no elements
        if buffer.kind == "arena" and buffer.elements == 0 and buffer not in self.plan.arena.offsets:
            return "(char *)arena"  # nothing is there, so nothing was placed
        if buffer.kind == "arena":
            return self._in_arena(buffer)
        if buffer.kind == "weight":
            return f"(const char *)weights + {self.weights.constant(self.plan.constants[buffer])}"
        return f"(const char *)in[{buffer.index}]" if buffer.kind == "input" else f"(char *)out[{buffer.index}]"

    def _in_arena(self, buffer: Buffer) -> str:
        return f"(char *)arena + {self.sizes.text(add(self.head, self.plan.arena.offsets[buffer]))}"
