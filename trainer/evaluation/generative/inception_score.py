"""How sure a classifier is of each image, and how unlike its answers are: the Inception score."""

import math

from torch import Tensor


def inception_score(logits: Tensor) -> tuple[float, float | None]:
    """exp of the mean divergence of each image's classes from those of all (Salimans et al., 2016), over logits [N, K].

    All images are one group, where the paper means over ten, so that the number does not hang on their order. Beside it
    one standard error for other images, None for fewer than two: the mean's slope is the divergence itself, as that of
    the classes of all adds nothing at first order.
    """
    logs = logits.double().log_softmax(1)
    shares = logs.exp()
    divergence = (shares * (logs - shares.mean(0).clamp(min=1e-300).log())).sum(1)  # [N], nats
    value = math.exp(float(divergence.mean()))
    stderr = value * float(divergence.std()) / math.sqrt(len(logits)) if len(logits) > 1 else None
    return value, stderr
