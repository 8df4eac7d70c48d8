"""The ledger for its reader: as text and as JSON. Everything shown was decided and recorded elsewhere."""

from __future__ import annotations

from graphfuse.account.account import Account, account_of
from graphfuse.account.text import render, render_fusion

__all__ = ["Account", "account_of", "render", "render_fusion"]
