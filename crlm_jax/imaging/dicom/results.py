"""What all DICOM objects that are written have in common: UIDs, dates, patient and study.

UIDs are derived from what the result is of: the images that were read, and the algorithm with its
settings. So a result that is made or sent twice is the same object, on every machine, and an image
that comes later gives another object. They are not derived from the clock. The dates are those of
the clock unless they are given; with the same date the file is the same byte for byte.
"""

import contextlib
import dataclasses
import datetime
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.uid import generate_uid

from crlm_jax.imaging.dicom.frames import Frame
from crlm_jax.imaging.dicom.series import Series
from crlm_jax.imaging.geometry import VolumeError

Kind = Literal["SEG", "SR", "RTSTRUCT"]

MANUFACTURER = "crlm_jax"
LONG_STRING = 64  # characters of DICOM's type LO
# Above the numbers that scanners give, so that a list shows results last.
SERIES_NUMBERS: dict[Kind, int] = {"SEG": 1000, "SR": 1001, "RTSTRUCT": 1002}
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://doi.org/10.1186/s40644-025-00964-z")
# The elements that a result copies from its source image: what an archive tells patients, studies
# and trials apart by; not what else is known of the patient, such as allergies.
_PATIENT_AND_STUDY = """
    SpecificCharacterSet PatientName PatientID IssuerOfPatientID OtherPatientIDsSequence
    PatientBirthDate PatientBirthTime PatientSex PatientAge PatientSize PatientWeight
    PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence StudyID
    StudyDate StudyTime StudyDescription ProcedureCodeSequence AccessionNumber
    ReferringPhysicianName ClinicalTrialSponsorName ClinicalTrialProtocolID
    ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialSubjectID
    ClinicalTrialSubjectReadingID ClinicalTrialTimePointID ClinicalTrialTimePointDescription
    LongitudinalTemporalOffsetFromEvent LongitudinalTemporalEventType
"""
# The elements that must be there, even if empty.
_REQUIRED = """
    PatientName PatientID PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber
    ReferringPhysicianName
"""


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """What made a result."""

    name: str
    version: str
    fingerprint: str  # of the run that trained it; empty: none did
    settings: str = ""  # what else decides the result, such as a threshold


def derive_uid(*parts: str) -> str:
    """Returns a UID (`2.25.` and a UUID, PS3.5 B.2) that is always the same for the same texts."""
    text = "\n".join(f"{len(part)} {part}" for part in parts)  # where one ends counts
    return f"2.25.{uuid.uuid5(_NAMESPACE, text).int}"


def derive_from(series: Series, algorithm: Algorithm, *parts: str) -> str:
    """Returns the UID of what an algorithm made of the images of a series; `parts` say which."""
    images = sorted(
        f"{header.get('SOPInstanceUID')} {header.number if isinstance(header, Frame) else ''}"
        for header in series.headers
    )
    return derive_uid(*parts, series.uid, *dataclasses.astuple(algorithm), *images)


def series_uid(series: Series, algorithm: Algorithm, kind: Kind) -> str:
    """Returns the Series Instance UID of a result."""
    return derive_from(series, algorithm, "series", kind)


def instance_uid(series: Series, algorithm: Algorithm, kind: Kind) -> str:
    """Returns the SOP Instance UID of a result."""
    return derive_from(series, algorithm, "instance", kind)


def tracking_uid(series: Series, algorithm: Algorithm, number: int) -> str:
    """Returns the Tracking Unique Identifier of a lesion, the same in all results."""
    return derive_from(series, algorithm, "lesion", str(number))


def name_lesion(number: int) -> str:
    """Returns what a lesion is called in all results: a pattern of `segment_names` finds it."""
    return f"Tumor_{number}"


@contextlib.contextmanager
def carrying(path: Path, of: Sequence[Series], what: str, remedy: str) -> Iterator[None]:
    """Lets a block put a result together, whose errors name the series and the remedy.

    Args:
      path: of the result, for messages.
      of: the series that it belongs to.
      what: the result, for messages.
      remedy: what to do instead.

    Raises:
      VolumeError: any error of the block; the headers of a series are too poor or invalid.
    """
    try:
        # Invalid values are copied as they are; pydicom would quote them in warnings.
        with pydicom.config.disable_value_validation():
            yield
    except Exception as error:  # any error of highdicom or pydicom, some quoting patient data
        names = " and ".join(series.uid for series in of)
        raise VolumeError(
            f"{path}: series {names} cannot carry {what} ({type(error).__name__}); {remedy}"
        ) from error


def frame_of_reference(header: pydicom.Dataset) -> str:
    """Returns the Frame of Reference UID of an image, or one made up where an export has none."""
    return str(
        header.get("FrameOfReferenceUID")
        or generate_uid(entropy_srcs=[str(header.SeriesInstanceUID)])
    )


def put_patient_and_study(written: pydicom.Dataset, header: pydicom.Dataset) -> None:
    """Copies patient and study from a source image, unchanged even where they are invalid."""
    for keyword in _PATIENT_AND_STUDY.split():
        if keyword in header:
            written[keyword] = header[keyword]
    put_required(written)
    if not written.get("SpecificCharacterSet"):  # invalid if present without a value
        written.pop("SpecificCharacterSet", None)


def put_required(header: pydicom.Dataset) -> None:
    """Adds the elements of patient and study that must be there, empty, where they are not."""
    for keyword in _REQUIRED.split():
        if keyword not in header:
            setattr(header, keyword, None)


def put_dates(
    written: pydicom.Dataset, when: datetime.datetime | None, keywords: Sequence[str]
) -> None:
    """Sets dates and times; None: now.

    Args:
      written: the result.
      when: the date and time.
      keywords: of the pairs of elements without `Date` and `Time`, such as `Content`.
    """
    when = when or datetime.datetime.now()
    for keyword in keywords:
        setattr(written, f"{keyword}Date", when.strftime("%Y%m%d"))
        setattr(written, f"{keyword}Time", when.strftime("%H%M%S"))
    for item in written.get("ContributingEquipmentSequence") or ():  # highdicom names itself
        item.ContributionDateTime = when.strftime("%Y%m%d%H%M%S")


def plain(text: str) -> str:
    """Returns a text of our own in letters that every character set has."""
    return text.encode("ascii", "replace").decode()
