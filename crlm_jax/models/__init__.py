"""Segmenters, image (B, H, W, 3) -> logits, and critics, image -> stage features, by name."""

from crlm_jax.models.resnet import ResNet50
from crlm_jax.models.unet import UNet
from crlm_jax.models.unetpp import UNetPlusPlus

SEGMENTERS = {"unet": UNet, "unetpp": UNetPlusPlus}
CRITICS = {"resnet50": ResNet50}
