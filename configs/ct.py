"""CRLM-GAN on portal-venous CT.

One of the paper's five single-condition experiments.
    python -m crlm_jax.main --config configs/ct.py
    python -m crlm_jax.main --config configs/ct.py:scale=paper --config.data.cohort=cohort.csv

The paper's test DSC: 0.70 (95 % CI 0.66-0.73), on 78 patients of the TCIA collection.
"""

from configs import common


def get_config(arg=None):
    """`arg`: `scale=laptop|paper`, `method=…`, comma-separated."""
    return common.get_config("ct", ("ct",), arg)
