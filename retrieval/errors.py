"""Every error that the package raises on purpose."""

from __future__ import annotations


class RetrievalError(Exception):
    """Base of all errors raised on purpose: says what was given, what was expected, what to do."""


class InputError(RetrievalError):
    """A document, query or judgement that can't be read; the message starts with file:line."""


class DuplicateIdError(InputError):
    """An id that was given twice; the message names it."""


class ConfigError(RetrievalError):
    """A recipe or option with an unknown key, a wrong type or a value out of range."""


class DownloadError(RetrievalError):
    """Data that can't be fetched or are not what they should be; the message says what to do."""


class LeakError(RetrievalError):
    """Training data that holds what a model is measured on; the message names some of it."""


class ShapeError(RetrievalError):
    """Embeddings whose widths or dimensions do not fit together."""


class EmbeddingError(RetrievalError):
    """An embedding that is NaN or infinite; the message names the document or query."""


class WorkerError(RetrievalError):
    """A process that encodes failed or was killed; the message names the shard."""


class CheckpointError(RetrievalError):
    """A model folder that is missing, incomplete or of another kind than was asked for."""


class ExportError(RetrievalError):
    """A model that another library's format can't express, or whose copy gave other vectors."""


class ModelMismatchError(RetrievalError):
    """An index opened with another model than the one that filled it; the message names both."""


class IndexFilesError(RetrievalError):
    """Files of an index that are missing, truncated or changed since they were written."""


class ReadOnlyError(RetrievalError):
    """A change to an index that was opened without `writable=True`."""


class MissingExtraError(RetrievalError, ImportError):
    """A feature whose optional packages are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs packages that are not installed: "
            f'run `pip install "modernbert-retrieval[{extra}]"`'
        )


class MissingNativeError(RetrievalError):
    """A feature that needs Sentence Transformers 6 on an installation that has 5."""
