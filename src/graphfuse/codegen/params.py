"""The arguments of one kernel: pointers p[k] and run-time integers d[k], in order of first use."""

from __future__ import annotations

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import DType, c_type


class Params:
    """Declares arguments at the head of the function and remembers what the caller has to pass.

    `pointers` lists what each p[k] is (any hashable key the planner understands), `dims` what each d[k] is.
    """

    def __init__(self, head: Writer) -> None:
        self._head = head
        self._pointer_names: dict[object, str] = {}
        self._declared: dict[object, Writer] = {}  # of pointers that are only read so far
        self._dim_names: dict[Dim, str] = {}
        self.pointers: list[object] = []
        self.dims: list[Dim] = []

    def pointer(self, key: object, dtype: DType, hint: str, *, written: bool = False) -> str:
        """The C name of a pointer argument; what is written anywhere in the function is no pointer to const."""
        if key not in self._pointer_names:
            name = self._head.fresh(hint)
            self._declared[key] = self._head.section()
            self._declared[key].line(f"const {c_type(dtype)} *restrict {name} = p[{len(self.pointers)}];")
            self._pointer_names[key] = name
            self.pointers.append(key)
        if written and key in self._declared:
            # An operand may be read here first, and then be overwritten by a result in its place.
            self._declared.pop(key).replace("const ", "")
        return self._pointer_names[key]

    def alias(self, key: object, name: str) -> None:
        """Let a pointer that is not an argument (a piece of scratch) go by this C name."""
        self._pointer_names[key] = name

    def counter(self) -> str:
        """The C text of the number of the call, for code that is called more than once; it comes ahead of all sizes."""
        assert not self.dims, "d[0] is taken"
        self.dims.append(0)
        return "d[0]"

    def dim(self, value: Dim, hint: str = "n") -> str:
        """A size or stride as C text: a literal when known at compile time, else a run-time integer."""
        if isinstance(value, int):
            return str(value)
        if value not in self._dim_names:
            name = self._head.fresh(hint)
            self._head.line(f"const int64_t {name} = d[{len(self.dims)}];")
            self._dim_names[value] = name
            self.dims.append(value)
        return self._dim_names[value]
