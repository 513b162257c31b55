"""LeNet-5: the paper's layers, and the same network on images of any size."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from configs.vision import LeNetConfig
from trainer.models.convolution import frame
from trainer.models.lenet import LeNet


def lenet(channels: int = 1, classes: int = 10, **fields: Any) -> LeNet:
    torch.manual_seed(0)
    return LeNet(LeNetConfig(kind="lenet", **fields), channels=channels, classes=classes).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def test_lenet_on_28_pixels_has_the_papers_layers() -> None:
    net = lenet()
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    assert sizes == {"c1": 156, "c3": 2416, "c5": 48_120, "f6": 10_164, "head": 850}
    plain = nn.Sequential(
        *(net.c1, nn.Tanh(), nn.AvgPool2d(2), net.c3, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(net.c5, nn.Tanh(), net.f6, nn.Tanh(), net.head),
    )
    torch.testing.assert_close(net(noise(3, 1, 28, 28)), plain(noise(3, 1, 28, 28)))


def test_lenet_with_modern_parts_is_wider_and_takes_maxima() -> None:
    net = lenet(channels=3, width_factor=2, activation="relu", pooling="maximum")
    plain = nn.Sequential(
        *(net.c1, nn.ReLU(), nn.MaxPool2d(2), net.c3, nn.ReLU(), nn.AdaptiveMaxPool2d(5), nn.Flatten()),
        *(net.c5, nn.ReLU(), net.f6, nn.ReLU(), net.head),
    )
    assert [net.c1.out_channels, net.c3.out_channels, net.c5.out_features, net.f6.out_features] == [12, 32, 240, 168]
    images = noise(2, 3, 48, 28)  # maps of 20 and 10, which 5 divides
    torch.testing.assert_close(net(images), plain(images))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), channels=st.sampled_from([1, 3]))
def test_lenet_takes_images_of_any_size(height: int, width: int, channels: int) -> None:
    with torch.inference_mode():
        logits = lenet(channels, 4)(noise(2, channels, height, width))
    assert logits.shape == (2, 4)
    assert torch.isfinite(logits).all()


def test_small_images_are_framed_in_the_middle() -> None:
    framed = frame(torch.ones(1, 1, 7, 30), 28)
    assert framed.shape == (1, 1, 28, 30)
    assert framed[0, 0, :, 0].tolist() == [0.0] * 10 + [1.0] * 7 + [0.0] * 11
    assert torch.equal(frame(noise(1, 1, 28, 64), 28), noise(1, 1, 28, 64))
