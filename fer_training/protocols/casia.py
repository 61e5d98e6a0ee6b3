# SPDX-License-Identifier: Apache-2.0
"""Oulu-CASIA as distributed: images by camera, illumination, subject and expression."""

from pathlib import Path

from fer_training.protocols.listing import (
    LayoutError,
    Listing,
    class_folder_label,
    existing_folder,
    folders_in,
)
from fer_training.samples import Sample, images_in

DATA_SET = 'Oulu-CASIA'
VARIANTS = ('OriginalImg', 'B_OriginalImg', 'PreProcess_Img', 'PreProcess Img')
CAMERAS = ('VL', 'NI')  # visible light, near infrared
ILLUMINATIONS = ('Strong', 'Weak', 'Dark')  # Strong is the papers' normal illumination
CLASSES = ('anger', 'fear', 'happiness', 'sadness', 'surprise', 'disgust')  # in the papers' order
FRAME_RATE = 25.0
PUBLISHED = '480 sequences of 80 subjects'


def list_casia(root: Path, *, camera: str = 'VL', illumination: str = 'Strong') -> Listing:
    """List the sequences of one camera and illumination: OriginalImg/VL/Strong/P001/Anger/*.jpeg.

    B_OriginalImg and PreProcess_Img (with VL_Acropped) are read likewise; the first one that is
    there counts. Raises LayoutError for another layout.
    """
    cameras = (camera, f'{camera}_Acropped')
    candidates = [
        f'{folder}{name}/{illumination}'
        for variant in VARIANTS
        for folder in (f'{variant}/', f'{variant}/{variant}/')
        for name in cameras
    ] + [f'{name}/{illumination}' for name in cameras]
    expected = ', '.join(f'{variant}/{camera}/{illumination}' for variant in VARIANTS)
    folder = existing_folder(root, candidates, data_set=DATA_SET, expected=expected)
    samples = [
        Sample(
            path=expression,
            label=class_folder_label(expression, CLASSES, data_set=DATA_SET),
            subject=subject.name,
            name=f'{subject.name}_{expression.name}',
        )
        for subject in folders_in(folder)
        for expression in folders_in(subject)
        if images_in(expression)
    ]
    if not samples:
        raise LayoutError(f'{folder} has no images such as P001/Anger/000.jpeg')
    return Listing(
        data_set=DATA_SET,
        samples=tuple(samples),
        classes=CLASSES,
        frame_rate=FRAME_RATE,
        published=PUBLISHED,
    )
