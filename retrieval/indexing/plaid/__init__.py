"""PLAID: late interaction over centroids and compressed residuals, in NumPy.

`kmeans` learns the centroids and finds the nearest, `codec` compresses tokens, `inverted` lists the
documents of each centroid, `search` has the two stages of a search, `plaid_index` the index.
"""

from retrieval.indexing.plaid.plaid_index import PlaidIndex, PlaidSettings

__all__ = ["PlaidIndex", "PlaidSettings"]
