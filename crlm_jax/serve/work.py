"""What the node does with a complete series: the segmenter's answer, as DICOM objects to send."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from crlm_jax.errors import UserError
from crlm_jax.predict.outputs import Job
from crlm_jax.predict.scans import Scan
from crlm_jax.predict.segmenter import ScanSegmenter
from crlm_jax.predict.stream import predict_scans
from crlm_jax.serve.rules import Rule
from crlm_jax.serve.spool import completed


class AnswerError(UserError):
    """A series that cannot be segmented; the message says why, and what to do."""


class Answer(Protocol):
    """Segments the series in a folder and writes DICOM objects into another; says what it found.

    `maker` says what decides its results beside images and rules.

    Raises:
      AnswerError: the series cannot be segmented.
    """

    maker: str

    def __call__(
        self, images: Path, series: str, rule: Rule, out: Path, *, warn: Callable[[str], None]
    ) -> str: ...


def answer_with(segmenter: ScanSegmenter, *, report: bool = True) -> Answer:
    """Returns the answer of a trained segmenter: what `predict` writes for the folder.

    That is a DICOM-SEG, and with `report` a structured report, which refers to it.
    """
    return _Segmenting(segmenter, report)


class _Segmenting:
    """The answer of a trained segmenter."""

    def __init__(self, segmenter: ScanSegmenter, report: bool):
        self._clocked, self._report = _Clocked(segmenter), report
        self.maker = f"{segmenter.made_by()}, report {report}"

    def __call__(
        self, images: Path, series: str, rule: Rule, out: Path, *, warn: Callable[[str], None]
    ) -> str:
        start, self._clocked.seconds = time.perf_counter(), 0.0
        scan = Scan(images, "series", "", rule.condition, series, rule.b_value)
        # The archive gets them in the order of their names.
        job = Job(
            scan,
            out / "1_seg.dcm",
            report=out / "2_sr.dcm" if self._report else None,
            when=completed(images),
        )
        lesions, failed = predict_scans(cast(ScanSegmenter, self._clocked), [job], warn=warn)
        if failed:
            raise AnswerError(failed[0][1])
        whole = time.perf_counter() - start
        return f"{len(lesions)} lesion(s), {whole:.2f} s, network {self._clocked.seconds:.2f} s"


class _Clocked:
    """A segmenter that adds up the seconds of its network."""

    def __init__(self, segmenter: ScanSegmenter):
        self._segmenter, self.seconds = segmenter, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._segmenter, name)

    def probability(self, slices: np.ndarray, *progress: Callable[[int], object]) -> np.ndarray:
        start = time.perf_counter()
        try:
            return self._segmenter.probability(slices, *progress)
        finally:
            self.seconds += time.perf_counter() - start
