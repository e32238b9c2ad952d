"""CRLM-GAN across sequences before chemotherapy: trained on DWI and T2WI, tested on each.

One of the paper's two cross-sequence experiments.
    python -m crlm_jax.main --config configs/cross_pre.py
    python -m crlm_jax.main --config configs/cross_pre.py:scale=paper \\
        --config.data.cohort=cohort.csv

The paper's test DSC: DWI 0.82 (95 % CI 0.78-0.85), T2WI 0.71 (0.63-0.78).
"""

from configs import common


def get_config(arg=None):
    """`arg`: `scale=laptop|paper`, `method=…`, comma-separated."""
    return common.get_config(
        "cross_pre",
        (
            "pre_dwi",
            "pre_t2wi",
        ),
        arg,
    )
