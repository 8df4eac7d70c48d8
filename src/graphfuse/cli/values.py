"""Values given on the command line: sizes of dimensions, arrays for inputs, and arrays written out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.errors import InputError
from graphfuse.options import Hints

if TYPE_CHECKING:
    import numpy as np

    from graphfuse.importers.source import Source

    Array = np.ndarray[Any, Any]

# Options that several commands take.
Dims = Annotated[
    list[str], typer.Option("--dim", metavar="NAME=SIZE", help="Size of a free dimension; may be repeated.")
]
Inputs = Annotated[
    list[str],
    typer.Option("--input", "-i", metavar="NAME=FILE", help="Value of an input, a .npy file; may be repeated."),
]
Shapes = Annotated[
    list[str],
    typer.Option(
        "--shape",
        metavar="NAME=SHAPE",
        help="Shape of an input whose file does not say it: 1x3x224x224, Nx512, 1x16:int64; may be repeated.",
    ),
]
Values = Annotated[
    list[str],
    typer.Option("--value", metavar="NAME=VALUE", help="Value of an argument that is no tensor; may be repeated."),
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", metavar="", help="Open pickled models, which executes the Python code in them."),
]
Threads = Annotated[int | None, typer.Option("--threads", "-t", help="Threads of one run; all cores when left out.")]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Write JSON to stdout, and nothing else.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of generated inputs.")]


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """["batch=4"] -> {"batch": 4}. Raises InputError for anything else, and for a name given twice."""
    dims: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size.isascii() or not size.isdigit() or len(size) > 18:
            raise InputError(f"--dim {text!r} gives no size", remedy="write NAME=SIZE, such as --dim batch=4")
        if name in dims:
            raise InputError(f"--dim gives {name!r} twice")
        dims[name] = int(size)
    return dims


def parse_hints(shapes: Sequence[str], values: Sequence[str]) -> Hints:
    """["x=1x512"], ["sr=16000"] -> what they say. Raises InputError for anything else, and for a name given twice."""
    return Hints.of(_named(shapes, "--shape", "x=1x3x224x224"), {
        name: _value(text) for name, text in _named(values, "--value", "sr=16000").items()
    })  # fmt: skip


def open_given(
    model: Path, hints: Hints, allow_pickle: bool, arrays: Mapping[str, Array] | None = None
) -> Source | Path:
    """A model file opened (see `open_model`); the path of an artifact, which takes no hints, as it is."""
    from graphfuse.artifact.bundle import is_artifact

    if not is_artifact(model):
        from graphfuse.importers.open import open_model

        return open_model(model, allow_pickle, hints, arrays)
    hints.refuse(str(model), "an artifact has them from its compilation")
    return model


def _named(texts: Sequence[str], option: str, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, sign, rest = text.partition("=")
        if not name or not sign:
            raise InputError(f"{option} {text!r} names nothing", remedy=f"write it as in {option} {example}")
        if name in found:
            raise InputError(f"{option} gives {name!r} twice")
        found[name] = rest
    return found


def _value(text: str) -> bool | int | float | str | None:
    """The Python value that a text stands for: none, true, false, a number, or the text itself."""
    words: dict[str, bool | None] = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def load_inputs(texts: Sequence[str]) -> dict[str, Array]:
    """["x=x.npy"] -> {"x": array}. Raises InputError when a file cannot be read as one array of numbers."""
    arrays: dict[str, Array] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not name or not file:
            raise InputError(f"--input {text!r} names no file", remedy="write NAME=FILE, such as --input x=x.npy")
        if name in arrays:
            raise InputError(f"--input gives {name!r} twice")
        arrays[name] = _load(Path(file))
    return arrays


def _load(path: Path) -> Array:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error) or "the file is cut short"
        raise InputError(
            "cannot be read as a .npy file", where=str(path), why=why, remedy="write it with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray):
        remedy = "give each array in a .npy file of its own"
        raise InputError("this is no .npy file but an archive of several arrays", where=str(path), remedy=remedy)
    return array


def save_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write the outputs to an .npz file, or the only one to a .npy file; whole or not at all. Raises InputError."""
    import numpy as np

    check_output_path(path, len(outputs))
    handle = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
        with os.fdopen(handle, "wb") as file:
            if path.suffix == ".npy":
                np.save(file, next(iter(outputs.values())), allow_pickle=False)
            else:
                _savez(file, outputs)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise InputError("cannot write the outputs", where=str(path), why=error.strerror or str(error)) from error
    finally:
        if handle is not None:
            with suppress(OSError):
                os.unlink(name)


def check_output_path(path: Path, count: int) -> None:
    """Raise InputError, before any work is done, for a path that outputs cannot be written to."""
    if path.suffix not in (".npy", ".npz"):
        raise InputError("the outputs need a file ending in .npy or .npz", where=str(path))
    if path.suffix == ".npy" and count != 1:
        raise InputError(
            f"a .npy file holds one array, the model has {count} outputs", where=str(path), remedy="use .npz"
        )
    if not path.parent.is_dir():
        raise InputError("the folder does not exist", where=str(path.parent), remedy="make it, or name another")


def _savez(file: IO[bytes], outputs: Mapping[str, Array]) -> None:
    """As np.savez, which takes no name that is one of its own parameters, nor one with a slash as it stands."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in outputs.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
