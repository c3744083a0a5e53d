"""PLAID and exact MaxSim through torch, for batches of queries: on a GPU, or wherever torch runs.

Nothing else in `retrieval.indexing` imports this package, so that an index needs no torch unless it
is asked for here. `torch_index` has the index, `torch_search` the stages of a search, `segments`
what they read, `kmeans` the nearest centroids, `exact` MaxSim with the tokens themselves, and
`triton_maxsim` its kernel for CUDA.
"""

from retrieval.indexing.on_gpu.exact import ExactMaxSim
from retrieval.indexing.on_gpu.kmeans import TorchCentroidSearch
from retrieval.indexing.on_gpu.torch_index import TorchPlaidIndex
from retrieval.indexing.on_gpu.torch_search import TorchSearcher

__all__ = ["ExactMaxSim", "TorchCentroidSearch", "TorchPlaidIndex", "TorchSearcher"]
