"""Segmenters, image (B, H, W, 3) -> logits, and critics, image -> stage features, by name."""

from crlm_jax.models.nnunet import NNUNet
from crlm_jax.models.resnet import ResNet50
from crlm_jax.models.segan import SegANCritic, SegANSegmentor
from crlm_jax.models.transunet import TransUNet
from crlm_jax.models.unet import UNet
from crlm_jax.models.unetpp import UNetPlusPlus

SEGMENTERS = {
    "unet": UNet,
    "unetpp": UNetPlusPlus,
    "nnunet": NNUNet,
    "transunet": TransUNet,
    "segan": SegANSegmentor,
}
CRITICS = {"resnet50": ResNet50, "segan": SegANCritic}
