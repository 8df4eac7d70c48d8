"""What the operators, outputs and dimensions of a program of torch.export are called."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# What only reads sizes, checks them, or takes tuples apart: no work of the user's.
_SILENT = re.compile(r"aten\.sym_|aten\._assert|_operator\.|<built-in|math\.|torch\.sym_|aten\._check|_guard")


@dataclasses.dataclass(frozen=True)
class Operators:
    """types: the user's operators, name -> type, in order; names: (id of the FX graph, node) -> operator."""

    types: dict[str, str]
    names: Mapping[tuple[int, str], str]


def find_operators(program: Any) -> Operators:
    """Every operator of a program, under the path of the module that it stands in.

    "layer1.0.bn2" for the only operator of a module without others inside, else "layer1.0/add", numbered where there
    are several. Types are aten's: "aten.conv2d".
    """
    nodes = [
        (id(module.graph), node)
        for _, module in program.graph_module.named_modules()
        if hasattr(module, "graph")
        for node in module.graph.nodes
        if _is_operator(node)
    ]
    paths = [module_path(node) for _, node in nodes]
    single = {path for path in paths if path and paths.count(path) == 1 and not _has_inner(path, paths)}
    types: dict[str, str] = {}
    names: dict[tuple[int, str], str] = {}
    for (graph, node), path in zip(nodes, paths, strict=True):
        kind = operator_type(node)
        wanted = path if path in single else "/".join(part for part in (path, kind.rpartition(".")[2]) if part)
        name, k = wanted, 2
        while name in types:
            name, k = f"{wanted}_{k}", k + 1
        types[name] = kind
        names[graph, node.name] = name
    return Operators(types, names)


def operators_of(graph: Any, operators: Operators) -> dict[str, str]:
    """The FX nodes of a graph that torch made of the program's: node -> the user's operator."""
    found = {}
    for node in graph.nodes:
        for key in ((id(graph), node.name), *_provenance(node.meta.get("from_node") or ())):
            if key in operators.names:
                found[node.name] = operators.names[key]
                break
    return found


def _provenance(sources: Sequence[Any]) -> Iterator[tuple[int, str]]:
    for source in sources:
        yield source.graph_id, source.name
        yield from _provenance(source.from_node)


def _is_operator(node: Any) -> bool:
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    value = node.meta.get("val")
    return not _SILENT.match(_target(node)) and not isinstance(value, int | float | bool) and not _is_size(value)


def _is_size(value: Any) -> bool:
    return type(value).__name__ in ("SymInt", "SymFloat", "SymBool")


def _target(node: Any) -> str:
    target = node.target
    if isinstance(target, str) or hasattr(target, "_schema"):
        return str(target)
    module = getattr(target, "__module__", "") or ""
    return (
        f"{module}.{getattr(target, '__name__', target)}" if module.startswith(("_operator", "math")) else str(target)
    )


def operator_type(node: Any) -> str:
    """The type of an operator: "aten.add", without the overload; "torch.cond" for control flow."""
    target = node.target
    if not hasattr(target, "_schema"):
        return f"torch.{getattr(target, '__name__', target)}"
    space, _, rest = str(target).partition(".")
    return f"{space}.{rest.partition('.')[0]}"


def module_path(node: Any) -> str:
    """The path of the module that an operator stands in, "" for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    if path == "_empty_nn_module_stack_from_metadata_hook":
        return ""
    return clean_path(path)


def clean_path(path: str) -> str:
    """A module's path as its user writes it: "layer1.0", whatever Dynamo makes of it."""
    path = re.sub(r"^L__self__|^[LG]\['\w+'\]", "", path)
    path = re.sub(r"_modules\['([^']*)'\]", r"\1", path)
    path = re.sub(r"\['([^']*)'\]|\[(\d+)\]", lambda m: f".{m[1] or m[2]}", path)
    return re.sub(r"@\d+", "", path).strip("._")


def _has_inner(path: str, paths: Sequence[str]) -> bool:
    return any(other.startswith(f"{path}.") for other in paths)


def output_names(program: Any, count: int) -> list[str]:
    """Names for the outputs that are tensors or sizes, by their place in what the program returns: "logits", "0"."""
    from torch.utils import _pytree as pytree

    specs = [s for s in program.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"]
    spec = program.call_spec.out_spec
    names = []
    if spec is not None and spec.num_leaves == len(specs):
        leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(len(specs))), spec))
        paths = {leaf: path for path, leaf in leaves}
        names = [_joined(paths[k]) for k, s in enumerate(specs) if not hasattr(s.arg, "value")]
    if len(names) != count:
        names = [f"output_{k}" for k in range(count)] if count > 1 else ["output"]
    return names


def _joined(path: Sequence[Any]) -> str:
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return "_".join(parts) if parts and not parts[0].isdigit() else "_".join(["output", *parts])


def symbol_names(program: Any) -> dict[str, str]:
    """Sizes that the user named, Dim("batch"): the program's symbol -> the name. A file has none."""
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        env = getattr(mode, "shape_env", None)
        if env is None:
            continue
        names = getattr(env, "source_name_to_debug_name", {})
        symbols = getattr(env, "source_to_var", {})
        found = {str(symbol): names[source] for source, symbol in symbols.items() if source in names}
        return {symbol: name for symbol, name in found.items() if re.fullmatch(r"[A-Za-z]\w*", name)}
    return {}
