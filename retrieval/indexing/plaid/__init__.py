"""PLAID: late interaction over centroids and compressed residuals, in NumPy.

`kmeans` learns the centroids and finds the nearest, `codec` compresses tokens (`values`: what bits
stand for, `directions`: where residuals lie), `segment` holds runs of compressed documents,
`numpy_search` has the stages of a search, `plaid_index` the index.
"""

from retrieval.indexing.plaid.plaid_index import PlaidIndex
from retrieval.indexing.plaid.settings import PlaidSettings

__all__ = ["PlaidIndex", "PlaidSettings"]
