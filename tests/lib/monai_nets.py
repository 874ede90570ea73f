"""Networks of MONAI, narrow but as deep as in the wild: those that can be tiled exactly, and those that cannot.

Importing this module imports MONAI.
"""

from __future__ import annotations

import warnings

from tests.lib.nets import Entry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what MONAI imports, on its way
    from monai.networks import nets

WIDE = (4, 4, 4, 4, 4, 4)


def _dynunet(ndim: int, norm: str, **options: object) -> nets.DynUNet:
    return nets.DynUNet(
        ndim, 1, 2, kernel_size=[3] * 4, strides=[1, 2, 2, 2], upsample_kernel_size=[2] * 3, filters=[4] * 4,
        norm_name=norm, **options,
    )  # fmt: skip


def _anisotropic() -> nets.DynUNet:
    flat = (1, 3, 3)
    return nets.DynUNet(
        3, 1, 2, kernel_size=[flat, 3, 3], strides=[1, (1, 2, 2), 2], upsample_kernel_size=[(1, 2, 2), 2],
        filters=[4] * 3, norm_name="batch", res_block=True,
    )  # fmt: skip


def _attention_unet(ndim: int, batch: bool) -> nets.AttentionUnet:
    """Its merging convolutions normalise by instance whatever is asked for; replaced by batch normalisation or not."""
    from torch import nn

    net = nets.AttentionUnet(ndim, 1, 2, channels=(4, 6, 8), strides=(2, 2))
    for layer in net.modules():
        for name, child in list(layer.named_children()):
            if batch and isinstance(child, nn.InstanceNorm2d | nn.InstanceNorm3d):
                setattr(layer, name, (nn.BatchNorm2d if ndim == 2 else nn.BatchNorm3d)(child.num_features))
    return net


def _dense(ndim: int) -> nets.DenseNet:
    return nets.DenseNet(ndim, 1, 2, init_features=4, growth_rate=2, block_config=(2, 2, 2))


def _unet(ndim: int, norm: str, depth: int, units: int) -> nets.UNet:
    return nets.UNet(ndim, 1, 2, channels=(4,) * depth, strides=(2,) * (depth - 1), num_res_units=units, norm=norm)


EXACT: dict[str, Entry] = {
    "UNet 2D": Entry(lambda: _unet(2, "batch", 5, 2), ndim=2),
    "UNet 2D, no residual units": Entry(lambda: _unet(2, "batch", 4, 0), ndim=2),
    "UNet 3D": Entry(lambda: _unet(3, "batch", 3, 2)),
    "BasicUNet 2D": Entry(lambda: nets.BasicUNet(2, 1, 2, features=WIDE, norm="batch"), ndim=2),
    "BasicUNet 3D": Entry(lambda: nets.BasicUNet(3, 1, 2, features=WIDE, norm="batch")),
    "BasicUNet++ 2D": Entry(lambda: nets.BasicUNetPlusPlus(2, 1, 2, features=WIDE, norm="batch"), ndim=2),
    "SegResNet 2D": Entry(lambda: nets.SegResNet(2, 4, 1, 2, norm="batch"), ndim=2),
    "SegResNet 2D, transposed": Entry(lambda: nets.SegResNet(2, 4, 1, 2, norm="batch", upsample_mode="deconv"), ndim=2),
    "SegResNet 3D": Entry(lambda: nets.SegResNet(3, 4, 1, 2, norm="batch")),
    "SegResNetDS 3D": Entry(lambda: nets.SegResNetDS(3, 4, 1, 2, norm="batch", blocks_down=(1, 2, 2))),
    "DynUNet 2D": Entry(lambda: _dynunet(2, "batch"), ndim=2),
    "DynUNet 2D, deep supervision": Entry(lambda: _dynunet(2, "batch", deep_supervision=True, deep_supr_num=2), ndim=2),
    "DynUNet 3D": Entry(lambda: _dynunet(3, "batch")),
    "DynUNet 3D, anisotropic, residual": Entry(_anisotropic),
    "AttentionUnet 2D, batch norm": Entry(lambda: _attention_unet(2, True), ndim=2),
    "AttentionUnet 3D, batch norm": Entry(lambda: _attention_unet(3, True)),
    "VNet 2D": Entry(lambda: nets.VNet(2, 1, 2), ndim=2),
    "VNet 3D": Entry(lambda: nets.VNet(3, 1, 2)),
    "FlexibleUNet 2D, ResNet-18": Entry(
        lambda: nets.FlexibleUNet(1, 2, "resnet18", spatial_dims=2, decoder_channels=(8, 8, 8, 4, 4)), ndim=2
    ),
    "DenseNet-121, features, 2D": Entry(lambda: nets.DenseNet121(2, 1, 2).features, ndim=2),
    "DenseNet, features, 3D": Entry(lambda: _dense(3).features),
    "HighResNet 2D": Entry(lambda: nets.HighResNet(2, 1, 2), ndim=2),
    "HighResNet 3D": Entry(lambda: nets.HighResNet(3, 1, 2)),
    "AutoEncoder 2D": Entry(lambda: nets.AutoEncoder(2, 1, 2, channels=(4, 8), strides=(2, 2), norm="batch"), ndim=2),
    "VoxelMorphUNet 2D": Entry(lambda: nets.VoxelMorphUNet(2, 2, 4, (4, 8, 8, 8), (8, 8, 8, 4)), channels=2, ndim=2),
    "PatchDiscriminator 2D": Entry(lambda: nets.PatchDiscriminator(2, 4, 1, num_layers_d=2), ndim=2, output=3),
}

REFUSED: dict[str, Entry] = {
    "UNet 3D, instance norm": Entry(lambda: _unet(3, "instance", 3, 2), layer="(InstanceNorm3d)"),
    "BasicUNet 2D, instance norm": Entry(lambda: nets.BasicUNet(2, 1, 2, WIDE), ndim=2, layer="(InstanceNorm2d)"),
    "BasicUNet 2D, align_corners": Entry(
        lambda: nets.BasicUNet(2, 1, 2, features=WIDE, norm="batch", upsample="nontrainable"),
        ndim=2,
        layer="upsample_non_trainable (Upsample)",
    ),
    "SegResNet 3D, group norm": Entry(lambda: nets.SegResNet(3, 8, 1, 2), layer="norm1 (GroupNorm)"),
    "DynUNet 2D, instance norm": Entry(lambda: _dynunet(2, "instance"), ndim=2, layer="norm1 (InstanceNorm2d)"),
    "AttentionUnet 2D": Entry(lambda: _attention_unet(2, False), ndim=2, layer="merge.adn.N (InstanceNorm2d)"),
    "SwinUNETR 3D, instance norm": Entry(
        lambda: nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12), layer="(SwinTransformerBlock)"
    ),
    "SwinUNETR 2D, batch norm": Entry(
        lambda: nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2, norm_name="batch"),
        ndim=2,
        layer="(SwinTransformerBlock)",
    ),
    "UNETR 3D": Entry(
        lambda: nets.UNETR(1, 2, (32, 32, 32), feature_size=4, hidden_size=24, mlp_dim=24, num_heads=2),
        layer="(PatchEmbeddingBlock)",
    ),
    "FlexibleUNet 2D, EfficientNet": Entry(
        lambda: nets.FlexibleUNet(1, 2, "efficientnet-b0", spatial_dims=2, decoder_channels=(8, 8, 8, 4, 4)),
        ndim=2,
        layer="_se_adaptpool (AdaptiveAvgPool2d)",
    ),
    "AutoencoderKL 2D": Entry(
        lambda: nets.AutoencoderKL(2, 1, 1, (1, 1), (4, 8), (False, False), 2, norm_num_groups=2),
        ndim=2,
        layer="norm1 (GroupNorm)",
        output=0,
    ),
}

CLASSIFIERS: dict[str, Entry] = {
    "DenseNet-121": Entry(lambda: nets.DenseNet121(2, 1, 2), ndim=2, layer="(AdaptiveAvgPool2d)"),
    "ResNet-10": Entry(lambda: nets.resnet10(spatial_dims=2, n_input_channels=1), ndim=2, layer="(AdaptiveAvgPool2d)"),
    "SEResNet-50": Entry(lambda: nets.SEResNet50(spatial_dims=2, in_channels=1, num_classes=2), ndim=2, layer="Pool"),
}
