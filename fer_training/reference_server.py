# SPDX-License-Identifier: Apache-2.0
"""The files that the reference's server holds for its learner, and where they go."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fer_training.download import download_file

SERVER_URL = 'ftp://opendrdata.csd.auth.gr/perception/landmark_based_facial_expression_recognition/'

PRETRAINED_FOLDER = 'pretrained_models'
TEST_FILE = 'val.npy'  # the reference tests on its validation data
FILES: Mapping[str, tuple[str, ...]] = MappingProxyType({  # of each mode
    'pretrained': ('pretrained_pstbln.json', 'pretrained_pstbln.pt'),
    'train_data': ('train.npy', 'train_labels.pkl'),
    'val_data': ('val.npy', 'val_labels.pkl'),
    'test_data': (TEST_FILE,),
})


@dataclass(frozen=True, kw_only=True)
class ServerFiles:
    """Downloads the files of one data set from a server laid out as the reference's."""

    dataset_name: str  # 'AFEW', 'CASIA' or 'CK+'
    folder: str  # where files go if no path is said

    def __call__(
        self,
        path: str | None = None,
        mode: str = 'train_data',
        verbose: bool = True,
        url: str = SERVER_URL,
    ) -> str:
        """Download the files of a mode, those that are not there yet; say where they are.

        path: folder to put them in, that of the learner's temp_path if None. mode: 'train_data'
        or 'val_data' bring `<url>/data/<data set>/train.npy` with its labels, or val.npy, and
        return the folder `<path>/<data set>`, as ExternalDataset wants it. 'test_data' brings
        val.npy and returns its path. 'pretrained' brings
        `<url>/pretrained_models/pretrained_pstbln.pt` and .json, and returns the folder
        `<path>/pretrained_models`, as `load` wants it. Raises ValueError for an unknown mode,
        DownloadError naming the URL of a file that cannot be had.
        """
        if mode not in FILES:
            raise ValueError(f'unknown mode {mode!r}; use {", ".join(FILES)}')
        base = url.rstrip('/')
        folder = Path(self.folder if path is None else path)
        if mode == 'pretrained':
            source, folder = PRETRAINED_FOLDER, folder / PRETRAINED_FOLDER
        else:
            source, folder = f'data/{self.dataset_name}', folder / self.dataset_name
        for name in FILES[mode]:
            if verbose and (folder / name).is_file():
                print(f'{folder / name} is there already')
            download_file(f'{base}/{source}/{name}', folder / name, progress=verbose)
        return str(folder / TEST_FILE if mode == 'test_data' else folder)
