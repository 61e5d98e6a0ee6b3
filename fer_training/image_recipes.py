# SPDX-License-Identifier: Apache-2.0
"""How image recognisers are trained: the papers' recipes by default, every setting by name.

What the papers do not say is chosen here and marked so; for the ABAW ensemble it is that of the
program which its authors published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fer_perception.faces.crop import FaceCrop, ImageNormalization
from fer_perception.models.abaw_ensemble import AbawEnsembleConfig
from fer_perception.models.fer_gcn import FerGcnConfig
from fer_perception.models.image_architectures import IMAGE_ARCHITECTURES, ImageConfig
from fer_training.image_dataset import ImageAugmentation

OPTIMIZERS = ('sgd', 'adam')

# Stages of the part-based ensemble's transfer learning (III-D2), and the only one of all others.
LANDMARKS, HEAD, EXPRESSION = 'landmarks', 'head', 'expression'


@dataclass(frozen=True, kw_only=True)
class ImageFitConfig:
    """Set how an image recogniser is fitted."""

    epochs: int  # of the last stage, in which everything is trained to tell expressions
    learning_rate: float  # likewise
    landmark_epochs: int = 0  # of the stage that locates landmarks; 0: none
    landmark_rate: float = 1e-2  # learning rate, likewise
    head_epochs: int = 0  # of the stage that trains the classification head alone; 0: none
    head_rate: float = 1e-2  # learning rate, likewise
    batch_size: int = 32
    optimizer: str = 'sgd'  # or 'adam'
    momentum: float = 0.0  # of sgd
    epsilon: float = 1e-7  # of adam
    weight_decay: float = 0.0
    drop_after_epochs: tuple[int, ...] = ()  # the rate is multiplied by drop_factor after each
    drop_factor: float = 0.1
    patience: int = 0  # end a stage after so many epochs without a lower validation loss; 0: never
    patience_threshold: float = 1e-3  # relative drop that counts as lower
    window_step: int = 1  # frames from one training window to the next, where frames have targets
    seed: int = 1
    workers: int = 0  # processes that read batches
    mixed_precision: bool = False  # bfloat16 where it is safe
    device: str = 'cpu'

    def __post_init__(self) -> None:
        """Refuse values outside of their ranges, naming the field."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f'optimizer must be {" or ".join(OPTIMIZERS)}, not {self.optimizer!r}'
            )
        for name, least in (
            ('epochs', 1), ('batch_size', 1), ('window_step', 1), ('landmark_epochs', 0),
            ('head_epochs', 0), ('patience', 0), ('workers', 0), ('momentum', 0.0),
            ('weight_decay', 0.0),
        ):
            if not getattr(self, name) >= least:
                raise ValueError(f'{name} must be at least {least}, not {getattr(self, name)}')
        for name in ('learning_rate', 'landmark_rate', 'head_rate', 'epsilon', 'drop_factor'):
            if not 0 < getattr(self, name) < float('inf'):
                raise ValueError(f'{name} must be positive, not {getattr(self, name)}')


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """Join all that makes a training of an image recogniser."""

    network: ImageConfig
    fit: ImageFitConfig
    augmentation: ImageAugmentation
    normalization: ImageNormalization
    crop_share: float = 1.0  # of the side of the set's crops that the network sees at once

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0.0 < self.crop_share <= 1.0:
            raise ValueError(f'crop_share must be above 0 and at most 1, not {self.crop_share}')

    def crop(self, of_set: FaceCrop) -> FaceCrop:
        """Say how faces are cut for the network, by how those of the training set were cut."""
        seen = self.crop_share * (1.0 + 2.0 * of_set.margin)  # sides of the face's square
        return FaceCrop(size=self.network.image_size, margin=max(0.0, (seen - 1.0) / 2.0))

    def with_settings(self, settings: Mapping[str, Any]) -> 'ImageRecipe':
        """Change settings by name, of the fit, the augmentation and the pixels.

        Raises ValueError for a name that none of them has.
        """
        recipe = self
        for name, value in settings.items():
            if name == 'crop_share':
                recipe = replace(recipe, crop_share=value)
                continue
            for part in ('fit', 'augmentation', 'normalization'):
                known = getattr(recipe, part)
                if name in {item.name for item in fields(known)}:
                    changed = replace(known, **{name: _fitting(name, getattr(known, name), value)})
                    recipe = replace(recipe, **{part: changed})
                    break
            else:
                raise ValueError(
                    f'there is no setting {name!r}; there are {", ".join(setting_names(recipe))}'
                )
        return recipe


def setting_names(recipe: ImageRecipe) -> list[str]:
    """Name all settings of a recipe that can be changed, those of the network included."""
    parts = (recipe.network, recipe.fit, recipe.augmentation, recipe.normalization)
    return sorted({item.name for part in parts for item in fields(part)} | {'crop_share'})


def paper_recipe(
    recognizer: str, *, classes: int, settings: Mapping[str, Any] | None = None
) -> ImageRecipe:
    """Return the recipe of a recogniser's paper, with some settings changed by name.

    settings: of the network, the fit, the augmentation or the pixels. Raises ValueError for an
    unknown recogniser, a setting that there is not, or a value out of its range.
    """
    if recognizer not in IMAGE_ARCHITECTURES:
        raise ValueError(
            f'unknown recogniser {recognizer!r}; there are {", ".join(IMAGE_ARCHITECTURES)}'
        )
    settings = dict(settings or {})
    kind = IMAGE_ARCHITECTURES[recognizer].config
    defaults = kind(classes=classes)
    own = {
        name: _fitting(name, getattr(defaults, name), settings.pop(name))
        for name in [item.name for item in fields(kind)]
        if name in settings and name != 'classes'
    }
    if own.get('modules') == 0:  # no adjacency to fuse by: the row "VGG16" of FER-GCN's table V
        own.setdefault('weighted_fusion', False)
    return _recipe(replace(defaults, **own)).with_settings(settings)


def _recipe(network: ImageConfig) -> ImageRecipe:
    if isinstance(network, FerGcnConfig):  # IV-B; batch size and momentum: its silence
        return ImageRecipe(
            network=network,
            fit=ImageFitConfig(
                epochs=120, learning_rate=1e-3, weight_decay=5e-5, momentum=0.9, batch_size=4
            ),
            augmentation=ImageAugmentation(mirror=True, random_crop=True, illumination=0.2),
            normalization=ImageNormalization(),
            crop_share=224 / 256,
        )
    if isinstance(network, AbawEnsembleConfig):  # 3.2; the rest: its authors' program
        return ImageRecipe(
            network=network,
            fit=ImageFitConfig(
                epochs=10,
                learning_rate=5e-4,
                momentum=0.9,
                weight_decay=5e-4,
                batch_size=64,
                drop_after_epochs=(2, 4, 8),
                drop_factor=0.1,
                window_step=max(1, network.frames // 2),
            ),
            augmentation=ImageAugmentation(mirror=True),
            normalization=ImageNormalization(),
        )
    # Part-based ensemble, III-D; its epochs on CK+. How far images are turned, sheared and moved,
    # and when the loss counts as saturated: its silence.
    fit = ImageFitConfig(
        epochs=400, learning_rate=1e-2, batch_size=32, optimizer='adam', patience=20
    )
    if network.kind != 'baseline':
        fit = replace(
            fit, epochs=300, learning_rate=1e-4, landmark_epochs=100, head_epochs=50
        )
    return ImageRecipe(
        network=network,
        fit=fit,
        augmentation=ImageAugmentation(
            mirror=True, rotation=10.0, shear=0.1, translation=0.05
        ),
        normalization=ImageNormalization(
            grey=True, equalize=True, mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)
        ),
    )


def _fitting(name: str, known: Any, value: Any) -> Any:
    """Turn a value as read from a command line into the type of the one that it replaces."""
    if isinstance(known, tuple):
        return tuple(value) if isinstance(value, tuple | list) else (value,)
    if isinstance(known, float) and type(value) is int:
        return float(value)
    if type(value) is not type(known):
        kind = 'a whole number' if type(known) is int else type(known).__name__
        raise ValueError(f'{name} must be {kind}, such as {known!r}, not {value!r}')
    return value
