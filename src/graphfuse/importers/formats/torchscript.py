"""TorchScript: a zip archive of a program (code/) and its constants, as torch.jit.save writes it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from graphfuse.errors import ModelFileError
from graphfuse.importers.source import Format, Head, Source


def _holds(head: Head) -> bool:
    """Whether one folder of the archive has all parts of a program."""
    roots = {name.partition("/")[0] for name in head.members}
    return any(
        f"{root}/data.pkl" in head.members
        and f"{root}/constants.pkl" in head.members
        and any(name.startswith(f"{root}/code/") for name in head.members)
        for root in roots
    )


def _open(path: Path, allow_pickle: bool) -> Source:
    if importlib.util.find_spec("torch") is None:
        remedy = "install it: pip install 'graphfuse[torch]'"
        raise ModelFileError(
            "a TorchScript file, which only PyTorch reads, and that is not installed", where=str(path), remedy=remedy
        )
    from graphfuse.importers.torchscript.model import TorchScript

    return TorchScript(path, trusted=allow_pickle)


FORMAT = Format("TorchScript", order=20, holds=_holds, open=_open)
