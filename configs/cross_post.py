"""CRLM-GAN across sequences after chemotherapy: trained on DWI and T2WI, tested on each.

One of the paper's two cross-sequence experiments.
    python -m crlm_jax.main --config configs/cross_post.py
    python -m crlm_jax.main --config configs/cross_post.py:scale=paper \\
        --config.data.cohort=cohort.csv

The paper's test DSC: DWI 0.72 (95 % CI 0.64-0.79), T2WI 0.62 (0.53-0.70).
"""

from configs import common


def get_config(arg=None):
    """`arg`: `scale=laptop|paper`, `method=…`, comma-separated."""
    return common.get_config(
        "cross_post",
        (
            "post_dwi",
            "post_t2wi",
        ),
        arg,
    )
