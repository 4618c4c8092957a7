"""A process that is killed while it adds results to a file."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import pytest
from atlas_samples import store
from io_samples import COUNTS, in_child
from scipy import sparse

# Counts what Python tells an audit hook: files opened, made, renamed, linked, removed, calls into C; and what HDF5 has
# made, once that is in the file. The first run goes to its end and shows what should come out; of the others each is
# ended at another of these moments, as by a kill.
KILLED = """
import itertools, os, shutil, sys
from pathlib import Path
import anndata, h5py, numpy as np, zarr
from sccagn_scale import io

create_dataset = h5py.Group.create_dataset

def create_and_tell(group, *arguments, **keywords):
    made = create_dataset(group, *arguments, **keywords)
    group.file.flush()
    sys.audit("os.hdf5")
    return made

h5py.Group.create_dataset = create_and_tell
os.fsync = lambda descriptor: None  # only slow where no power fails
path = Path(sys.argv[1])
kept = path.parent.parent / "kept"
results = anndata.AnnData(shape=(4, 5))
results.obsm["X_sccagn"] = np.ones((4, 2))
MOMENTS = ("open", "os.", "shutil.", "ctypes.")

def content():
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}

def restore():
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    (shutil.copytree if kept.is_dir() else shutil.copyfile)(kept, path)

def run(last):
    if os.fork() == 0:
        moments = itertools.count()
        def hook(event, arguments):
            if event.startswith(MOMENTS) and next(moments) == last:
                os._exit(9)
        sys.addaudithook(hook)
        io.add_results(results, path)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.wait()[1])

(shutil.copytree if path.is_dir() else shutil.copyfile)(path, kept)
old = content()
assert run(-1) == 0
new = content()
assert new != old
outcomes = []
step = 1 if path.is_file() else 41
for last in itertools.count(0, step):
    restore()
    status = run(last)
    outcomes.append({str(old): "old", str(new): "new"}.get(str(content()), "neither"))
    if status == 0:
        break
    left = [name for name in os.listdir(path.parent) if name != path.name]
    assert all(name.startswith(".sccagn_scale") for name in left), left
print(len(outcomes), *sorted(set(outcomes)), outcomes[0], outcomes[-1])
"""


@pytest.mark.parametrize("kind", ["h5ad gzip", "zarr 2"])
def test_a_killed_process_leaves_the_old_or_the_new(tmp_path: Path, kind: str) -> None:
    adata = anndata.AnnData(sparse.csr_matrix(COUNTS))
    (tmp_path / "there").mkdir()
    path = store(adata, tmp_path / "there" / "a", kind)
    (line,) = in_child(KILLED, path, options=["-W", "ignore"]).splitlines()
    n_moments, *outcomes = line.split()
    assert int(n_moments) >= 10
    assert outcomes == ["new", "old", "old", "new"]
    # the last run was not killed, and has cleared what the others left; but for folders from before they were locked
    left = [name for name in os.listdir(path.parent) if name != path.name]
    assert all(name.startswith(".sccagn_scale.") and not any((path.parent / name).iterdir()) for name in left)
