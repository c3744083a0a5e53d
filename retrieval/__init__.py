"""Train ModernBERT retrievers, index documents with them, search, and measure the result."""

from __future__ import annotations

__version__ = "0.1.0"
