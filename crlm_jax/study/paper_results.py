"""The numbers that the paper gives for CRLM-GAN, to stand beside ours if the data are its own.

Xia et al., Cancer Imaging 26:10 (2025), doi 10.1186/s40644-025-00964-z, Results. The abstract has
the DSC of post-NACT DWI and pre-NACT T2WI the other way round; the text's gains from mixed training
fit these. Its comparators' numbers are in tables that were not available, and are not given here.
"""

# (experiment, condition) -> DSC with its 95 % interval, IoU, recall, precision, F1
RESULTS = {
    ("pre_dwi", "pre_dwi"): ("0.81 (0.76–0.85)", "0.70", "0.83", "0.82", "0.82"),
    ("pre_t2wi", "pre_t2wi"): ("0.70 (0.63–0.77)", "0.57", "0.74", "0.70", "0.71"),
    ("post_dwi", "post_dwi"): ("0.67 (0.55–0.77)", "0.54", "0.67", "0.71", "0.67"),
    ("post_t2wi", "post_t2wi"): ("0.61 (0.53–0.68)", "0.47", "0.60", "0.67", "0.62"),
    ("ct", "ct"): ("0.70 (0.66–0.73)", "0.57", "0.72", "0.74", "0.71"),
    ("cross_pre", "pre_dwi"): ("0.82 (0.78–0.85)", "–", "–", "–", "–"),
    ("cross_pre", "pre_t2wi"): ("0.71 (0.63–0.78)", "–", "–", "–", "–"),
    ("cross_post", "post_dwi"): ("0.72 (0.64–0.79)", "–", "–", "–", "–"),
    ("cross_post", "post_t2wi"): ("0.62 (0.53–0.70)", "–", "–", "–", "–"),
}
PATIENTS = {"ct": 78}  # test patients; 45 under every other condition


def row(experiment: str, condition: str) -> list[str] | None:
    """Returns the paper's row under `study.tables.HEADER`; None if it has none."""
    if (experiment, condition) not in RESULTS:
        return None
    patients = str(PATIENTS.get(condition, 45))
    values = RESULTS[experiment, condition]
    return [experiment, "CRLM-GAN, the paper's", condition, "–", patients, *values, "–"]
