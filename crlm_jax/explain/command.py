"""The command that maps where the segmenter looks, and what the critic sees of a prediction.

    python -m crlm_jax.explain --run runs/ct --image scan.nii.gz --out explained
    python -m crlm_jax.explain --run runs/ct --image scan.nii.gz --out explained --mask mask.nii.gz

A lesion's score is the sum of the segmenter's logits over its pixels. Two maps share it out over
the image: integrated gradients, whose values add up to the score less that of a baseline (checked
in every run), and occlusion, the loss of score where a patch is hidden. With a reference mask, one
map for each constrained stage of the critic shows where it tells prediction and reference apart.

Everything is computed slice by slice, as the network sees them, and in float32 even if the run was
trained in bfloat16.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.config.schema import ConfigError
from crlm_jax.errors import UserError
from crlm_jax.explain.figure import draw_lesion, headline
from crlm_jax.explain.record import describe
from crlm_jax.explain.scan import (
    ExplainedScan,
    Maps,
    explain_lesion,
    explain_stages,
    read_scan,
)
from crlm_jax.imaging.lattice import RESAMPLE
from crlm_jax.method.attribution import upsample_stage_map
from crlm_jax.models.torch_weights import WeightsError
from crlm_jax.predict.scans import add_scan_arguments, check_condition
from crlm_jax.predict.segmenter import use_compile_cache
from crlm_jax.system.console import local_path, print_error, print_stderr
from crlm_jax.system.files import check_folder, whole_folder

_OURS = r"explain\.json|lesion\d+(_\w+)?\.(png|nii\.gz)|stage\d+\.nii\.gz"


def _check_out(out: Path) -> None:
    """Raises UserError unless `out` is new, empty, or holds earlier maps."""
    check_folder(out, _OURS, "explain.json")


@dataclasses.dataclass(frozen=True)
class _StageMaps:
    """The maps of the critic's stages, or the reason why there are none."""

    maps: dict[int, Maps]  # by stage
    missing: str | None = None
    failed: bool = False  # the critic was needed, but is not available


def _map_stages(explained: ExplainedScan) -> _StageMaps:
    if not explained.segmenter.config.loss.stages:
        return _StageMaps({}, "no stage maps: the run has no critic (loss.stages is empty)")
    if explained.reference is None:
        return _StageMaps({}, "no stage maps: they need a reference mask; give it with --mask")
    try:
        return _StageMaps(explain_stages(explained, explained.reference))
    except (WeightsError, ConfigError) as error:
        reason = " ".join(str(error).split())
        return _StageMaps({}, f"no stage maps: {reason}", failed=True)


def _write_stages(explained: ExplainedScan, folder: Path, stages: dict[int, Maps]) -> dict:
    """Writes the maps of the stages; returns their means by stage and slice."""
    means = {}
    for stage, maps in stages.items():
        whole = {z: upsample_stage_map(values, explained.side) for z, values in maps.items()}
        explained.write_map(folder / f"stage{stage}.nii.gz", whole)
        means[str(stage)] = {str(z): float(m.mean(dtype=float)) for z, m in maps.items()}
    return means


def _explain(explained: ExplainedScan, folder: Path, args: argparse.Namespace) -> int:
    """Writes the maps and numbers of a scan; returns 1 if the critic is not available."""
    about, count = describe(explained, args.steps), len(explained.prediction.lesions)
    stages = _StageMaps({})
    for warning in about["warnings"]:
        print_stderr(f"warning: {warning}")
    if count:
        if not 1 <= (args.lesion or 1) <= count:
            raise UserError(f"--lesion {args.lesion}: {count} lesion(s) are predicted")
        stages = _map_stages(explained)
        about["stages_note"] = stages.missing
        if stages.failed:
            print_error(stages.missing)
        elif stages.missing:
            print_stderr(f"note: {stages.missing}")
    about["stages"] = _write_stages(explained, folder, stages.maps) or None
    chosen = [args.lesion] if args.lesion else range(1, count + 1)
    for number in chosen if count else ():
        lesion = explain_lesion(explained, number, args.method, args.steps)
        about["lesions"].append(lesion.to_json())
        if lesion.scores and not lesion.scores.complete:
            title = headline(explained, lesion)
            print_stderr(f"warning: {title}: ask for more than --steps {args.steps}")
        for name, by_slice in lesion.maps.items():
            explained.write_map(folder / f"lesion{number}_{name}.nii.gz", by_slice)
        figure = draw_lesion(explained, lesion, stages.maps)
        figure.savefig(folder / f"lesion{number}.png", dpi=110)
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "explain.json").write_text(text + "\n", encoding="utf-8")
    done = f"{len(about['lesions'])} of {count} lesion(s) explained"
    print(f"{args.out}: {done if count else 'no lesion is predicted; there is explain.json alone'}")
    return int(stages.failed)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; a usage error ends the program."""
    parser = argparse.ArgumentParser(
        prog="python -m crlm_jax.explain",
        description="Map where a trained segmenter looks when it calls something a lesion, and, "
        "with a reference mask, what its critic sees of it.",
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, help="folder of the run, such as runs/ct")
    add(
        "--image",
        type=local_path,
        nargs="+",
        required=True,
        help="one scan: NIfTI, NRRD, MHA, PNG or DICOM folder; for a run that sees several "
        "sequences together, one of each, in its order",
    )
    add("--out", type=local_path, required=True, help="folder: new, empty, or of earlier maps")
    add(
        "--mask",
        type=local_path,
        help="reference, for the maps of the critic's stages; several files: joined by |",
    )
    add("--mask-label", type=lambda x: int(x) if x.isdigit() else x, metavar="N",
        help="which label is tumour: a number, or a pattern of segment names")  # fmt: skip
    add("--resample-masks", action="store_true", help=RESAMPLE)
    add_scan_arguments(parser, "scan")
    add("--steps", type=int, default=64, help="of integrated gradients at first (default: 64)")
    add("--lesion", type=int, metavar="N", help="only this one, as predict numbers them")
    add("--method", choices=("integrated_gradients", "occlusion", "both"), default="both")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps {args.steps}: must be 1 or more")
    if args.lesion is not None and args.lesion < 1:
        parser.error(f"--lesion {args.lesion}: they are numbered from 1")
    check_condition(parser, args.condition)
    if args.mask_label is not None and not args.mask:
        parser.error("--mask-label: give the mask too, with --mask")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 if the critic is not available."""
    args = _parse(argv)
    with whole_folder(args.out.resolve(), _check_out) as folder:
        use_compile_cache()
        explained = read_scan(
            args.run, args.image, condition=args.condition, series=args.series,
            b_value=args.b_value, mask=args.mask, mask_label=args.mask_label,
            resample_masks=args.resample_masks,
        )  # fmt: skip
        return _explain(explained, folder, args)
