"""A small plain CNN, the baseline for the other architectures."""

from __future__ import annotations

from torch import Tensor, nn

from .heads import resize


class PlainCNN(nn.Module):
    """Three stages of two 3x3 convolutions, each halving the resolution, then a 1x1 score layer.

    No skip connections, no pretrained weights. The logits at stride 8 are upsampled bilinearly.

    Args:
        classes: Number of classes C.
        width: Channels of the first stage; doubled by each further stage.
        dropout: Probability of dropping a channel before the score layer.
        in_channels: Channels of the images.
    """

    def __init__(
        self, classes: int, width: int = 32, dropout: float = 0.0, in_channels: int = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in range(3):
            out = width * 2**stage
            for stride in (2, 1):
                layers += [
                    nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(out),
                    nn.ReLU(inplace=True),
                ]
                channels = out
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout2d(dropout)
        self.score = nn.Conv2d(channels, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) of normalised images (N, in_channels, H, W).

        H and W are multiples of 8.
        """
        return resize(self.score(self.dropout(self.layers(images))), images.shape[-2:])
