"""A scan in, a mask out that opens exactly on top of it.

    import SimpleITK as sitk
    from crlm_jax import predict

    segment = predict.load("runs/ct")
    mask = segment(sitk.ReadImage("scan.nii.gz"))
    sitk.WriteImage(mask, "mask.nii.gz")

May import: every package below it; never `training` or `report`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
