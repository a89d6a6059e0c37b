"""DIAS (Moon et al., ECCV 2022): a classifier trained against generated images and against a copycat's features.

Easy unknowns come from a generator, hard ones from a copycat network that imitates the classifier's hidden features; the
classifier learns to answer both with flat outputs. Facts from arXiv 2207.10024 and the published code (repository
wjun0830/Difficulty-Aware-Simulator: `osr.py`, `models/models.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.ranges import BatchSize, Count, CountOrZero, Epochs, NotNegative, Positive, Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from open_set_fer.methods.backbones import Network

NOISE = 100  # channels of the generator's input (published)
DEPTHS = (1, 2)  # stages after which the copycat's features are pulled and handed over (published: blocks 1 and 2 of 3)


class Dias:
    """s = -max softmax of the classifier; trained on the training images alone."""

    name = "dias"
    version = 1

    @dataclass(frozen=True)
    class Settings:
        """Defaults of the published code (`osr.py`), unless said otherwise.

        epochs: each is one GAN pass and one copycat pass over the training images.
        optimizer: of classifier and copycat. 'sgd' has momentum 0.9; with 'adam' the published rate is 1e-3, without
        weight decay, divided by ten after half of the epochs.
        lr_step: epochs between divisions of the learning rate by ten (published: after 60, 120, 180); 0: never.
        gan_learning_rate: Adam's with betas (0.5, 0.999), for generator and discriminator.
        gan_width: base number of channels of generator and discriminator.
        beta: weight of the generated images, in the generator's loss and the classifier's.
        fake_ratio: weight of the copycat's features in the classifier's loss. pull_ratio: of their imitation.
        smoothing: of the targets of the copycat's hidden features. smoothing2: of its final features and of generated
        images. 0 is the label, 1 the uniform distribution.
        erase_probability: random erasing of the classifiers' images, as in the closed-set recipe (published: none).
        copycat_statistics: the copycat's features, too, update the running statistics of the classifier's main batch norm
        (the published code). In trainings too short for the copycat to come near, that spoils evaluation mode: False.
        warm_start: the classifier starts from the shared closed-set model (published: fresh weights).
        batches_per_pass: 0 for all training images, else at most this many batches: for small machines.
        """

        epochs: Epochs = 200
        batch_size: BatchSize = 64
        optimizer: Literal["sgd", "adam"] = "sgd"
        learning_rate: Positive = 0.1
        weight_decay: NotNegative = 1e-4
        lr_step: CountOrZero = 60
        gan_learning_rate: Positive = 2e-4
        gan_width: Count = 64
        beta: NotNegative = 0.1
        fake_ratio: NotNegative = 0.1
        pull_ratio: NotNegative = 1.0
        smoothing: Share = 0.5
        smoothing2: Share = 1.0
        erase_probability: Share = 0.0
        copycat_statistics: bool = True
        warm_start: bool = False
        batches_per_pass: CountOrZero = 0

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Train classifier and simulator, score the test images (N,) by -max softmax in [-1, -1/K].

        predicted_class is the classifier's own. Raises SuiteError when training diverges to non-finite outputs.
        """
        from open_set_fer.methods.training import epoch_learning_rate, evaluate, set_learning_rate, softmax

        s = self.settings
        curves: dict[str, list[float]] = {}
        with context.phase("train"):
            simulator = _Simulator(s, task, context)
            for epoch in context.progress(range(s.epochs), f"{self.name}: epochs"):
                rate = epoch_learning_rate(s.learning_rate, 0.1, epoch // s.lr_step if s.lr_step else 0)
                for optimizer in (simulator.classifier_optimizer, simulator.copycat_optimizer):
                    set_learning_rate(optimizer, rate)
                for one_pass in (simulator.gan_step, simulator.copycat_step):
                    values = [one_pass(batch) for batch in simulator.batches()]
                    for key in values[0] if values else ():
                        curves.setdefault(key, []).append(float(np.mean([value[key] for value in values])))
        logits = evaluate(simulator.classifier, task.test_images)
        if not np.isfinite(logits).all():
            raise SuiteError("dias: training diverged, the logits are not finite", "lower dias.learning_rate")
        return Detection(-softmax(logits).max(axis=1), logits.argmax(axis=1), curves)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, strength: float) -> Tensor:
    """Mean cross-entropy of logits (N, K) against (1 - strength) x one-hot label + strength / K.

    strength 0 is plain cross-entropy; at 1 the target is uniform and the label plays no part.
    """
    import torch.nn.functional as functional

    return functional.cross_entropy(logits, labels, label_smoothing=strength)


def pull_distance(own: list[Tensor], others: list[Tensor]) -> Tensor:
    """Mean over depths of the mean absolute difference of two networks' features; `others` get no gradient."""
    import torch
    import torch.nn.functional as functional

    return torch.stack([functional.l1_loss(a, b.detach()) for a, b in zip(own, others, strict=True)]).mean()


def adversarial_loss(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of the discriminator's logits (N,) against 'all real' or 'all generated'."""
    import torch
    import torch.nn.functional as functional

    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def auxiliary_twin(network: Network) -> Network:
    """The same network with a batch-norm set of its own: convolutions and linear layer are shared, not copied."""
    from copy import deepcopy

    from torch import nn

    shared = {id(module): module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    return deepcopy(network, shared)


def build_gan(
    height: int, width: int, image_channels: int, input_channels: int, base: int, seed: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Generator (N, 100, 1, 1) -> images in [0, 1], and discriminator of (N, input_channels, height, width) -> logits (N,).

    The published pair, sized by the image: from maps of 4 to 7 pixels by doublings (32 px: 4 px and three doublings).
    The generated image is at least as large as asked for; the caller crops it.
    """
    import torch
    from torch import nn

    doublings = max((min(height, width) // 4).bit_length() - 1, 0)
    start = (-(-height // 2**doublings), -(-width // 2**doublings))
    widths = [base * min(8, 2**i) for i in range(1, doublings + 1)]  # of the discriminator; reversed, of the generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, discriminator = nn.Sequential(), nn.Sequential()
        inputs, kernel = NOISE, (start, 1, 0)
        for outputs in reversed(widths):
            generator.extend([nn.ConvTranspose2d(inputs, outputs, *kernel, bias=False), nn.BatchNorm2d(outputs)])
            generator.append(nn.ReLU(inplace=True))
            inputs, kernel = outputs, ((4, 4), 2, 1)
        generator.extend([nn.ConvTranspose2d(inputs, image_channels, *kernel, bias=False), nn.Sigmoid()])
        inputs = input_channels
        for index, outputs in enumerate(widths):
            discriminator.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False))
            if index:
                discriminator.append(nn.BatchNorm2d(outputs))
            discriminator.append(nn.LeakyReLU(0.2, inplace=True))
            inputs = outputs
        discriminator.extend([nn.Conv2d(inputs, 16 * base, 4, 1, 0, bias=False), nn.Sigmoid()])
        discriminator.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16 * base, 1), nn.Flatten(0)])
        for module in (*generator, *discriminator):
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
    return generator, discriminator


class _Simulator:
    """The four networks, their optimisers, and one step of each pass."""

    def __init__(self, settings: Dias.Settings, task: OpenSetTask, context: Context) -> None:
        import torch
        from torch import nn

        from open_set_fer.methods.backbones import build_network
        from open_set_fer.methods.training import as_tensor

        s, device = settings, context.device
        _, channels, height, width = task.train_images.shape
        classes = len(task.closed_classes)
        seeds = [int(torch.randint(2**62, (1,), generator=context.generator)) for _ in range(4)]
        self.settings = s
        self.size = (height, width)
        self.images, self.labels = as_tensor(task.train_images), as_tensor(task.train_labels)
        self.random = torch.Generator().manual_seed(seeds[0])
        self.classifier = build_network(context.backbone, classes, channels, seeds[1]).to(device)
        self.copycat = build_network(context.backbone, classes, channels, seeds[2]).to(device)
        if s.warm_start:
            self.classifier.load_state_dict(context.closed_set_model(task).network.state_dict())
        self.twin = auxiliary_twin(self.classifier)
        generator, discriminator = build_gan(height, width, channels, self.classifier.channels, s.gan_width, seeds[3])
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)

        def classifier_optimizer(*networks: nn.Module) -> torch.optim.Optimizer:
            parameters = nn.ModuleList(networks).parameters()  # each once, though the twins share most
            if s.optimizer == "adam":
                return torch.optim.Adam(parameters, s.learning_rate, weight_decay=s.weight_decay)
            return torch.optim.SGD(parameters, s.learning_rate, momentum=0.9, weight_decay=s.weight_decay)

        self.classifier_optimizer = classifier_optimizer(self.classifier, self.twin)
        self.copycat_optimizer = classifier_optimizer(self.copycat)
        self.generator_optimizer, self.discriminator_optimizer = (
            torch.optim.Adam(network.parameters(), s.gan_learning_rate, betas=(0.5, 0.999))
            for network in (self.generator, self.discriminator)
        )

    def batches(self) -> Iterator[Tensor]:
        """Indices of one pass over the training images, or of its first `batches_per_pass` batches."""
        import torch

        from open_set_fer.methods.training import batches

        pieces = batches(torch.arange(len(self.labels)), self.settings.batch_size, self.random)
        return islice(pieces, self.settings.batches_per_pass or None)

    def generate(self, n: int) -> Tensor:
        """n generated images, in the normalised range of `Network.prepare`."""
        import torch

        network = self.classifier
        noise = torch.randn((n, NOISE, 1, 1), generator=self.random).to(network.mean.device)
        images = self.generator(noise)[..., : self.size[0], : self.size[1]].expand(-1, network.channels, -1, -1)
        normalised: Tensor = (images - network.mean) / network.std
        return normalised.contiguous(memory_format=torch.channels_last)

    def gan_step(self, batch: Tensor) -> dict[str, float]:
        """Discriminator, generator and classifier on one batch (first pass of an epoch); returns the losses."""
        import torch

        from open_set_fer.methods.training import step

        s = self.settings
        for network in (self.classifier, self.twin, self.generator, self.discriminator):
            network.train()
        real, erased, labels = self._load(batch)
        fake = self.generate(len(batch))
        discriminator_loss = adversarial_loss(self.discriminator(real), True)
        discriminator_loss = discriminator_loss + adversarial_loss(self.discriminator(fake.detach()), False)
        step(self.discriminator_optimizer, discriminator_loss)

        # The generator fools the discriminator and moves away from images that the classifier already finds flat.
        flatness = smoothed_cross_entropy(self.twin(fake), labels, s.smoothing2)
        generator_loss = adversarial_loss(self.discriminator(fake), True) - s.beta * flatness
        step(self.generator_optimizer, generator_loss)

        with torch.no_grad():
            fake = self.generate(len(batch))
        loss = smoothed_cross_entropy(self.classifier(erased), labels, 0.0)
        loss = loss + s.beta * smoothed_cross_entropy(self.twin(fake), labels, s.smoothing2)
        step(self.classifier_optimizer, loss)
        return {
            "discriminator_loss": discriminator_loss.item(),
            "generator_loss": generator_loss.item(),
            "gan_pass_loss": loss.item(),
        }

    def copycat_step(self, batch: Tensor) -> dict[str, float]:
        """Copycat, then classifier, on one batch (second pass of an epoch); returns losses and pull distance."""
        import torch

        from open_set_fer.methods.training import frozen_statistics, step

        s, classifier, copycat = self.settings, self.classifier, self.copycat
        _, x, labels = self._load(batch)
        copycat.train()
        classifier.eval()
        with torch.no_grad():
            *targets, _ = features(classifier, x)
        *hidden, last = features(copycat, x)
        pull = pull_distance(hidden, targets)
        copycat_loss = smoothed_cross_entropy(copycat.classify(last), labels, 0.0) + s.pull_ratio * pull
        step(self.copycat_optimizer, copycat_loss)

        copycat.eval()
        classifier.train()
        with torch.no_grad():
            *hidden, last = features(copycat, x)
        loss = smoothed_cross_entropy(classifier(x), labels, 0.0)
        fakes = [smoothed_cross_entropy(classifier.classify(last), labels, s.smoothing2)]
        with nullcontext() if s.copycat_statistics else frozen_statistics(classifier):
            for depth, feature in zip(DEPTHS, hidden, strict=True):
                logits = classifier.classify(classifier.from_stage(feature, depth))
                fakes.append(smoothed_cross_entropy(logits, labels, s.smoothing))
        loss = loss + s.fake_ratio * torch.stack(fakes).mean()
        step(self.classifier_optimizer, loss)
        return {"copycat_loss": copycat_loss.item(), "pull_distance": pull.item(), "copycat_pass_loss": loss.item()}

    def _load(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A batch's augmented images as the discriminator sees them, as the classifiers do, and its labels."""
        from open_set_fer.methods.augmentation import flip_or_noise, random_erase

        network = self.classifier
        x = flip_or_noise(network.prepare(self.images[batch]), network.std, self.random)
        erased = random_erase(x, self.random, self.settings.erase_probability)
        return x, erased, self.labels[batch].to(x.device)


def features(network: Network, x: Tensor) -> list[Tensor]:
    """Hidden features of prepared images after the stages DEPTHS, and the last feature map (N, D, h, w)."""
    first = network.to_stage(x, DEPTHS[0])
    second = first
    for block in network.stages[DEPTHS[0] : DEPTHS[1]]:
        second = block(second)
    return [first, second, network.from_stage(second, DEPTHS[1])]
