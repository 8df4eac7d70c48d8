"""graphfuse cache: what the cache folder holds, and emptying it."""

from __future__ import annotations

import typer

from graphfuse.cli.console import show_json
from graphfuse.cli.guard import guarded
from graphfuse.cli.values import AsJson

app = typer.Typer(help="Show or empty the cache of compiled kernels and models.", no_args_is_help=True)


@app.command("info", epilog="Example: graphfuse cache info --json")
@guarded
def info(as_json: AsJson = False) -> None:
    """Show where the cache is and how much it holds."""
    from graphfuse.account.names import amount
    from graphfuse.options import default_cache_root
    from graphfuse.toolchain.cache import ObjectCache

    found = ObjectCache(default_cache_root()).info()
    total = found.object_bytes + found.model_bytes + found.zig_bytes + found.other_bytes
    if as_json:
        show_json(
            {
                "folder": str(found.root),
                "objects": found.entries,
                "object_bytes": found.object_bytes,
                "models": found.models,
                "model_bytes": found.model_bytes,
                "compiler_bytes": found.zig_bytes,
                "other_bytes": found.other_bytes,
                "total_bytes": total,
            }
        )
        return
    typer.echo(f"{found.root}")
    rows = {
        f"{found.entries} compiled kernels": found.object_bytes,
        f"{found.models} compiled models": found.model_bytes,
        "the compiler's own files": found.zig_bytes,
        "other": found.other_bytes,
    }
    for what, size in rows.items():
        typer.echo(f"  {what:<26}{amount(size):>10}")


@app.command("clear", epilog="Example: graphfuse cache clear")
@guarded
def clear() -> None:
    """Empty the cache; what is needed again is compiled again."""
    from graphfuse.account.names import amount
    from graphfuse.options import default_cache_root
    from graphfuse.toolchain.cache import ObjectCache

    cache = ObjectCache(default_cache_root())
    typer.echo(f"{amount(cache.clear())} removed from {cache.root}")
