"""All networks by their names in a configuration.

Segmenters map an image (B, H, W, 3) to logits, critics an image to stage features.
"""

from collections.abc import Callable

from flax import nnx

from crlm_jax.models.nnunet import NNUNet
from crlm_jax.models.options import SegmenterOptions
from crlm_jax.models.resnet import ResNet50
from crlm_jax.models.segan import SegANCritic, SegANSegmentor
from crlm_jax.models.transunet import TransUNet
from crlm_jax.models.unet import UNet
from crlm_jax.models.unetpp import UNetPlusPlus

SEGMENTERS: dict[str, Callable[[SegmenterOptions], nnx.Module]] = {
    "unet": UNet.from_options,
    "unetpp": UNetPlusPlus.from_options,
    "nnunet": NNUNet.from_options,
    "transunet": TransUNet.from_options,
    "segan": SegANSegmentor.from_options,
}
CRITICS: dict[str, type[ResNet50] | type[SegANCritic]] = {
    "resnet50": ResNet50,
    "segan": SegANCritic,
}
