"""A generative model of single-cell counts, drawn at a cost that grows with the UMIs and not with the genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

LIBRARY_SIZE_SD = 0.5  # of the logarithm
GENE_MEAN_SHAPE = 0.6  # gamma; with the abundant genes, about 6 % of 20,000 genes are detected in a cell
ABUNDANT_FRACTION = 0.05  # ribosomal, mitochondrial and housekeeping genes
ABUNDANT_LOG_FOLD = (4.0, 0.5)  # mean and sd of the logarithm of their factor
BRANCH_LENGTH = (0.2, 0.8)  # shortest, and mean of the exponential excess
CHANGED_FRACTION = 0.02  # genes that change along a branch of length 1
CHANGED_LOG_FOLD_SD = 1.1
ABUNDANCE_CONCENTRATION = 2.0  # of the Dirichlet distribution of the types' shares
N_PROGRAMMES = 2  # dimensions of the continuous variation within a type
PROGRAMME_FRACTION = 0.1  # genes that respond to a programme
PROGRAMME_SD = 0.5  # of their response on the log scale
PROGRAMME_RANGE = float(np.sqrt(3.0))  # activities are uniform on ±√3, hence of unit variance
DISPERSION_MEAN = 0.15  # squared coefficient of variation beyond Poisson
DISPERSION_SHAPE = 4.0  # gamma over genes


@dataclass(frozen=True)
class TreeModel:
    """Cell types on a tree, continuous programmes within each, negative-binomial counts.

    A cell of type t with library size l (log-normal) and programme activities z (uniform, unit variance) has for gene g

        m_g = l · s_tg · Π_f exp(w_tfg z_f) / E[exp(w_tfg z_f)],        X_g ~ NB(mean m_g, variance m_g + φ_g m_g²).

    The profile s_t is a gamma-distributed baseline with a few abundant genes (as in Splat; Zappia, Phipson and Oshlack,
    Genome Biology 2017, 18:174) times the log-normal fold changes met on the way from the tree's root to the leaf t:
    types that part late are close.

    Drawing costs O(l) per cell. A negative-binomial variable is a sum of log-series jumps whose number is Poisson with
    mean log(1 + φm)/φ ≤ m. So jumps are proposed at the rate l·b_tg, where b_tg is the largest m_g/l that any activity
    gives; an alias table finds the gene of each, and thinning brings the rate down to the exact one.
    """

    type_names: list[str]
    var_names: list[str]
    proportions: npt.NDArray[np.float64]  # [n_types]
    newick: str
    median_library_size: float  # UMIs per cell
    profiles: npt.NDArray[np.float64]  # s, [n_types, n_vars], rows sum to 1
    loadings: npt.NDArray[np.float32]  # w, [N_PROGRAMMES, n_types, n_vars]
    dispersions: npt.NDArray[np.float32]  # φ, [n_vars]
    log_scale: npt.NDArray[np.float32]  # log m_g/l at z = 0, [n_types, n_vars]
    bounds: npt.NDArray[np.float32]  # b, [n_types, n_vars]
    alias_probability: npt.NDArray[np.float32]  # [n_types, n_vars]
    alias: npt.NDArray[np.int32]  # [n_types, n_vars]

    @property
    def params(self) -> dict[str, Any]:
        """The tree in Newick notation and the main constants."""
        return {
            "model": "tree",
            "tree": self.newick,
            "median_library_size": self.median_library_size,
            "library_size_sd": LIBRARY_SIZE_SD,
            "dispersion_mean": DISPERSION_MEAN,
            "n_programmes": N_PROGRAMMES,
        }

    def draw(self, types: npt.NDArray[np.integer], rng: np.random.Generator) -> sp.csr_matrix:
        """Draw counts, float32 [n, n_vars] with sorted indices, of one cell per entry of `types`, shape [n]."""
        n, n_vars = len(types), len(self.var_names)
        library = self.median_library_size * np.exp(LIBRARY_SIZE_SD * rng.standard_normal(n))
        activity = rng.uniform(-PROGRAMME_RANGE, PROGRAMME_RANGE, size=(N_PROGRAMMES, n)).astype(np.float32)
        n_proposed = rng.poisson(library * self.bounds.sum(axis=1, dtype=np.float64)[types])

        order = np.argsort(types, kind="stable")  # one type after the other keeps its tables in the cache
        n_proposed = n_proposed[order]
        size = np.repeat(library[order].astype(np.float32), n_proposed)  # [events], as all up to `jump`
        table = np.repeat(types[order].astype(np.int64) * n_vars, n_proposed)  # where the type's row of a table starts
        gene = rng.integers(0, n_vars, size=len(table))
        moved = rng.random(len(gene), dtype=np.float32) >= self.alias_probability.ravel()[table + gene]
        gene[moved] = self.alias.ravel()[(table + gene)[moved]]

        entry = table + gene
        exponent = self.log_scale.ravel()[entry]
        for loading, z in zip(self.loadings, activity, strict=True):
            exponent += loading.ravel()[entry] * np.repeat(z[order], n_proposed)
        scale = size * self.dispersions[gene]
        excess = scale * np.exp(exponent)  # φm
        threshold = rng.random(len(gene), dtype=np.float32) * scale * self.bounds.ravel()[entry]
        accepted = threshold < np.log1p(excess)
        jump = rng.logseries((excess / (1.0 + excess))[accepted])

        key = np.repeat(order * n_vars, n_proposed)[accepted] + gene[accepted]
        dense = np.bincount(key, weights=jump, minlength=n * n_vars)
        filled = np.flatnonzero(dense != 0.0)
        indptr = np.searchsorted(filled, np.arange(n + 1) * n_vars)
        indices = filled - np.repeat(np.arange(n) * n_vars, np.diff(indptr))
        return sp.csr_matrix((dense[filled].astype(np.float32), indices.astype(np.int32), indptr), shape=(n, n_vars))


def make_tree_model(
    n_vars: int, n_types: int, rng: np.random.Generator, *, median_library_size: float = 3000.0
) -> TreeModel:
    """Draw the tree, the profiles, the programmes and the dispersions."""
    baseline = rng.gamma(GENE_MEAN_SHAPE, size=n_vars)
    abundant = rng.random(n_vars) < ABUNDANT_FRACTION
    baseline[abundant] *= rng.lognormal(*ABUNDANT_LOG_FOLD, size=int(abundant.sum()))
    type_names = [f"type_{i:0{len(str(n_types - 1))}d}" for i in range(n_types)]
    log_fold, newick = _grow_tree(type_names, n_vars, rng)
    profiles = baseline * np.exp(log_fold)
    profiles /= profiles.sum(axis=1, keepdims=True)

    loadings = rng.normal(0.0, PROGRAMME_SD, size=(N_PROGRAMMES, n_types, n_vars))
    loadings *= rng.random(loadings.shape) < PROGRAMME_FRACTION
    reach = PROGRAMME_RANGE * np.abs(loadings)
    # E[exp(wz)] = sinh(√3w) / √3w for z uniform on ±√3
    log_mean = np.log(np.divide(np.sinh(reach), reach, out=np.ones_like(reach), where=reach > 1e-6)).sum(axis=0)
    log_scale = np.log(profiles) - log_mean
    # rounded up, so that the rate in float32 never passes its bound
    bounds = (np.exp(log_scale + reach.sum(axis=0)) * (1.0 + 1e-5)).astype(np.float32)
    tables = [_alias_table(row) for row in bounds]
    return TreeModel(
        type_names=type_names,
        var_names=[f"gene_{i:0{len(str(n_vars - 1))}d}" for i in range(n_vars)],
        proportions=rng.dirichlet(np.full(n_types, ABUNDANCE_CONCENTRATION)),
        newick=newick,
        median_library_size=median_library_size,
        profiles=profiles,
        loadings=loadings.astype(np.float32),
        dispersions=rng.gamma(DISPERSION_SHAPE, DISPERSION_MEAN / DISPERSION_SHAPE, size=n_vars).astype(np.float32),
        log_scale=log_scale.astype(np.float32),
        bounds=bounds,
        alias_probability=np.stack([probability for probability, _ in tables]),
        alias=np.stack([alias for _, alias in tables]),
    )


def _grow_tree(type_names: list[str], n_vars: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], str]:
    """Split random leaves until there is one per type; return their log fold changes [n_types, n_vars] and Newick."""
    parents, lengths, log_folds, leaves = [-1], [0.0], [np.zeros(n_vars)], [0]
    while len(leaves) < len(type_names):
        parent = leaves.pop(int(rng.integers(len(leaves))))
        for _ in range(2):
            length = BRANCH_LENGTH[0] + BRANCH_LENGTH[1] * rng.exponential()
            changed = rng.random(n_vars) < CHANGED_FRACTION * length
            leaves.append(len(parents))
            parents.append(parent)
            lengths.append(length)
            log_folds.append(log_folds[parent] + changed * rng.normal(0.0, CHANGED_LOG_FOLD_SD, size=n_vars))

    name_of = dict(zip(leaves, type_names, strict=True))
    children: list[list[str]] = [[] for _ in parents]
    for node in range(len(parents) - 1, 0, -1):  # children come after their parent
        subtree = name_of[node] if node in name_of else f"({','.join(children[node])})"
        children[parents[node]].append(f"{subtree}:{lengths[node]:.3f}")
    return np.stack([log_folds[leaf] for leaf in leaves]), f"({','.join(children[0])});"


def _alias_table(weights: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Make Vose's alias table (1991): a uniform slot stays with its probability, else moves to its alias."""
    scaled = (weights * (len(weights) / weights.sum(dtype=np.float64))).tolist()
    probability = np.ones(len(weights), dtype=np.float32)
    alias = np.arange(len(weights), dtype=np.int32)
    small = [i for i, w in enumerate(scaled) if w < 1.0]
    large = [i for i, w in enumerate(scaled) if w >= 1.0]
    while small and large:
        low, high = small.pop(), large[-1]
        probability[low], alias[low] = scaled[low], high
        scaled[high] -= 1.0 - scaled[low]
        if scaled[high] < 1.0:
            small.append(large.pop())
    return probability, alias
