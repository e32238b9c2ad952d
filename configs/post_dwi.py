"""CRLM-GAN on DWI after chemotherapy.

One of the paper's five single-condition experiments.
    python -m crlm_jax.main --config configs/post_dwi.py
    python -m crlm_jax.main --config configs/post_dwi.py:scale=paper --config.data.cohort=cohort.csv

The paper's test DSC: 0.67 (95 % CI 0.55-0.77) in its Results section; its abstract gives 0.70.
"""

from configs import common


def get_config(arg=None):
    """`arg`: `scale=laptop|paper`, `method=…`, comma-separated."""
    return common.get_config("post_dwi", ("post_dwi",), arg)
