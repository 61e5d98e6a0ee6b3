# SPDX-License-Identifier: Apache-2.0
"""JAFFE as distributed: one folder of still images, named after subject and expression."""

import re
from pathlib import Path

from fer_training.face_samples import still_sample
from fer_training.protocols.expressions import EXPRESSIONS
from fer_training.protocols.face_listing import FaceListing
from fer_training.protocols.listing import LayoutError, existing_folder
from fer_training.samples import images_in

DATA_SET = 'JAFFE'
CLASSES = EXPRESSIONS[:7]  # no contempt
CODES = {
    'AN': 'anger', 'DI': 'disgust', 'FE': 'fear', 'HA': 'happiness', 'NE': 'neutral',
    'SA': 'sadness', 'SU': 'surprise',
}
# Subject, expression and the number of its take, number of the image: KA.AN1.39.tiff
NAME = re.compile(r'([A-Z]{2})\.([A-Z]{2})\d*\.(\d+)')
FOLDERS = ('.', 'jaffe', 'jaffedbase', 'jaffeimages/jaffe')
PUBLISHED = '213 images of 10 subjects'


def list_jaffe(root: Path) -> FaceListing:
    """List the images: <root>/KA.AN1.39.tiff, or in the folder jaffe or jaffedbase of it.

    The names' two parts are the subject (KA) and the expression (AN DI FE HA NE SA SU), as the
    data set's own description has it. Raises LayoutError for another layout or name.
    """
    existing_folder(root, FOLDERS, data_set=DATA_SET)
    folders = [root / name for name in FOLDERS if (root / name).is_dir()]
    folder = next((folder for folder in folders if images_in(folder)), None)
    if folder is None:
        raise LayoutError(f'{root} has no images such as KA.AN1.39.tiff')
    samples = []
    for image in images_in(folder):
        told = NAME.fullmatch(image.stem)
        if told is None or told[2] not in CODES:
            raise LayoutError(
                f'{image} is not named as {DATA_SET} has it: subject, expression '
                f'({" ".join(CODES)}) and number, such as KA.AN1.39{image.suffix}'
            )
        samples.append(still_sample(image, label=CODES[told[2]], subject=told[1]))
    return FaceListing(
        data_set=DATA_SET,
        samples=tuple(samples),
        classes=CLASSES,
        frame_rate=1.0,  # of no meaning: all are stills
        published=PUBLISHED,
    )
