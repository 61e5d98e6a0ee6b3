# SPDX-License-Identifier: Apache-2.0
"""What faces are cut from: recordings, or some of their images, and what each of these shows."""

from dataclasses import dataclass
from pathlib import Path

from fer_perception.sources import IMAGE_SUFFIXES
from fer_training.samples import Sample


@dataclass(frozen=True, kw_only=True)
class FaceSample:
    """Name a recording of one face: a video, a folder of images, or a still image."""

    recording: Sample  # its label is that of all frames; '': unknown, or they have their own
    part: str = ''  # of the data set: '', 'train', 'val' or 'test'
    images: tuple[str, ...] = ()  # names of those of the folder that are taken; (): all of it
    labels: tuple[str, ...] = ()  # of each of `images`; (): the recording's
    stills: bool = False  # its images do not follow each other in time
    aligned: bool = False  # its images were cut to the face: where none is found, they are it
    # Quarter turns clockwise that may put the head upright: the first with which one is found.
    quarter_turns: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Refuse labels that do not belong to images."""
        if self.labels and (len(self.labels) != len(self.images) or self.recording.label):
            raise ValueError(
                f'{self.recording.path} has {len(self.labels)} labels for {len(self.images)} '
                f'images and the label {self.recording.label!r} for all'
            )
        if not self.quarter_turns:
            raise ValueError(f'{self.recording.path} needs a way to be turned: 0 for as it is')

    @property
    def is_image(self) -> bool:
        """Whether the recording is one still image."""
        path = self.recording.path
        return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def still_sample(
    path: Path,
    *,
    label: str = '',
    subject: str = '',
    name: str = '',
    part: str = '',
    aligned: bool = False,
) -> FaceSample:
    """Make the sample of one still image; its name is the file's where none is given."""
    recording = Sample(path=path, label=label, subject=subject, name=name or path.stem)
    return FaceSample(recording=recording, part=part, stills=True, aligned=aligned)
