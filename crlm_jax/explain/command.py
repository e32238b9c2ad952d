"""Where the segmenter looks when it calls something a lesion, and what the critic sees of it.

    python -m crlm_jax.explain --run runs/ct --image scan.nii.gz --out explained
    python -m crlm_jax.explain --run runs/ct --image scan.nii.gz --out explained --mask mask.nii.gz

A lesion's score is the sum of the segmenter's logits over its pixels. Two maps share it out over
the image: integrated gradients, whose values add up to the score less that of a baseline (checked
at every run), and occlusion, the loss of score where a patch is hidden. With a reference mask, one
map for each constrained stage of the critic shows where it tells prediction and reference apart.

All is done slice by slice, since the network sees single slices, and in float32 even where the run
was trained in bfloat16.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from crlm_jax.config.schema import ConfigError
from crlm_jax.errors import UserError
from crlm_jax.explain.figure import draw_lesion, headline
from crlm_jax.explain.scan import (
    ExplainedScan,
    Maps,
    describe,
    explain_lesion,
    explain_stages,
    read_task,
)
from crlm_jax.method.attribution import upsample_stage_map
from crlm_jax.models.torch_weights import WeightsError
from crlm_jax.predict.scans import add_scan, check_condition
from crlm_jax.system.console import local_path, print_stderr
from crlm_jax.system.files import check_folder, whole_folder

_OURS = r"explain\.json|lesion\d+(_\w+)?\.(png|nii\.gz)|stage\d+\.nii\.gz"


def _check_out(out: Path) -> None:
    """Raises ValueError unless `out` is new, empty, or earlier maps."""
    check_folder(out, _OURS, "explain.json")


def _stages_or_why_not(task: ExplainedScan) -> tuple[dict[int, Maps], str | None, bool]:
    """Returns the stage maps, or why there are none and whether that is a failure."""
    if not task.segmenter.config.loss.stages:
        return {}, "no stage maps: the run has no critic (loss.stages is empty)", False
    if task.reference is None:
        return {}, "no stage maps: they compare with a reference; give it with --mask", False
    try:
        return explain_stages(task), None, False
    except (WeightsError, ConfigError) as error:
        return {}, f"no stage maps: {error}", True


def _explain(task: ExplainedScan, folder: Path, args: argparse.Namespace) -> int:
    """Writes the maps and numbers of a scan; returns 1 where the critic could not be had."""
    about, count = describe(task, args.steps), len(task.prediction.lesions)
    stages, failed = {}, False
    for warning in about["warnings"]:
        print_stderr(f"warning: {warning}")
    if count:
        if not 1 <= (args.lesion or 1) <= count:
            raise UserError(f"--lesion {args.lesion}: {count} lesion(s) are predicted")
        stages, about["stages_note"], failed = _stages_or_why_not(task)
        if about["stages_note"]:
            print_stderr(f"{'error' if failed else 'note'}: {about['stages_note']}")
    for stage, maps in stages.items():
        whole = {z: upsample_stage_map(values, task.slices.shape[1]) for z, values in maps.items()}
        task.write_map(folder / f"stage{stage}.nii.gz", whole)
        means = {str(z): float(values.mean(dtype=float)) for z, values in maps.items()}
        about["stages"] = (about["stages"] or {}) | {str(stage): means}
    chosen = [args.lesion] if args.lesion else range(1, count + 1)
    for number in chosen if count else ():
        numbers, maps = explain_lesion(task, number, args.method, args.steps)
        about["lesions"].append(numbers)
        if not numbers.get("complete", True):
            print_stderr(
                f"warning: {headline(task, numbers)}: ask for more than --steps {args.steps}"
            )
        for name, by_slice in maps.items():
            task.write_map(folder / f"lesion{number}_{name}.nii.gz", by_slice)
        figure = draw_lesion(task, numbers, maps, stages)
        figure.savefig(folder / f"lesion{number}.png", dpi=110)
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "explain.json").write_text(text + "\n", encoding="utf-8")
    done = f"{len(about['lesions'])} of {count} lesion(s) explained"
    print(f"{args.out}: {done if count else 'no lesion is predicted; there is explain.json alone'}")
    return int(failed)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
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
        required=True,
        help="one scan: NIfTI, NRRD, MHA, PNG or DICOM folder",
    )
    add("--out", type=local_path, required=True, help="folder: new, empty, or of earlier maps")
    add("--mask", type=local_path, help="reference, for the maps of the critic's stages")
    add("--mask-label", type=lambda x: int(x) if x.isdigit() else x, metavar="N",
        help="the value of the mask that counts (default: any but 0)")  # fmt: skip
    add_scan(parser, "scan", "s/mm², of a DICOM diffusion series")
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
    """Runs the command line; returns the exit code: 1 if the critic could not be had."""
    args = _arguments(argv)
    with whole_folder(args.out.resolve(), _check_out) as folder:
        return _explain(read_task(args), folder, args)
