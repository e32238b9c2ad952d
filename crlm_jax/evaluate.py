"""A trained segmenter over the test cases -> `cases.csv`, `results.json`.

Every case is measured twice. The paper's protocol (`_paper`) pools the slices with tumour at the
size that the network sees. The clinical protocol takes every slice of the volume, at the image's
own resolution, in 3D.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from crlm_jax import metrics, parallel, stats
from crlm_jax.config import Config
from crlm_jax.data import pipeline, volumes
from crlm_jax.data.cohort import Case
from crlm_jax.data.slices import Slices
from crlm_jax.files import write_whole
from crlm_jax.models.inputs import network_input

Segment = Callable[[dict[str, nnx.State], jax.Array], jax.Array]


def make_segment(graph: nnx.GraphDef, mesh: Mesh) -> Segment:
    """Builds the jitted map (variables, (B, H, W, 1) uint8) -> (B, H, W) probability, float32."""

    def segment(variables: dict[str, nnx.State], image: jax.Array) -> jax.Array:
        model = nnx.merge(graph, variables["params"], variables["batch_stats"])
        return jax.nn.sigmoid(model(network_input(image))[0][..., 0])

    everywhere, split = parallel.replicated(mesh), parallel.split_by_batch(mesh)
    return jax.jit(segment, in_shardings=(everywhere, split), out_shardings=split)


@dataclass
class KeySlice:
    """The slice of a case with most tumour, for a picture."""

    image: np.ndarray  # (H, W) uint8, at the image's own resolution
    reference: np.ndarray  # (H, W) bool
    prediction: np.ndarray  # (H, W) bool
    z: int
    pixel: tuple[float, float]  # mm, height and width of a pixel


@dataclass
class CaseResult:
    """What was measured of one case."""

    case: Case
    slices: int = 0
    tumour_slices: int = 0
    clinical: metrics.Counts = field(default_factory=metrics.Counts)
    paper: metrics.Counts = field(default_factory=metrics.Counts)
    key_slice: KeySlice | None = None

    def row(self) -> dict[str, Any]:
        """Returns its line of `cases.csv`; the `_paper` cells stay empty without tumour slices."""
        row = {
            "patient": self.case.patient,
            "condition": self.case.condition,
            "slices": self.slices,
            "tumour_slices": self.tumour_slices,
            **metrics.overlap(self.clinical),
        }
        paper = metrics.overlap(self.paper) if self.tumour_slices else {}
        return row | {f"{name}_paper": paper.get(name) for name in metrics.OVERLAP}


def _probabilities(
    config: Config,
    slices: Slices,
    split: str,
    segment: Segment,
    variables: dict[str, nnx.State],
    mesh: Mesh,
    indices: np.ndarray | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (record, probability (S, S) float32, reference (S, S) bool), in order."""
    batches = pipeline.evaluation_batches(
        slices.source(split),
        batch_size=config.evaluation.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        indices=indices,
    )
    for batch in batches:
        share = parallel.to_global(batch, mesh)
        probability = parallel.to_host(segment(variables, share["image"]))
        names = ("record", "valid", "mask")
        record, valid, mask = (parallel.to_host(share[name]) for name in names)
        for i in np.flatnonzero(valid):
            yield int(record[i]), probability[i], mask[i, ..., 0] > 0


def validation_dsc(
    config: Config,
    slices: Slices,
    segment: Segment,
    variables: dict[str, nnx.State],
    mesh: Mesh,
) -> float | None:
    """Mean DSC of the validation cases by the paper's protocol; None: no slice has tumour."""
    index = slices.index("validation")
    indices = np.flatnonzero(index["tumour"])
    if not len(indices):
        return None
    counts: dict[int, metrics.Counts] = {}
    stream = _probabilities(config, slices, "validation", segment, variables, mesh, indices)
    for record, probability, reference in stream:
        case = counts.setdefault(int(index["case"][record]), metrics.Counts())
        case.add(probability > config.evaluation.threshold, reference)
    return float(np.mean([metrics.overlap(c)["dsc"] for c in counts.values()]))


def evaluate_cases(
    config: Config,
    slices: Slices,
    segment: Segment,
    variables: dict[str, nnx.State],
    mesh: Mesh,
) -> list[CaseResult]:
    """Measures every test case, by both protocols.

    Only one image at a time is held in memory.
    """
    index = slices.index("test")
    results: dict[int, CaseResult] = {}
    pending: list[np.ndarray] = []
    stream = _probabilities(config, slices, "test", segment, variables, mesh)
    for record, probability, reference in stream:
        case, image = int(index["case"][record]), int(index["image"][record])
        result = results.setdefault(case, CaseResult(slices.cases[case]))
        result.slices += 1
        if index["tumour"][record]:
            result.tumour_slices += 1
            result.paper.add(probability > config.evaluation.threshold, reference)
        pending.append(probability)
        last = record + 1 == len(index)
        if last or (case, image) != (index["case"][record + 1], index["image"][record + 1]):
            _measure_volume(config, result, image, np.stack(pending))
            pending = []
    return [results[case] for case in sorted(results)]


def _measure_volume(config: Config, result: CaseResult, image: int, probability: np.ndarray):
    """Adds one image (Z, S, S) of a case at its own resolution, and keeps its key slice."""
    pair = result.case.images[image]
    volume = volumes.read_image(pair.image, b_value=pair.b_value)
    reference = volumes.read_mask(pair.mask, pair.mask_label, volume)
    own_size = volumes.resize(probability, volume.voxels.shape[1:])
    prediction = own_size > config.evaluation.threshold
    result.clinical.add(prediction, reference)
    shown, area = result.key_slice, reference.sum(axis=(1, 2))
    z = int(area.argmax())
    if shown is None or area[z] > shown.reference.sum():
        grey = volumes.to_uint8(volume, result.case.condition, ct_window=config.data.ct_window)
        result.key_slice = KeySlice(
            grey[z], reference[z], prediction[z], z, tuple(volume.spacing[1:])
        )


def summarise(config: Config, results: list[CaseResult]) -> dict[str, Any]:
    """Computes, per condition and metric, the mean over patients with its 95 % bootstrap CI.

    Returns:
      What `results.json` holds: per condition the metrics, and how many cases had an empty
      prediction, an empty reference or both (each counted in the means of the clinical protocol
      as `metrics.overlap` says) and how many had no tumour slice (these have no `_paper` value).
    """
    summary: dict[str, Any] = {
        "data": "phantom" if config.data.cohort == "phantom" else "cohort",
        "method": config.method,
        "critic_weights": config.critic.weights if config.loss.stages else None,
        "conditions": {},
    }
    for condition in config.data.conditions:
        chosen = [r for r in results if r.case.condition == condition]
        rows = [r.row() for r in chosen]
        names = [*metrics.OVERLAP, *(f"{name}_paper" for name in metrics.OVERLAP)]
        means = {
            name: stats.bootstrap_mean(
                np.array([row[name] for row in rows if row[name] is not None]),
                config.evaluation.resamples,
            )
            for name in names
        }
        empty = [(r.clinical.empty_prediction, r.clinical.empty_reference) for r in chosen]
        summary["conditions"][condition] = means | {
            "cases": len(chosen),
            "empty_prediction": sum(p and not r for p, r in empty),
            "empty_reference": sum(r and not p for p, r in empty),
            "both_empty": sum(p and r for p, r in empty),
            "without_tumour_slices": sum(r.tumour_slices == 0 for r in chosen),
        }
    return summary


def write_results(workdir: Path, results: list[CaseResult], summary: dict[str, Any]) -> None:
    """Writes `cases.csv`, one row a case, and `results.json`."""
    text = io.StringIO()
    rows = [r.row() for r in results]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
    write_whole(workdir / "cases.csv", text.getvalue())
    write_whole(workdir / "results.json", json.dumps(summary, indent=2) + "\n")
