"""Fusion: which primitives share a kernel.

One forward pass over the tensor program. Every primitive tries to join the region that computes its latest argument;
pointwise regions that feed it are merged in. What it may join depends on the primitives' classes alone, and every
refusal is a verdict with its reason, which becomes the ledger's record of the edge.

Three kinds of region compute:

- `contraction`: a `Contract` with pointwise maps of its own shape behind it, evaluated on the accumulators, and sums
  of its lines where it is a depthwise convolution;
- `rows`: maps, index maps and reductions over one iteration space, evaluated row by row;
- `opaque`: the wanted results of one loop nest.

Views (transpose, reshape, slice, expand) and placements (concat, pad) belong to no region: the planner resolves them
as strides, and makes a copy only where strides can't say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphfuse.fusion.element import is_aligned
from graphfuse.fusion.line_sums import is_line_sum
from graphfuse.fusion.program import Program
from graphfuse.graph.dims import Dim, same_shape
from graphfuse.ops.expr import depends_on
from graphfuse.ops.tensor import (
    Concat,
    Contract,
    Expand,
    IndexMap,
    Map,
    Opaque,
    Pad,
    Reduce,
    Reshape,
    Slice,
    Tensor,
    Transpose,
    variables,
)

# A kernel of more primitives than this gains nothing over two: its values no longer fit the registers.
LARGEST = 128

VIEWS = (Transpose, Reshape, Slice, Expand)
PLACEMENTS = (Concat, Pad)


@dataclass(frozen=True)
class Verdict:
    """Why two primitives do not share a kernel: the failing condition, what failed it, what the user can do."""

    condition: str
    culprit: str = ""
    remedy: str = ""


@dataclass(eq=False)
class Region:
    """A set of primitives that run as one kernel call. `space` is the full iteration shape."""

    kind: str  # contraction | rows | opaque
    tensors: list[Tensor]
    space: tuple[Dim, ...]
    axes: tuple[int, ...] | None = None  # reduced axes of `space`, when it has a reduction
    name: str = ""
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def anchor(self) -> Tensor:
        """The contraction, or the first primitive."""
        return self.tensors[0]

    @property
    def leaves(self) -> list[Tensor]:
        """What the region reads, each once, in order of use."""
        inside = set(map(id, self.tensors))
        return list(dict.fromkeys(a for t in self.tensors for a in t.args if id(a) not in inside))


@dataclass
class Fusion:
    """The result of the fuse stage."""

    program: Program
    regions: list[Region]
    region_of: dict[Tensor, Region]
    verdicts: dict[tuple[Tensor, Tensor], Verdict]
    apart: frozenset[Tensor] = frozenset()  # contractions that nothing may join


def reduced(space: Sequence[Dim], axes: Sequence[int]) -> tuple[Dim, ...]:
    return tuple(1 if k in axes else d for k, d in enumerate(space))


def unit_free(shape: Iterable[Dim]) -> tuple[Dim, ...]:
    return tuple(d for d in shape if not (isinstance(d, int) and d == 1))


def is_unit_reshape(t: Tensor) -> bool:
    """Whether it only adds or drops axes of size 1."""
    return isinstance(t.prim, Reshape) and same_shape(unit_free(t.shape), unit_free(t.args[0].shape))


def fuse(program: Program, apart: frozenset[Tensor] = frozenset(), prefix: str = "") -> Fusion:
    """Partition the program's computing primitives into regions.

    apart: contractions that were measured to be faster without anything computed on their accumulators; prefix: of
    the regions' names.
    """
    fusion = Fusion(program, [], {}, {}, apart)
    for t in program.tensors:
        if isinstance(t.prim, PLACEMENTS):
            continue
        if isinstance(t.prim, VIEWS):
            _join_unit_reshape(fusion, t)
            continue
        _place(fusion, t)
    _finish(fusion, prefix)
    return fusion


def _place(fusion: Fusion, t: Tensor) -> None:
    nest = _nest_region(fusion, t)
    if nest is not None:
        _add(fusion, nest, t)
        return
    for a in _latest_first(fusion, t.args):
        region = fusion.region_of[a]
        if t in region.tensors:
            continue
        verdict = _may_join(fusion, region, t, a)
        if verdict is None:
            _add(fusion, region, t)
            _merge_feeders(fusion, region, t)
            return
        fusion.verdicts[a, t] = verdict
    _start(fusion, t)


def _nest_region(fusion: Fusion, t: Tensor) -> Region | None:
    """The region of the loop nest that `t` is another result of: it reads the same, so no cycle can arise."""
    if not isinstance(t.prim, Opaque):
        return None
    for region in reversed(fusion.regions):
        prim = region.anchor.prim
        if isinstance(prim, Opaque) and prim.nest is t.prim.nest:
            return region
    return None


def _latest_first(fusion: Fusion, args: Iterable[Tensor]) -> list[Tensor]:
    inside = [a for a in dict.fromkeys(args) if a in fusion.region_of]
    return sorted(inside, key=lambda a: -fusion.program.position[a])


def _start(fusion: Fusion, t: Tensor) -> None:
    if isinstance(t.prim, Contract):
        region = Region("contraction", [t], t.shape)
    elif isinstance(t.prim, Opaque):
        region = Region("opaque", [t], t.shape)
    elif isinstance(t.prim, Reduce):
        region = Region("rows", [t], t.args[0].shape, t.prim.axes)
    else:
        region = Region("rows", [t], t.shape)
    fusion.regions.append(region)
    fusion.region_of[t] = region


def _add(fusion: Fusion, region: Region, t: Tensor) -> None:
    region.tensors.append(t)
    fusion.region_of[t] = region
    if isinstance(t.prim, Reduce) and region.kind == "rows":
        region.axes = t.prim.axes


def _join_unit_reshape(fusion: Fusion, t: Tensor) -> None:
    """A squeeze or unsqueeze of a per-row value stays in its region, so that what follows can join too."""
    region = fusion.region_of.get(t.args[0])
    if region is None or region.kind != "rows" or region.axes is None or not is_unit_reshape(t):
        return
    if not _same_level(fusion, region, t):
        return
    if same_shape(unit_free(t.shape), unit_free(reduced(region.space, region.axes))):
        _add(fusion, region, t)


# ---------------------------------------------------------------- legality


def _may_join(fusion: Fusion, region: Region, t: Tensor, a: Tensor) -> Verdict | None:
    """None when `t` may join the region of its argument `a`."""
    name = fusion.program.name
    if len(region.tensors) >= LARGEST:
        return Verdict("the region is full", f"{LARGEST} primitives")
    if not _same_level(fusion, region, t):
        return Verdict("a size that it needs is read from memory in between", name(t))
    if region.kind == "opaque":
        return Verdict("the producer is a loop nest of its own", name(a))
    if isinstance(t.prim, Opaque):
        return Verdict(f"a {t.prim.nest.name} is a loop nest of its own", name(t))
    if isinstance(t.prim, Contract):
        return Verdict("a contraction starts its own region", name(t))
    if isinstance(t.prim, IndexMap):
        return Verdict("an index map reads its argument from memory", name(t))
    if region.kind == "contraction":
        verdict = _fits_epilogue(fusion, region, t)
    elif isinstance(t.prim, Reduce):
        verdict = _fits_reduce(fusion, region, t, a)
    else:
        verdict = _fits_rows(fusion, region, t)
    return verdict or _no_cycle(fusion, region, t.args, a)


def _same_level(fusion: Fusion, region: Region, t: Tensor) -> bool:
    level = fusion.program.level
    return level.get(t, 0) == level.get(region.anchor, 0)


def _fits_epilogue(fusion: Fusion, region: Region, t: Tensor) -> Verdict | None:
    if region.anchor in fusion.apart:
        return Verdict("together they were measured to be slower", fusion.program.name(region.anchor))
    if is_line_sum(t, region.anchor) and same_shape(t.args[0].shape, region.space):
        return None
    if not isinstance(t.prim, Map):
        return Verdict("only pointwise ops run on accumulators", fusion.program.name(t))
    if any(isinstance(a.prim, Reduce) and fusion.region_of.get(a) is region for a in t.args):
        return Verdict("a sum is complete only when its line is done", fusion.program.name(t))
    if not same_shape(t.shape, region.space):
        return Verdict("the shapes differ", f"{_text(region.space)} -> {_text(t.shape)}")
    return None


def _fits_reduce(fusion: Fusion, region: Region, t: Tensor, a: Tensor) -> Verdict | None:
    assert isinstance(t.prim, Reduce)
    if not same_shape(a.shape, region.space):
        return Verdict("the reduction is over another space", f"{_text(region.space)} -> {_text(a.shape)}")
    if region.axes is not None and region.axes != t.prim.axes:
        return Verdict("the reductions are over different axes", f"{region.axes} and {t.prim.axes}")
    return _misaligned(fusion, region, [t])


def _fits_rows(fusion: Fusion, region: Region, t: Tensor) -> Verdict | None:
    if same_shape(t.shape, region.space):
        return _misaligned(fusion, region, [t])
    if region.axes is not None and same_shape(unit_free(t.shape), unit_free(reduced(region.space, region.axes))):
        return _misaligned(fusion, region, [t])
    return Verdict("the shapes differ", f"{_text(region.space)} -> {_text(t.shape)}")


def _misaligned(fusion: Fusion, region: Region, more: Sequence[Tensor]) -> Verdict | None:
    axes_free = region.axes is None and not any(isinstance(t.prim, Reduce) for t in more)
    if axes_free or is_aligned([*region.tensors, *more], region.space):
        return None
    return Verdict("a value made once per row is read at another row", fusion.program.name(more[0]))


def _no_cycle(fusion: Fusion, region: Region, args: Sequence[Tensor], a: Tensor) -> Verdict | None:
    """Refuse when another argument needs this region's result on the way: the kernel would wait for itself."""
    for other in args:
        if fusion.region_of.get(other) is not region and _depends(fusion, other, region):
            return Verdict(
                "another operand depends on this region's result",
                fusion.program.name(other),
                "it is computed from this very value in between, so the value has to exist in memory",
            )
    return None


def _depends(fusion: Fusion, t: Tensor, region: Region) -> bool:
    """Whether a tensor outside the region needs anything inside it; regions are entered and left as wholes."""
    first = min(fusion.program.position[x] for x in region.tensors)
    seen: set[int] = set()
    stack = [t]
    while stack:
        x = stack.pop()
        if x.prim is None or id(x) in seen:
            continue
        owner = fusion.region_of.get(x)
        if owner is region:
            return True
        members = [x] if owner is None else owner.tensors
        if max(fusion.program.position[m] for m in members) < first:
            continue
        for m in members:
            seen.add(id(m))
            stack += m.args
    return False


def _merge_feeders(fusion: Fusion, region: Region, t: Tensor) -> None:
    """Draw pointwise regions of the same space that feed `t` into its region."""
    for a in dict.fromkeys(t.args):
        feeder = fusion.region_of.get(a)
        if feeder is None or feeder is region:
            continue
        verdict = _may_merge(fusion, region, feeder, t)
        if verdict is None:
            _merge(fusion, region, feeder)
        else:
            fusion.verdicts[a, t] = verdict


def _may_merge(fusion: Fusion, region: Region, feeder: Region, t: Tensor) -> Verdict | None:
    name = fusion.program.name
    if len(region.tensors) + len(feeder.tensors) > LARGEST:
        return Verdict("the region is full", f"{LARGEST} primitives")
    if not _same_level(fusion, region, feeder.anchor):
        return Verdict("a size is read from memory in between", name(feeder.anchor))
    if feeder.kind != "rows" or (region.kind == "contraction" and feeder.axes is not None):
        return Verdict("both regions have a contraction or reduction of their own", name(feeder.anchor))
    for x in feeder.tensors:
        verdict = _may_inline(fusion, region, feeder, x, t) if isinstance(x.prim, IndexMap) else None
        if verdict is not None:
            return verdict
    if not same_shape(feeder.space, region.space):
        return Verdict("the shapes differ", f"{_text(feeder.space)} -> {_text(region.space)}")
    if None not in (feeder.axes, region.axes) and feeder.axes != region.axes:
        return Verdict("the reductions are over different axes", f"{feeder.axes} and {region.axes}")
    misaligned = _misaligned(fusion, region, [x for x in feeder.tensors if x not in region.tensors])
    if misaligned is not None and region.kind == "rows":
        return misaligned
    if region.kind == "contraction" and any(_depends(fusion, a, feeder) for a in region.anchor.args):
        return Verdict("the contraction reads it, or what is made of it, from memory", name(feeder.anchor))
    # A path from one region through a third back to the other would close a cycle.
    if _depends_through_outside(fusion, region, feeder) or _depends_through_outside(fusion, feeder, region):
        return Verdict("a third region stands between the two", name(feeder.anchor))
    return None


def _may_inline(fusion: Fusion, region: Region, feeder: Region, x: Tensor, t: Tensor) -> Verdict | None:
    """Whether an index map of a feeder may be computed inside the region, element by element, at no more work."""
    if is_unit_reshape(x):
        return None
    inside = {id(m) for m in [*region.tensors, *feeder.tensors, t]}
    for member in feeder.tensors:
        outside = fusion.program.is_kept(member)
        if outside or any(id(c) not in inside for c in fusion.program.consumers.get(member, [])):
            return Verdict("an index map computes its elements once, for every reader", fusion.program.name(x))
    if region.kind == "contraction" and not _keeps_channels(x):
        return Verdict("the index map moves elements along the lanes of the accumulators", fusion.program.name(x))
    return None


def _keeps_channels(x: Tensor) -> bool:
    """Whether the lane axis of a contraction (channels of an image, else the last) is left as it is."""
    assert isinstance(x.prim, IndexMap)
    index = variables(x.rank)
    lane = 1 if x.rank >= 3 else x.rank - 1
    inner, guard = x.prim.at(index)
    if x.args[0].rank != x.rank or guard is not None or len(x.args) != 1:
        return False
    return inner[lane] == index[lane] and not any(depends_on(e, index[lane]) for k, e in enumerate(inner) if k != lane)


def _depends_through_outside(fusion: Fusion, region: Region, other: Region) -> bool:
    inside = set(map(id, region.tensors + other.tensors))
    outside = [a for t in region.tensors for a in t.args if id(a) not in inside]
    return any(_depends(fusion, a, other) for a in dict.fromkeys(outside))


def _merge(fusion: Fusion, region: Region, feeder: Region) -> None:
    first = region.tensors[:1] if region.kind == "contraction" else []
    rest = [t for t in region.tensors + feeder.tensors if t not in first]
    region.tensors = first + sorted(rest, key=lambda t: fusion.program.position[t])
    region.axes = region.axes if region.axes is not None else feeder.axes
    for t in feeder.tensors:
        fusion.region_of[t] = region
    fusion.regions.remove(feeder)


# ---------------------------------------------------------------- order and outputs


def _finish(fusion: Fusion, prefix: str) -> None:
    program = fusion.program
    for region in fusion.regions:
        inside = set(map(id, region.tensors))
        region.outputs = [
            t
            for t in region.tensors
            if program.is_kept(t) or any(id(c) not in inside for c in program.consumers.get(t, []))
        ]
    fusion.regions = _sorted(fusion)
    for k, region in enumerate(fusion.regions):
        region.name = f"{prefix}R{k}"


def _sorted(fusion: Fusion) -> list[Region]:
    """Regions in an order of execution: depth first from the outputs, arguments in program order."""
    done: dict[int, None] = {}
    order: list[Region] = []
    for root in sorted(fusion.regions, key=lambda r: min(fusion.program.position[t] for t in r.tensors)):
        stack: list[tuple[Region, bool]] = [(root, False)]
        while stack:
            region, ready = stack.pop()
            if ready:
                order.append(region)
                continue
            if id(region) in done:
                continue
            done[id(region)] = None
            stack.append((region, True))
            stack += [(r, False) for r in reversed(producers(fusion, region)) if id(r) not in done]
    return order


def producers(fusion: Fusion, region: Region) -> list[Region]:
    """The regions whose results a region reads, directly or through views and placements."""
    found: dict[Region, None] = {}
    sizes = dict.fromkeys(s for t in region.tensors for s in fusion.program.sources(t))
    stack = [*reversed(sizes), *reversed(region.leaves)]
    while stack:
        t = stack.pop()
        owner = fusion.region_of.get(t)
        if owner is not None:
            found[owner] = None
        else:
            stack += [*fusion.program.sources(t), *reversed(t.args)]
    return list(found)


def _text(shape: Sequence[Dim]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
