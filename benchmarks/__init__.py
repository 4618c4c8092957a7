"""Measurements of sccagn_scale and its peers: `python -m benchmarks NAME`. See README.md in this folder."""
