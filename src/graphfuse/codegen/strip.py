"""A chain of kernels as one: each strip of lines of the last result, and of all results before it what the strip needs.

The results in between live in scratch as a window of lines that moves down the image: what the next strip needs again
is kept, so within a thread nothing is computed twice. A kernel addresses lines by their number in the whole image; it
is given a pointer from which that number leads into the window.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphfuse.codegen.params import Params
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, add, ceildiv, maximum, mul
from graphfuse.graph.dtypes import item_bytes
from graphfuse.plan.memory import aligned
from graphfuse.plan.site import SIGNATURE, KernelCode
from graphfuse.plan.strips import Link


def windows(links: Sequence[Link], height: int) -> list[int]:
    """Lines that are held of each result but the last, for strips of `height` rows of the last kernel."""
    found: list[int] = []
    needed = height * links[-1].lines.lines_per_row
    for link, reader in zip(reversed(links[:-1]), reversed(links[1:]), strict=True):
        needed = (needed - 1) * reader.lines.stride + reader.lines.extent
        group = link.lines.lines_per_row
        needed = -(-(needed + group - 1) // group) * group
        if isinstance(link.lines.height, int):
            needed = min(needed, link.lines.height)
        found.append(needed)
    return found[::-1]


def scratch_bytes(links: Sequence[Link], height: int) -> Dim:
    """The scratch of one thread: the windows, and the largest scratch that a kernel of the chain wants for itself."""
    return add(_window_bytes(links, height), _own_scratch(links))


def emit(links: Sequence[Link], height: int) -> KernelCode:
    """The chain as one kernel, whose rows are those of its last (lines, or groups of lines).

    Each link's source is the result of the one before; both have lines without gaps, image after image.
    """
    return _Strip(links, height).emit()


def _line_bytes(link: Link) -> Dim:
    return mul(link.result.strides[link.lines.axis], item_bytes(link.result.dtype))


def _window_bytes(links: Sequence[Link], height: int) -> Dim:
    total: Dim = 0
    for link, lines in zip(links[:-1], windows(links, height), strict=True):
        total = add(total, aligned(mul(lines, _line_bytes(link))))
    return total


def _own_scratch(links: Sequence[Link]) -> Dim:
    sizes = list(dict.fromkeys(aligned(link.code.scratch) for link in links))
    return maximum(*sizes) if len(sizes) > 1 else sizes[0]


class _Strip:
    """Names in the C: u = rows of the last kernel; for result k: [top_k, bottom_k) = the lines that are computed for
    this strip, [base_k, end_k) = the lines that the window holds, keep_k = the first line still needed."""

    def __init__(self, links: Sequence[Link], height: int) -> None:
        self.links, self.height = links, height
        self.windows = windows(links, height)
        self.last = len(links) - 1

    def emit(self) -> KernelCode:
        whole = Writer()
        whole.line("/* a chain, strip by strip */")
        for name in dict.fromkeys(link.code.name for link in self.links):
            whole.line(f"{SIGNATURE.replace('@NAME@', name)};")
        whole.line(SIGNATURE)
        with whole.block():
            whole.line("(void)p, (void)d, (void)c0, (void)c1;")
            head = whole.section()
            self.params = Params(head)
            self._declare_arguments(whole)
            self._write(whole)
        steps = len(self.links)
        own = " > ".join(link.code.describe for link in self.links)
        return KernelCode(
            hint=f"strip{steps}_{self.height}",
            source=whole.text(),
            pointers=self.params.pointers,
            dims=self.params.dims,
            rows=mul(self.links[-1].lines.images, self._groups(self.last)),
            work=self._work(),
            scratch=scratch_bytes(self.links, self.height),
            describe=f"strips of {self.height * self.links[-1].lines.lines_per_row} lines: {own}",
            parts=tuple(link.code for link in self.links),
        )

    def _work(self) -> Dim:
        total: Dim = 0
        for link in self.links:
            total = add(total, link.code.work)
        return total

    def _groups(self, k: int) -> Dim:
        lines = self.links[k].lines
        return ceildiv(lines.height, lines.lines_per_row)

    # ------------------------------------------------------------------ arguments

    def _declare_arguments(self, w: Writer) -> None:
        """The arguments of every kernel; p{k}[out] and the source of the next are set when the window is placed."""
        sources = [None, *(link.result for link in self.links[:-1])]
        results = [*(link.result for link in self.links[:-1]), None]
        self.holes: dict[int, list[tuple[int, int]]] = {k: [] for k in range(self.last)}
        self.first_dim: list[int] = []
        for k, link in enumerate(self.links):
            texts: list[str] = []
            for position, pointer in enumerate(link.code.pointers):
                if k > 0 and pointer == sources[k]:
                    self.holes[k - 1].append((k, position))
                    texts.append("NULL")
                elif k < self.last and pointer == results[k]:
                    self.holes[k].append((k, position))
                    texts.append("NULL")
                else:
                    texts.append(f"p[{self._pointer(pointer)}]")
            w.line(f"void *p_{k}[] = {{{', '.join(texts)}}};")
            self.first_dim.append(len(self.params.dims))
            self.params.dims.extend(link.code.dims)
        offset: Dim = 0
        for k, lines in enumerate(self.windows):
            w.line(f"char *const window_{k} = scratch + {self.params.dim(offset)};")
            offset = add(offset, aligned(mul(lines, _line_bytes(self.links[k]))))
        w.line(f"char *const own = scratch + {self.params.dim(offset)};")

    def _pointer(self, pointer: object) -> int:
        if pointer not in self.params.pointers:
            self.params.pointers.append(pointer)
        return self.params.pointers.index(pointer)

    # ------------------------------------------------------------------ loops

    def _write(self, w: Writer) -> None:
        groups = self.params.dim(self._groups(self.last))
        with w.block("for (int64_t u = r0; u < r1;)"):
            w.line(f"const int64_t image = u / {groups}, first = u % {groups};")
            w.line(f"const int64_t stop = gf_min64({groups}, first + r1 - u);")
            w.line("u += stop - first;")
            for k in range(self.last):
                w.line(f"int64_t base_{k} = 0, end_{k} = 0;")
            with w.loop("a", "first", "stop", str(self.height)):
                self._strip(w)

    def _strip(self, w: Writer) -> None:
        lines = self.links[-1].lines
        per_row, height = lines.lines_per_row, self.params.dim(lines.height)
        w.line(f"const int64_t b = gf_min64(a + {self.height}, stop);")
        bottom = "b" if per_row == 1 else f"gf_min64(b * {per_row}, {height})"
        top = "a" if per_row == 1 else f"a * {per_row}"
        w.line(f"const int64_t top_{self.last} = {top}, bottom_{self.last} = {bottom};")
        for k in reversed(range(self.last)):
            self._need(w, k)
        for k in range(self.last):
            with w.block(f"if (bottom_{k} > top_{k})"):
                self._place(w, k)
                self._call(w, k)
        self._call(w, self.last)

    def _need(self, w: Writer, k: int) -> None:
        """Which lines of result k have to be computed for the lines of the next that will be."""
        reader, group = self.links[k + 1].lines, self.links[k].lines.lines_per_row
        size, before = self.params.dim(self.links[k].lines.height), self.params.dim(reader.before)
        w.line(f"int64_t top_{k} = 0, bottom_{k} = 0, keep_{k} = 0;")
        with w.block(f"if (bottom_{k + 1} > top_{k + 1})"):
            w.line(f"const int64_t low = gf_max64(0, top_{k + 1} * {reader.stride} - {before});")
            end = f"(bottom_{k + 1} - 1) * {reader.stride} - {before} + {reader.extent}"
            w.line(f"const int64_t high = gf_min64({size}, {end});")
            w.line(f"keep_{k} = low;")
            with w.block(f"if (high > end_{k})"):
                w.line(f"top_{k} = gf_max64(low, end_{k});")
                w.line(f"bottom_{k} = high;")
                if group > 1:
                    w.line(f"top_{k} -= top_{k} % {group};")
                    w.line(f"bottom_{k} = gf_min64({size}, (high + {group - 1}) / {group} * {group});")
                    w.line(f"keep_{k} = gf_min64(keep_{k}, top_{k});")

    def _place(self, w: Writer, k: int) -> None:
        """Move the window of result k down so far that the new lines fit."""
        line = self.params.dim(_line_bytes(self.links[k]))
        with w.block(f"if (bottom_{k} - base_{k} > {self.windows[k]})"):
            kept = f"window_{k} + (keep_{k} - base_{k}) * {line}, (size_t)((end_{k} - keep_{k}) * {line})"
            w.line(f"if (end_{k} > keep_{k}) memmove(window_{k}, {kept});")
            w.line(f"base_{k} = keep_{k};")
        w.line(f"end_{k} = bottom_{k};")
        size = self.params.dim(self.links[k].lines.height)
        skipped = f"(uintptr_t)((image * {size} + base_{k}) * {line})"
        w.line(f"void *const lines = (void *)((uintptr_t)window_{k} - {skipped});")
        for kernel, position in self.holes[k]:
            w.line(f"p_{kernel}[{position}] = lines;")

    def _call(self, w: Writer, k: int) -> None:
        link = self.links[k]
        lines, code = link.lines, link.code
        groups = self.params.dim(self._groups(k))
        if lines.lines_per_row > 1:
            per = lines.lines_per_row
            rows = [f"image * {groups} + top_{k} / {per}", f"image * {groups} + (bottom_{k} + {per - 1}) / {per}"]
        else:
            per_line = "" if lines.rows_per_line == 1 else f" * {self.params.dim(lines.rows_per_line)}"
            rows = [f"(image * {groups} + {edge}_{k}){per_line}" for edge in ("top", "bottom")]
        d = f"d + {self.first_dim[k]}" if code.dims else "NULL"
        columns = self.params.dim(code.columns)
        w.line(f"{code.name}(p_{k}, {d}, {rows[0]}, {rows[1]}, 0, {columns}, own);")
