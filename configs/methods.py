"""The methods: what each changes in the paper's setting, and how it is made small for a laptop.

Each comparator is as its own authors define it, with the sources named. At the paper's scale, batch
and length of the training are the authors' too; at the laptop's scale they are the same for all.
"""

from crlm_jax.config.schema import Config, CriticConfig, Loss, Optimizer, TransUNetConfig


def _crlm_gan(config: Config) -> None:
    """UNet++ under BCE + Dice and the feature distance in a frozen ResNet-50."""


def _unetpp(config: Config) -> None:
    """The same segmenter, loss and optimiser without a critic."""
    config.loss.stages = ()


def _unet(config: Config) -> None:
    """UNet with the loss and optimiser of the method, without a critic."""
    config.segmenter.name = "unet"
    config.loss.stages = ()


def _adversarial(config: Config) -> None:
    """CRLM-GAN whose ResNet-50 is trained too, to increase the feature distance."""
    config.critic.update = "adversarial"


def _released(config: Config) -> None:
    """CRLM-GAN as its published code runs: a feature loss that has no gradient.

    The image is masked with the logits, one mean is taken over all stages' features, the ResNet
    normalises by its batch, and BCE has weight 0.5. The code's other departures from the paper
    (images normalised twice, turned by any angle, validation on training patients) are not kept,
    because they are not part of the method.
    """
    config.loss.feature_gradient, config.loss.mask_with = False, "logits"
    config.loss.fusion, config.loss.bce_weight = "concatenated", 0.5
    config.critic.batch_norm = "batch"
    config.loss.mask_applied = "after_normalisation"


def _nnunet(config: Config) -> None:
    """nnU-Net v2 as it plans 2D slices of 224 pixels, in one fold and without its ensembling.

    PlainConvUNet, batch Dice + cross-entropy on every head but the coarsest, SGD, its augmentation,
    a third of each batch from slices with tumour, mirrored at prediction; 1000 epochs of 250 steps.
    github MIC-DKFZ/nnUNet 0e495086: `nnUNetTrainer`. For 224 × 224 its planner's rule (8 GB) gives
    a batch of 65; it is 64 here, which devices can share. The learning rate falls every step, in
    nnU-Net every epoch. Its normalisation (z-score of a volume) is replaced by that of all methods
    here.
    """
    config.segmenter.name, config.segmenter.deep_supervision = "nnunet", True
    config.segmenter.widths = (32, 64, 128, 256, 512, 512)
    config.loss.stages, config.loss.dice, config.loss.heads = (), "batch", "halved"
    config.optimizer = Optimizer(
        learning_rate=1e-2,
        momentum=0.99,
        nesterov=True,
        weight_decay=3e-5,
        schedule="polynomial",
        clip_norm=12.0,
    )
    config.augment.policy = "nnunet"
    config.data.train_slices, config.train.foreground = "all", 0.33
    config.train.batch_size, config.train.steps = 64, 250_000
    config.train.checkpoint_every = 250
    config.evaluation.mirror = True


def _laptop_nnunet(config: Config) -> None:
    """A momentum of 0.99 would average over a third of the few hundred steps.

    Training with slices without tumour would need many more steps.
    """
    config.optimizer.momentum = 0.9
    config.data.train_slices, config.train.foreground = "tumour", 0.0


def _transunet(config: Config) -> None:
    """TransUNet (R50-ViT-B/16) from ImageNet-21k weights, as its authors train it.

    github Beckschen/TransUNet: half cross-entropy, half Dice of both classes; SGD 0.01, which falls
    with every step; batch 24, 150 epochs. The augmentation is the paper's, as for all methods but
    nnU-Net.
    """
    config.segmenter.name, config.segmenter.widths = "transunet", (512, 256, 128, 64, 16)
    config.transunet.weights = "R50+ViT-B_16.npz"
    config.loss.stages, config.loss.dice = (), "two_class"
    config.loss.bce_weight = config.loss.dice_weight = 0.5
    config.optimizer = Optimizer(learning_rate=0.01, schedule="polynomial")
    config.train.batch_size, config.train.epochs = 24, 150


def _laptop_transunet(config: Config) -> None:
    """A small ResNet and a small transformer from random weights."""
    config.segmenter.widths = (64, 32, 16, 8, 8)
    config.transunet = TransUNetConfig(
        resnet_width=8, resnet_units=(1, 1, 1), hidden=64, layers=2, heads=4, mlp=128
    )


def _segan(config: Config) -> None:
    """SegAN: its segmentor and its critic against each other on a multi-scale L1 distance.

    github YuanXue1993/SegAN (aa892a63): critic weights within ±0.05, Dice with squares, Adam 2e-4
    halved every 25 epochs. In the original the critic is updated first, the segmentor's gradient
    goes through the updated critic, and Adam's moments are reset at every halving; here both are
    updated at once and Adam keeps its moments. The paper's augmentation replaces the random crops,
    as for all methods but nnU-Net.
    """
    config.segmenter.name, config.segmenter.widths = "segan", (64,)
    config.critic = CriticConfig(
        name="segan", weights="random", update="adversarial", clip=0.05, batch_norm="batch"
    )
    config.loss = Loss(
        bce_weight=0.0,
        dice="squared",
        stages=(1, 2, 3, 4, 5, 6, 7),
        fusion="concatenated",
        mask_applied="after_normalisation",
    )
    config.optimizer = Optimizer(
        name="adam", learning_rate=2e-4, schedule="halved", momentum=0.5, weight_decay=0.0
    )


def _laptop_segan(config: Config) -> None:
    """An eighth of the width."""
    config.segmenter.widths, config.critic.width = (8,), 8
    config.optimizer.learning_rate = 1e-3


METHODS = {
    "crlm_gan": _crlm_gan,
    "unetpp": _unetpp,
    "unet": _unet,
    "nnunet": _nnunet,
    "transunet": _transunet,
    "segan": _segan,
    "adversarial": _adversarial,
    "released": _released,
}
LAPTOP = {"nnunet": _laptop_nnunet, "transunet": _laptop_transunet, "segan": _laptop_segan}
