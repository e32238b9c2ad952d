"""The codes of structured reports: standard ones, and private ones where none exists.

Private codes have the scheme `99CRLM`, which every report that has one explains. The table of
`docs/how-to/dicom.md` lists all codes.
"""

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

PRIVATE, PRIVATE_NAME = "99CRLM", "Private codes of crlm_jax"

LONG_AXIS, SHORT_AXIS, VOLUME = codes.SCT.LongAxis, codes.SCT.ShortAxis, codes.SCT.Volume
BY_VOXELS = codes.DCM.SumOfSegmentedVoxelMethodForVolume
LESIONS = Code("246206008", "SCT", "Number of lesions")
TOTAL = codes.SCT.Total
LESION, LIVER = codes.SCT.Lesion, codes.SCT.Liver
MM, MM3, PERCENT, COUNT = (
    codes.UCUM.Millimeter, codes.UCUM.CubicMillimeter, codes.UCUM.Percent, codes.UCUM.NoUnits
)  # fmt: skip
COMMENT, DEVICE = codes.DCM.Comment, codes.DCM.Device
PROCEDURES = {"CT": codes.LN.CTUnspecifiedBodyRegion, "MR": codes.LN.MRIUnspecifiedBodyRegion}
ANY_PROCEDURE = codes.SCT.ImagingProcedure

# Response to treatment.
RECIST = codes.DCM.RECIST1Point1
BASELINE, FOLLOW_UP = codes.UMLS.Baseline, codes.SCT.PostChemotherapy
CATEGORY, TARGET = codes.DCM.BaselineCategory, codes.DCM.TargetLesionAtBaseline
NON_TARGET = codes.DCM.NonTargetLesionAtBaseline
RESPONSE = codes.DCM.CurrentResponse
OF_TARGETS = {
    "CR": codes.DCM.TargetLesionCompleteResponse,
    "PR": codes.DCM.TargetLesionPartialResponse,
    "SD": codes.DCM.TargetLesionStableDisease,
    "PD": codes.DCM.TargetLesionProgressiveDisease,
}
OF_NON_TARGETS = {
    "CR": codes.DCM.NonTargetLesionCompleteResponse,
    "non-CR/non-PD": codes.DCM.NonTargetLesionIncompleteResponseOrStableDisease,
}
NEW_LESION_PD = Code("PD_NEW", PRIVATE, "Progressive disease by a new or reappeared lesion")
NOT_EVALUABLE = Code("NE", PRIVATE, "Response not evaluable: no lesion")
SUM = Code("SUM", PRIVATE, "Sum of diameters of target lesions")
SMALLEST_SUM = Code("SUM_MIN", PRIVATE, "Smallest sum of diameters so far")
CHANGE = Code("CHANGE", PRIVATE, "Change of the sum of diameters from baseline")
CHANGE_FROM_SMALLEST = Code("CHANGE_MIN", PRIVATE, "Change of the sum from the smallest so far")
VOLUME_CHANGE = Code("CHANGE_VOL", PRIVATE, "Change of the tumour volume from baseline")
ROLE = Code("ROLE", PRIVATE, "Role at follow-up")
IN_SUM = Code("IN_SUM", PRIVATE, "Counted in the sum of diameters")
NEW = Code("NEW", PRIVATE, "New lesion")
OTHER = Code("OTHER", PRIVATE, "Neither new nor counted in the sum")
