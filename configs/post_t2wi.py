"""CRLM-GAN on T2WI after chemotherapy.

One of the paper's five single-condition experiments.
    python -m crlm_jax.main --config configs/post_t2wi.py
    python -m crlm_jax.main --config configs/post_t2wi.py:scale=paper \\
        --config.data.cohort=cohort.csv

The paper's test DSC: 0.61 (95 % CI 0.53-0.68), on 45 patients of its own.
"""

from configs import common


def get_config(arg=None):
    """`arg`: `scale=laptop|paper`, `method=…`, comma-separated."""
    return common.get_config("post_t2wi", ("post_t2wi",), arg)
