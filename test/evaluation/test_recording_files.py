# SPDX-License-Identifier: Apache-2.0
"""What a path stands for and where its labels are, as the documentation says."""

import os
from pathlib import Path

import pytest

from fer_perception.evaluation.recording_files import RecordingFilesError, find_recordings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of empty files where bags, videos and images would be."""
    for name in (
        'b_bag/metadata.yaml', 'b_bag/b_bag_0.mcap', 'a_bag/metadata.yaml', 'broken/broken_0.db3',
        'single.mcap', 'clip.MP4', 'notes.txt', 'images/1.png', 'images/10.PNG', 'empty/note.txt',
        'deep/below/metadata.yaml', 'picture.png', 'a_bag.csv', 'b_bag/labels.csv', 'clip.csv',
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_stands_for_all_its_bags_and_videos(folder: Path) -> None:
    found = find_recordings(folder, None)
    assert [item.name for item in found] == [
        'a_bag', 'b_bag', 'broken', 'clip.MP4', 'single.mcap'
    ]


@pytest.mark.parametrize(
    ('name', 'labels'),
    [('a_bag', 'a_bag.csv'), ('b_bag', 'b_bag/labels.csv'), ('clip.MP4', 'clip.csv')],
)
def test_labels_lie_beside_or_inside(folder: Path, name: str, labels: str) -> None:
    (found,) = find_recordings(folder / name, None)
    assert found.labels_path() == folder / labels


def test_missing_labels_say_where_they_are_looked_for(folder: Path) -> None:
    (found,) = find_recordings(folder / 'images', None)
    with pytest.raises(RecordingFilesError, match=r'images\.csv.*or.*labels\.csv'):
        found.labels_path()


def test_labels_beside_come_before_those_inside(folder: Path) -> None:
    (folder / 'a_bag' / 'labels.csv').touch()
    (found,) = find_recordings(folder / 'a_bag', None)
    assert found.labels_path() == folder / 'a_bag.csv'


def test_labels_may_be_a_file_or_a_folder(folder: Path) -> None:
    elsewhere = folder / 'empty'
    (elsewhere / 'single.csv').touch()
    (one,) = find_recordings(folder / 'single.mcap', elsewhere)
    assert one.labels_path() == elsewhere / 'single.csv'
    (one,) = find_recordings(folder / 'single.mcap', folder / 'clip.csv')
    assert one.labels_path() == folder / 'clip.csv'
    many = find_recordings(folder, elsewhere)
    assert many[-1].labels_path() == elsewhere / 'single.csv'
    with pytest.raises(RecordingFilesError, match='a folder of recordings.*clip.csv'):
        find_recordings(folder, folder / 'clip.csv')


def test_names_are_found_from_within(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / 'a_bag')
    (found,) = find_recordings(Path('.'), None)
    assert found.name == 'a_bag' and found.labels_path() == folder / 'a_bag.csv'


def test_a_name_of_digits_is_no_camera(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    os.rename('a_bag', '0')
    (found,) = find_recordings(Path('0'), None)
    assert found.source == './0'
    with pytest.raises(RecordingFilesError, match='no file and no folder'):
        find_recordings(Path('/dev/null'), None)


@pytest.mark.parametrize('name', ['empty', 'none', 'notes.csv'])
def test_what_is_no_recording_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(RecordingFilesError, match=name):
        find_recordings(folder / name, None)
