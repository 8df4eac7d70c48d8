"""fuse: a module of PyTorch as a compiled callable that takes its place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphfuse.errors import InputError
from graphfuse.importers.exported import changed_inputs
from graphfuse.importers.exported_names import find_operators
from graphfuse.importers.torch_tensors import to_array, to_tensor, viewed
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions
from graphfuse.runtime.session import Session
from graphfuse.torch.call import Call
from graphfuse.torch.kept import Fused, digest_of, fused
from graphfuse.torch.source import ModuleSource, export
from graphfuse.torch.training import check_mode, check_policies

_NARROW = viewed()
# What an input of another type is converted to where the model wants that, without a loss.
_WIDENED = {torch.int64: (torch.int32, torch.int16, torch.int8, torch.uint8), torch.int32: (torch.int16, torch.int8)}


def fuse(
    module: Any,
    example_inputs: Any = (),
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    batch_norm: str | None = None,
    dropout: str | None = None,
    seed: int = 0,
    **options: Any,
) -> FusedModule:
    """The module compiled: a callable that takes its place for inference.

    module: an nn.Module, or a program of torch.export, which needs no examples; example_inputs: a tuple of arguments,
    or one tensor; kwargs: those by keyword; dynamic_shapes: as torch.export takes them; batch_norm="frozen": use
    running statistics in a module that trains; dropout="keep": go on drawing, from `seed`, other numbers in each call;
    options: fields of `CompileOptions`. Arguments that are no tensors are fixed. Raises InputError for a module in
    training mode that no policy covers, and GraphfuseError.
    """
    chosen = CompileOptions(seed=seed, **options)
    if isinstance(module, torch.export.ExportedProgram):
        args, named = module.example_inputs or ((), {})
        return _fused(module.module(), module, args, named, (None, None), chosen)
    if not isinstance(module, nn.Module):
        remedy = "give an nn.Module; files go to graphfuse.compile"
        raise InputError(f"this is a {type(module).__name__}, expected a module of PyTorch", remedy=remedy)
    check_policies(batch_norm, dropout)
    check_mode(module, type(module).__name__, batch_norm, dropout)
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    policies = (batch_norm, dropout)
    program = export(module, args, kwargs, dynamic_shapes, policies)
    return _fused(module, program, args, kwargs or {}, policies, chosen)


def _fused(
    module: nn.Module,
    program: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    policies: tuple[str | None, str | None],
    options: CompileOptions,
) -> FusedModule:
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    call = Call(program)
    examples = {name: to_array(leaves[k]) for k, name in call.tensors if _is_tensor(leaves, k)}

    def compiled() -> Fused:
        return fused(_digest(program), lambda: ModuleSource(module, program, policies), options, examples)

    return FusedModule(module, compiled, call, policies)


def _is_tensor(leaves: Sequence[Any], k: int) -> bool:
    return k < len(leaves) and isinstance(leaves[k], torch.Tensor)


def _digest(program: Any) -> str:
    graph = program.graph_module.print_readable(print_output=False, include_stride=False)
    lines = [line for line in graph.splitlines() if not line.strip().startswith("#")]
    texts = ["\n".join(lines), str(program.graph_signature), str(program.range_constraints)]
    texts += [str(find_operators(program).types), str(program.call_spec.out_spec)]
    tensors = {**program.state_dict, **program.constants}
    return digest_of(texts, {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)})


class FusedModule(nn.Module):
    """A compiled module. Called as the original is; for inputs that require gradients the original itself is run.

    Parameters and buffers are the original's. `session` is what computes, `ledger` and `certificate` tell how.
    """

    def __init__(
        self,
        module: nn.Module,
        compiled: Callable[[], Fused],
        call: Call,
        policies: tuple[str | None, str | None] = (None, None),
    ) -> None:
        super().__init__()
        self.training = False
        # Not registered: the state of this module is that of the original, under the same names.
        object.__setattr__(self, "original", module)
        self._compile, self._policies, self._call = compiled, policies, call
        self._warned = False
        self._take(compiled())

    def _take(self, compiled: Fused) -> None:
        """Compute with this from now on."""
        call, session = self._call, compiled.session
        self._compiled = compiled
        self._run = session._run if not session.manifest.results else session.__call__
        names = [tensor.name for tensor in session.manifest.inputs]
        places = {name: place for place, name in call.tensors}
        self._places = [places[name] for name in names]
        self._wanted = [call.dtypes[name] for name in names]
        extra = [tensor.name for tensor in session.manifest.outputs][sum(kind != "known" for kind, _ in call.results) :]
        self._changed = [places[name] for name in changed_inputs(extra)]
        # The plainest call, tensors in and one tensor out, needs no trees.
        in_order = self._places == list(range(len(names)))
        self._count = len(names) if call.plain and in_order and call.single and not self._changed else -1

    original: nn.Module

    @property
    def session(self) -> Session:
        """What computes, on NumPy arrays."""
        return self._compiled.session

    @property
    def ledger(self) -> Ledger:
        """What became of every operator of the module, and why."""
        return self._compiled.ledger

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """What verification against the module found; None where it was left out."""
        return self._compiled.certificate

    def save(self, path: str | Path) -> None:
        """Write the artifact to a folder. Raises ArtifactError."""
        self._compiled.save(path)

    def __reduce_ex__(self, protocol: Any) -> Any:
        what = "a fused module holds native code, and cannot be copied or pickled"
        remedy = "save() writes its artifact; copy or pickle .original, and fuse that"
        raise InputError(what, where=type(self.original).__name__, remedy=remedy)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == self._count and not kwargs:
            leaves: Sequence[Any] = args
        else:
            leaves = self._call.leaves(args, kwargs)
        arrays = []
        for place, dtype in zip(self._places, self._wanted, strict=True):
            tensor = leaves[place]
            usual = type(tensor) is torch.Tensor and tensor.dtype is dtype and tensor.is_cpu and dtype not in _NARROW
            if usual and not tensor.requires_grad:
                arrays.append(tensor.numpy())
                continue
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad and torch.is_grad_enabled():
                return self._with_gradients(args, kwargs)
            arrays.append(self._array(tensor, dtype, place))
        outputs = self._run(arrays)
        if self._count >= 0 and outputs[0].dtype.isbuiltin == 1:
            return torch.from_numpy(outputs[0])
        return self._results(outputs, leaves)

    def _results(self, outputs: Sequence[Any], leaves: Sequence[Any]) -> Any:
        given = iter(outputs)
        values = []
        for kind, value in self._call.results:
            if kind == "known":
                values.append(value)
            else:
                array = next(given)
                values.append(to_tensor(array) if kind == "tensor" else array.item())
        for place, array in zip(self._changed, given, strict=True):
            leaves[place].copy_(to_tensor(array))
        return pytree.tree_unflatten(values, self._call.out_spec)

    def _array(self, tensor: Any, dtype: torch.dtype, place: int) -> np.ndarray:
        """Any input as an array. Raises InputError for what is no tensor of the type wanted, nor fits without loss."""
        name = next(name for k, name in self._call.tensors if k == place)
        if isinstance(tensor, int | float | bool) and not isinstance(tensor, torch.Tensor):
            return np.array(tensor, np.int64)
        if not isinstance(tensor, torch.Tensor):
            what = f"this is a {type(tensor).__name__}, expected a tensor"
            raise InputError(what, where=f"input {name!r}", remedy="make one with torch.as_tensor")
        if tensor.device.type != "cpu":
            raise InputError(f"it lies on {tensor.device}", where=f"input {name!r}", remedy="move it with .cpu()")
        if tensor.dtype is not dtype:
            if tensor.dtype not in _WIDENED.get(dtype, ()):
                what = f"the dtype is {tensor.dtype}, expected {dtype}"
                raise InputError(what, where=f"input {name!r}", remedy=f"convert it with .to({dtype})")
            tensor = tensor.to(dtype)
        return to_array(tensor)

    def _with_gradients(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if not self._warned:
            self._warned = True
            what = "an input requires gradients, so the original module runs; under torch.no_grad() the fused one does"
            warnings.warn(f"graphfuse: {what}", stacklevel=4)
        return self.original(*args, **kwargs)

    # -- the original's state ---------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> FusedModule:
        """Refused, as what is compiled cannot train. Raises InputError for mode=True."""
        if mode:
            what = "a fused module cannot be put in training mode: batch norms and dropouts are compiled in"
            raise InputError(what, where=type(self.original).__name__, remedy="train .original, and fuse it again")
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The original's."""
        return self.original.state_dict(*args, **kwargs)

    def update_weights(self, state_dict: Mapping[str, torch.Tensor] | None = None) -> bool:
        """Computes with other weights from now on: folded and packed again, not compiled.

        state_dict: the new values, by name as in the original's, which takes them too; those left out keep theirs.
        None: whatever the original has now, after training it, say. Returns whether the compiled code stayed: where it
        depends on values (zeros that were left out, numbers that were stored in half precision), it is compiled anew.
        Raises InputError for a name or a shape that the original does not have.
        """
        own = self.original.state_dict()
        given = own if state_dict is None else state_dict
        for name, tensor in given.items():
            if name not in own:
                what, remedy = f"the module has no weight {name!r}", "give names of its state_dict()"
                raise InputError(what, where=type(self.original).__name__, remedy=remedy)
            if tensor.shape != own[name].shape:
                what = f"the shape is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
                raise InputError(what, where=f"weight {name!r}", remedy="fuse a module of the new sizes")
        with torch.no_grad():
            for name, tensor in given.items():
                if tensor is not own[name]:
                    own[name].copy_(tensor)
        arrays = self._compiled.weights(own)
        if arrays is None:
            self._take(self._compile())
            return False
        self.session.take_weights(arrays)
        return True

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        """As `update_weights`, with what the original's own method returns."""
        told = self.original.load_state_dict(state_dict, *args, **kwargs)
        self.update_weights()
        return told

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """The original's."""
        return self.original.named_modules(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{type(self.original).__name__}, {len(self.ledger.names)} operators"
