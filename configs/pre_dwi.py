"""CRLM-GAN on DWI before chemotherapy.

One of the paper's five single-condition experiments.
    python -m crlm_jax.main --config configs/pre_dwi.py
    python -m crlm_jax.main --config configs/pre_dwi.py:scale=paper --config.data.cohort=cohort.csv

The paper's test DSC: 0.81 (95 % CI 0.76-0.85), on 45 patients of its own.
"""

from configs import common


def get_config(arg=None):
    """`arg`: `scale=laptop|paper`, `method=…`, comma-separated."""
    return common.get_config("pre_dwi", ("pre_dwi",), arg)
