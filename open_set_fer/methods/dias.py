"""DIAS (Moon et al., ECCV 2022): a classifier trained against simulated unknowns.

Easy unknowns come from a generator, hard ones from a copycat network that imitates the classifier's hidden features;
the classifier learns flat outputs for both. Facts from arXiv 2207.10024 and the published code (repository
wjun0830/Difficulty-Aware-Simulator: `osr.py`, `models/models.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.methods.shared.lazy import F, augmentation, backbones, nn, torch, training
from open_set_fer.methods.shared.scorers import ConfidenceScorer
from open_set_fer.ranges import BatchSize, Count, CountOrZero, Epochs, NotNegative, Positive, Share

NOISE = 100  # channels of the generator's input (published)


@dataclass(frozen=True)
class Dias:
    """Inductive classifier with simulated unknowns: s = -max softmax.

    Defaults: the published code's (`osr.py`), unless stated otherwise.
    """

    name = "dias"
    version = 3
    scorer = ConfidenceScorer

    epochs: Epochs = 200
    """One GAN pass and one copycat pass over the training images each."""
    batch_size: BatchSize = 64
    optimizer: Literal["sgd", "adam"] = "sgd"
    """For classifier and copycat. 'sgd' has momentum 0.9; for 'adam' the published rate is 1e-3, without weight decay,
    divided by ten after half of the epochs."""
    learning_rate: Positive = 0.1
    weight_decay: NotNegative = 1e-4
    lr_step: CountOrZero = 60
    """Epochs between divisions of the learning rate by ten (published: after 60, 120, 180); 0: never."""
    gan_learning_rate: Positive = 2e-4
    """Adam's with betas (0.5, 0.999), for generator and discriminator."""
    gan_width: Count = 64
    """Base number of channels of generator and discriminator."""
    beta: NotNegative = 0.1
    """Weight of the generated images, in the generator's loss and the classifier's."""
    fake_ratio: NotNegative = 0.1
    """Weight of the copycat's features in the classifier's loss."""
    pull_ratio: NotNegative = 1.0
    """Weight of the imitation in the copycat's loss."""
    smoothing: Share = 0.5
    """Of the targets of the copycat's hidden features: 0 is the label, 1 the uniform distribution."""
    smoothing2: Share = 1.0
    """Of the targets of its final features and of generated images."""
    dropout: Annotated[Share, Field(lt=1)] = 0.2
    """Fraction of channels zeroed in training before each of the three blocks into which `depths` divides a network."""
    erase_probability: Share = 0.0
    """Random erasing of the classifiers' images, as in the closed-set recipe (published: none)."""
    copycat_statistics: bool = True
    """The copycat's features also update the running statistics of the classifier's main batch norm (the published
    code). Set False for trainings too short for the copycat to come close, where that spoils evaluation mode."""
    warm_start: bool = False
    """The classifier starts from the shared closed-set model (published: fresh weights)."""
    batches_per_pass: CountOrZero = 0
    """At most this many batches a pass, for small machines; 0: all training images."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Train classifier and simulator; score by the classifier. SuiteError for outputs that are not finite."""
        curves: dict[str, list[float]] = {}
        with context.phase("train"):
            simulator = _Simulator(self, task, context)
            for epoch in context.progress(range(self.epochs), f"{self.name}: epochs"):
                drops = epoch // self.lr_step if self.lr_step else 0
                rate = training.epoch_learning_rate(self.learning_rate, 0.1, drops)
                for optimizer in (simulator.classifier_optimizer, simulator.copycat_optimizer):
                    training.set_learning_rate(optimizer, rate)
                for one_pass in (simulator.gan_step, simulator.copycat_step):
                    values = [one_pass(batch) for batch in simulator.batches()]
                    for key in values[0] if values else ():
                        curves.setdefault(key, []).append(float(np.mean([value[key] for value in values])))
        logits = training.evaluate(simulator.classifier, task.test_images)
        if not np.isfinite(logits).all():
            raise SuiteError("dias: training diverged, the logits are not finite", "lower dias.learning_rate")
        scorer = ConfidenceScorer({"classifier": simulator.classifier}, settings={"score": "msp"})
        score = -training.softmax(logits).max(axis=1)
        return Detection(score, logits.argmax(axis=1), curves, network=simulator.classifier, scorer=scorer)


def smoothed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, strength: float) -> torch.Tensor:
    """Mean cross-entropy of logits (N, K) against (1 - strength) x targets + strength / K.

    targets: labels (N,), which are taken one-hot, or shares (N, K).
    """
    return F.cross_entropy(logits, targets, label_smoothing=strength)


def pull_distance(features: list[torch.Tensor], others: list[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of two networks' features, averaged over depths. `others` get no gradient."""
    return torch.stack([F.l1_loss(a, b.detach()) for a, b in zip(features, others, strict=True)]).mean()


def adversarial_loss(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """Binary cross-entropy of the discriminator's logits (N,), all real or all generated."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def auxiliary_twin(network: backbones.Network) -> backbones.Network:
    """A network with separate batch norms that shares all other layers with `network`."""
    shared = {id(module): module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    return deepcopy(network, shared)


def add_dropout(network: backbones.Network, probability: float, random: torch.Generator) -> None:
    """Zero whole channels before the stem and before each stage of `depths`, in training mode.

    Handed-in features are dropped too. Grey images stay whole: they have one channel.
    """

    def drop(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        (x,) = inputs
        if not module.training or x.shape[1] == 1:
            return None
        mask = torch.rand((len(x), x.shape[1], 1, 1), generator=random) >= probability
        return x * (mask / (1 - probability)).to(x)

    for module in (network.stem, *(network.stages[depth] for depth in depths(network))):
        module.register_forward_pre_hook(drop)


def build_gan(
    height: int, width: int, image_channels: int, input_channels: int, base: int, seed: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build the generator of images in [0, 1] and the discriminator of normalised images.

    Inputs: (N, 100, 1, 1) and (N, input_channels, height, width); the discriminator gives logits (N,). The published
    pair, sized by the image: from maps of 4 to 7 pixels by doublings (32 px: 4 px and three doublings). Generated
    images may be larger; the caller crops them.
    """
    doublings = max((min(height, width) // 4).bit_length() - 1, 0)
    start = (-(-height // 2**doublings), -(-width // 2**doublings))
    widths = [base * min(8, 2**i) for i in range(1, doublings + 1)]  # of the discriminator; reversed, of the generator
    with backbones.seeded(seed):
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

    def __init__(self, dias: Dias, task: OpenSetTask, context: Context) -> None:
        device = context.device
        _, channels, height, width = task.train_images.shape
        classes = len(task.closed_classes)
        random, classifier, copycat, gan = (backbones.draw_seed(context.generator) for _ in range(4))
        self.dias = dias
        self.size = (height, width)
        self.images, self.augmentation = training.as_tensor(task.train_images), context.closed_set.augmentation
        self.targets = training.targets_of(task.train_labels, task.train_votes, context.closed_set)
        self.random = torch.Generator().manual_seed(random)
        self.classifier = backbones.build_network(context.backbone, classes, channels, classifier).to(device)
        self.copycat = backbones.build_network(context.backbone, classes, channels, copycat).to(device)
        if dias.warm_start:
            self.classifier.load_state_dict(context.closed_set_model(task).network.state_dict())
        self.twin = auxiliary_twin(self.classifier)
        if dias.dropout > 0:
            for network in (self.classifier, self.twin, self.copycat):
                add_dropout(network, dias.dropout, self.random)
        generator, discriminator = build_gan(height, width, channels, self.classifier.channels, dias.gan_width, gan)
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)

        def classifier_optimizer(*networks: nn.Module) -> torch.optim.Optimizer:
            parameters = nn.ModuleList(networks).parameters()  # shared ones count once
            if dias.optimizer == "adam":
                return torch.optim.Adam(parameters, dias.learning_rate, weight_decay=dias.weight_decay)
            return torch.optim.SGD(parameters, dias.learning_rate, momentum=0.9, weight_decay=dias.weight_decay)

        self.classifier_optimizer = classifier_optimizer(self.classifier, self.twin)
        self.copycat_optimizer = classifier_optimizer(self.copycat)
        self.generator_optimizer, self.discriminator_optimizer = (
            torch.optim.Adam(network.parameters(), dias.gan_learning_rate, betas=(0.5, 0.999))
            for network in (self.generator, self.discriminator)
        )

    def batches(self) -> Iterator[torch.Tensor]:
        """Indices of one pass over the training images, or of its first `batches_per_pass` batches."""
        pieces = training.batches(torch.arange(len(self.images)), self.dias.batch_size, self.random)
        return islice(pieces, self.dias.batches_per_pass or None)

    def generate(self, n: int) -> torch.Tensor:
        """n generated images, in the normalised range of `Network.prepare`."""
        network = self.classifier
        noise = torch.randn((n, NOISE, 1, 1), generator=self.random).to(network.mean.device)
        images = self.generator(noise)[..., : self.size[0], : self.size[1]].expand(-1, network.channels, -1, -1)
        normalised: torch.Tensor = (images - network.mean) / network.std
        return normalised.contiguous(memory_format=torch.channels_last)

    def gan_step(self, batch: torch.Tensor) -> dict[str, float]:
        """Train discriminator, generator and classifier on a batch; returns the losses."""
        for network in (self.classifier, self.twin, self.generator, self.discriminator):
            network.train()
        real, erased, targets = self._load(batch)
        fake = self.generate(len(batch))
        discriminator_loss = adversarial_loss(self.discriminator(real), True)
        discriminator_loss = discriminator_loss + adversarial_loss(self.discriminator(fake.detach()), False)
        training.step(self.discriminator_optimizer, discriminator_loss)

        # The generator fools the discriminator and avoids images whose outputs are already flat.
        flatness = smoothed_cross_entropy(self.twin(fake), targets, self.dias.smoothing2)
        generator_loss = adversarial_loss(self.discriminator(fake), True) - self.dias.beta * flatness
        training.step(self.generator_optimizer, generator_loss)

        with torch.no_grad():
            fake = self.generate(len(batch))
        loss = smoothed_cross_entropy(self.classifier(erased), targets, 0.0)
        loss = loss + self.dias.beta * smoothed_cross_entropy(self.twin(fake), targets, self.dias.smoothing2)
        training.step(self.classifier_optimizer, loss)
        losses = {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss, "gan_pass_loss": loss}
        return {name: value.item() for name, value in losses.items()}

    def copycat_step(self, batch: torch.Tensor) -> dict[str, float]:
        """Train the copycat, then the classifier, on a batch; returns losses and pull distance."""
        dias, classifier, copycat = self.dias, self.classifier, self.copycat
        _, x, targets = self._load(batch)
        copycat.train()
        classifier.eval()
        with torch.no_grad():
            *imitated, _ = features(classifier, x)
        *hidden, last = features(copycat, x)
        pull = pull_distance(hidden, imitated)
        copycat_loss = smoothed_cross_entropy(copycat.classify(last), targets, 0.0) + dias.pull_ratio * pull
        training.step(self.copycat_optimizer, copycat_loss)

        copycat.eval()
        classifier.train()
        with torch.no_grad():
            *hidden, last = features(copycat, x)
        loss = smoothed_cross_entropy(classifier(x), targets, 0.0)
        fakes = [smoothed_cross_entropy(classifier.classify(last), targets, dias.smoothing2)]
        with nullcontext() if dias.copycat_statistics else training.frozen_statistics(classifier):
            for depth, feature in zip(depths(classifier), hidden, strict=True):
                logits = classifier.classify(classifier.from_stage(feature, depth))
                fakes.append(smoothed_cross_entropy(logits, targets, dias.smoothing))
        loss = loss + dias.fake_ratio * torch.stack(fakes).mean()
        training.step(self.classifier_optimizer, loss)
        return {"copycat_loss": copycat_loss.item(), "pull_distance": pull.item(), "copycat_pass_loss": loss.item()}

    def _load(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Augmented images for the discriminator, the same images erased for the classifiers, and targets."""
        network = self.classifier
        x = augmentation.vary(network.prepare(self.images[batch]), network.std, self.random, self.augmentation)
        erased = augmentation.random_erase(x, self.random, self.dias.erase_probability)
        return x, erased, self.targets[batch].to(x.device)


def depths(network: backbones.Network) -> tuple[int, int]:
    """Stages after which the copycat's features are pulled and handed over: 1 and 2 of 3; of two stages 0 and 1."""
    return (1, 2) if len(network.stages) > 2 else (0, 1)


def features(network: backbones.Network, x: torch.Tensor) -> list[torch.Tensor]:
    """Hidden features (prepared images) after the stages `depths`, and the last feature map."""
    earlier, later = depths(network)
    first = network.to_stage(x, earlier)
    second = network.from_stage(first, earlier, later)
    return [first, second, network.from_stage(second, later)]
