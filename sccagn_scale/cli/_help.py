"""What `--help` says of the program and of each verb, above and below its options."""

DESCRIPTION = """\
Cluster single-cell RNA-seq data, from a count matrix to clusters in one
command, for hundreds of cells to millions. The method is scCAGN: an adversarial
autoencoder and a graph network over the cells' nearest neighbours, joined by
cross-attention."""

EXAMPLES = """\
examples:
  sccagn-scale cluster cells.h5ad -o clustered.h5ad
  sccagn-scale evaluate clustered.h5ad --truth cell_type
  sccagn-scale assign more.h5ad --model model/ -o assigned.h5ad
  sccagn-scale recluster clustered.h5ad --inplace --factor 2
  sccagn-scale plan atlas.h5ad --memory 8G
  sccagn-scale simulate -o atlas.h5ad --cells 100000
  sccagn-scale info

`sccagn-scale VERB --help` explains each verb."""

CLUSTER = """\
Cluster the cells of INPUT and write them, with clusters and embedding, to a
new file.

INPUT is an AnnData file (.h5ad, .zarr), a 10x .h5 file or a 10x folder
(matrix.mtx, features.tsv, barcodes.tsv). It should hold counts; values that are
already log-normalised are recognised, and you are told.

Several files, or a folder of them, are treated as one atlas: it has the genes
that all files share, and obs["file"] says which file a cell is from. OUT then
has X but no layers or raw.

X is never loaded whole. A run that takes more than --memory keeps its large
arrays on disk; `sccagn-scale plan` tells you beforehand."""

CLUSTER_END = """\
written into the AnnData, with the default --key-added:
  obs["sccagn"]             cluster of each cell; missing for cells that fail
                            quality control
  obs["sccagn_confidence"]  how sure the model is of the cluster, 0 to 1
  obsm["X_sccagn"]          embedding
  obsm["X_pca"], obsp["distances"], obsp["connectivities"], uns["neighbors"]
                            as scanpy writes them, so its tools can use them
  uns["sccagn"]             parameters, versions, seed, training history and
                            what speaks for the number of clusters

examples:
  sccagn-scale cluster cells.h5ad -o clustered.h5ad
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --n-clusters 12 --seed 1
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --layer counts \\
      --plots figures --json run.json
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --batch-key donor
  sccagn-scale cluster atlas.h5ad --inplace --memory 8G --store scratch/
  sccagn-scale cluster lung.h5ad liver.h5ad -o both.h5ad --batch-key file
  sccagn-scale cluster 10x_folder/ -o clustered.h5ad --preset paper

Exit code: 0 on success; 2 after a mistake in the input or an option, with one
sentence on what is wrong, and nothing written. If INPUT is changed by others
during the run, or its X turns out to be damaged only when it is written, the
run ends the same way, but the results are kept, without X."""

ASSIGN = """\
Assign the cells of INPUT to the clusters of a model kept by `cluster --model`,
without training. Cells of another sample or a later day get the same clusters,
with the same names.

INPUT is as in `cluster`, and must have the genes that the model knows. It is
preprocessed as the model's cells were. Every cell gets a cluster, even one
unlike all that the model has seen: look at the confidence."""

ASSIGN_END = """\
written into the AnnData: the same as `cluster` writes, see its help

example:
  sccagn-scale cluster monday.h5ad -o clustered.h5ad --model model/
  sccagn-scale assign tuesday.h5ad --model model/ -o assigned.h5ad"""

RECLUSTER = """\
Split or merge the clusters that `cluster` found, without training. It takes
seconds and does not read X.

New clusters are parts or unions of the existing ones. Clusters that stay keep
their names; a union of 1 and 4 is called 1+4, and parts of 3 are called 3,0,
3,1, and so on."""

RECLUSTER_END = """\
added to the AnnData (here for 20 clusters):
  obs["sccagn_k20"]             cluster of each cell
  obs["sccagn_k20_confidence"]  soft assignment of the cell to its cluster

examples:
  sccagn-scale recluster clustered.h5ad --inplace --n-clusters 20
  sccagn-scale recluster clustered.h5ad -o fine.h5ad --factor 2 \\
      --key-added fine"""

PLAN = """\
Predict what `cluster` will need for INPUT, stage by stage, before any work:
memory, disk and time, and whether memory and disk suffice. Nothing is written.

Memory and disk follow from the sizes of the arrays. Disk is that of OUT, which
takes about as much as INPUT and has large arrays beside it until it is written.
Time is measured on 25,000 of the cells and extrapolated to all of them, stage
by stage. If you will give `cluster` the number of clusters, --batch-key or
--results-only, give it here too: what is needed depends on it."""

PLAN_END = """\
examples:
  sccagn-scale plan atlas.h5ad
  sccagn-scale plan atlas.h5ad --n-clusters 20
  sccagn-scale plan atlas.h5ad --memory 8G --json plan.json"""

EVALUATE = """\
Compare the clusters in FILE with known cell types. This is a separate step:
training never sees the types.

Prints NMI (arithmetic), ARI, AMI, completeness and accuracy (with the best
one-to-one pairing of clusters and types), and how many cells of each type each
cluster has. Cells without a type are left out. Cells without a cluster count
as one more cluster, so that leaving cells out does not pay."""

EVALUATE_END = """\
example:
  sccagn-scale evaluate clustered.h5ad --truth cell_type \\
      --json metrics.json --plots figures"""

SIMULATE = """\
Write a synthetic atlas with known types, block by block: its size is limited by
the disk, not by memory. The types are in obs["cell_type"].

Without --from, types lie on a tree and counts are negative binomial. With
--from, counts are Poisson draws around mixtures of two real cells of one type,
with real library sizes; about a fifth fewer genes are detected in a cell than
in the real data."""

SIMULATE_END = """\
examples:
  sccagn-scale simulate -o atlas.h5ad --cells 1000000 --genes 20000 --types 30
  sccagn-scale simulate -o like_mine.h5ad --cells 100000 \\
      --from mine.h5ad --label cell_type"""

INFO = """\
Print versions, the machine, optional parts, and the implementation that each
operator will use: what a bug report needs."""
