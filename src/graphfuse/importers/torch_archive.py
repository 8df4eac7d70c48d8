"""The zip archives that torch.export and TorchScript write, through torch's own reader.

It does not see in every archive what Python's sees, and takes capitals for small letters: what is checked here is what
torch will load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphfuse.errors import ModelFileError, one_line

# torch stores weights as they are. Archives that were packed again are read too, but not those made to fill memory.
_MOST_UNPACKED = 16  # times the size of the file
_LEAST_BOUND = 1 << 28  # bytes, which descriptions of programs may always have


def open_archive(path: Path) -> Any:
    """torch's reader of the archive. Raises ModelFileError for one that would unpack to a multiple of itself.

    RuntimeError, torch's own, for a damaged one.
    """
    import torch

    reader = torch._C.PyTorchFileReader(str(path))
    most = max(_MOST_UNPACKED * path.stat().st_size, _LEAST_BOUND)
    total = 0
    for member in reader.get_all_records():
        total += reader.get_record_size(member)
        if total > most:
            what = f"it unpacks to more than {most >> 20} MiB, which its {path.stat().st_size} bytes cannot hold"
            why = f"the sizes up to {one_line(member, 80)}"
            remedy = "save the model again; torch does not compress weights"
            raise ModelFileError(what, where=str(path), why=why, remedy=remedy)
    return reader
