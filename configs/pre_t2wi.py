"""CRLM-GAN on T2WI before chemotherapy.

One of the paper's five single-condition experiments.
    python -m crlm_jax.main --config configs/pre_t2wi.py
    python -m crlm_jax.main --config configs/pre_t2wi.py:scale=paper --config.data.cohort=cohort.csv

The paper's test DSC: 0.70 (95 % CI 0.63-0.77) in its Results section; its abstract gives 0.67.
"""

from configs import common


def get_config(arg=None):
    """`arg`: `scale=laptop|paper`, `method=…`, comma-separated."""
    return common.get_config("pre_t2wi", ("pre_t2wi",), arg)
