"""The compared methods: each takes a float32 matrix and returns its value; run in each peer's own environment."""

import numpy as np


def _line(r1, r2):
    """The fit for peers that have none: a line without the largest 10 % of the ratios."""
    mu = np.sort(r2[r1 > 0] / r1[r1 > 0])
    n = len(mu)
    kept = int(0.9 * n)
    x, y = np.log(mu[:kept]), -np.log1p(-np.arange(1, kept + 1) / n)
    return float(x @ y / (x @ x))


# --- intrinsic dimension --------------------------------------------------------------------------------------------


def ours_two_nn(X):
    from hf_repgeo.measures import PointCloud, intrinsic_dimension

    return intrinsic_dimension(PointCloud(X, jackknife=False)).value


def scikit_dimension(X):
    from skdim.id import TwoNN

    return TwoNN(discard_fraction=0.1).fit(X).dimension_


def dadapy(X):
    from dadapy import Data

    data = Data(X.astype(np.float64), maxk=2)
    return float(data.compute_id_2NN(mu_fraction=0.9)[0])


def fastwonn(X):
    import torch
    from fastwonn import twonn_id

    return float(twonn_id(torch.from_numpy(X)))


def faiss_flat(X):
    import faiss

    index = faiss.IndexFlatL2(X.shape[1])
    index.add(X)
    squared, _ = index.search(X, 3)
    return _line(np.sqrt(squared[:, 1]), np.sqrt(squared[:, 2]))


def torch_cdist(X):
    import torch

    rows = torch.from_numpy(X)
    parts = [torch.cdist(block, rows).topk(3, largest=False).values for block in rows.split(1024)]
    r = torch.cat(parts).numpy()
    return _line(r[:, 1], r[:, 2])


# --- anisotropy -----------------------------------------------------------------------------------------------------


def ours_anisotropy(X):
    from hf_repgeo.measures import PointCloud, anisotropy

    return anisotropy(PointCloud(X, jackknife=False)).value


def ours_anisotropy_streamed(X):
    import torch

    from hf_repgeo.measures import Moments
    from hf_repgeo.measures.eigen import leading_share

    return leading_share(Moments.of(torch.from_numpy(X)).scatter)


def ours_all_spectral(X):
    from hf_repgeo.measures import PointCloud, evaluate_all, resolve

    names = ["anisotropy", "effective_rank", "participation_ratio", "iso_score"]
    return evaluate_all(PointCloud(X, jackknife=False), resolve(names))[0].value


def numpy_svd(X):
    s = np.linalg.svd(X - X.mean(0), compute_uv=False)
    return float(s[0] ** 2 / (s**2).sum())


def torch_svd(X):
    import torch

    rows = torch.from_numpy(X)
    s = torch.linalg.svdvals(rows - rows.mean(0)).double()
    return float(s[0] ** 2 / (s**2).sum())


def scikit_learn_pca(X):
    from sklearn.decomposition import PCA

    return float(PCA().fit(X).explained_variance_ratio_[0])


def covariance_eigvalsh(X):
    values = np.linalg.eigvalsh(np.cov(X.astype(np.float64), rowvar=False))
    return float(values[-1] / values.sum())


def float64_twin(X):
    """Anisotropy in float64, the reference value; its time is not compared."""
    return numpy_svd(X.astype(np.float64))


TWO_NN = ["ours_two_nn", "faiss_flat", "fastwonn", "torch_cdist", "dadapy", "scikit_dimension"]
ANISOTROPY = [
    "ours_anisotropy",
    "ours_anisotropy_streamed",
    "ours_all_spectral",
    "scikit_learn_pca",
    "covariance_eigvalsh",
    "torch_svd",
    "numpy_svd",
]
