"""CRLM-GAN in JAX: one-stage segmentation of colorectal liver metastases on MRI and CT."""

__version__ = "0.2.0"
