# SPDX-License-Identifier: Apache-2.0
"""fer_train crossval --recognizer: an image recogniser for every fold, seed and variation."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_training.commands.image_options import image_backbone, image_settings, label_mapping
from fer_training.commands.variations import file_name
from fer_training.crossval import gather, write_crossval
from fer_training.image_crossval import (
    ImageFoldJob,
    cross_validate_images,
    face_splits,
    pooled_localization,
    pooled_members,
    pooled_predictions,
)
from fer_training.image_plan import ImagePlan, LabelledFaces
from fer_training.image_predictions import abaw_score
from fer_training.image_report import ImageRun, write_image_report

TITLES = {
    'fer_gcn': 'FER-GCN', 'part_ensemble': 'Part-based ensemble', 'abaw_ensemble': 'ABAW ensemble'
}
REPORT_FILE = 'members.md'


def cross_validate_recognizer(
    options: argparse.Namespace, *, command: str, variations: Sequence[dict[str, Any]]
) -> None:
    """Run all folds of all seeds and variations, then write a result for each."""
    mapping = label_mapping(options)
    faces, classes = LabelledFaces.read(
        options.faces, classes=tuple(options.classes or ()), mapping=mapping
    )
    splits = face_splits(options.faces, options.folds)
    backbone = image_backbone(options)
    title = options.name or TITLES[options.recognizer]
    runs: list[tuple[str, int, Path, list[ImageFoldJob]]] = []
    for settings, seed in itertools.product(variations, options.seeds):
        name = ', '.join([title, *(f'{key}={value}' for key, value in settings.items())])
        plan = ImagePlan.of(
            options.recognizer,
            classes=len(classes),
            settings={**image_settings(options), **settings, 'seed': seed},
            backbone=backbone,
        )
        folder = options.out / file_name(name) / f'seed_{seed}'
        jobs = [
            ImageFoldJob(
                name=split.name,
                faces=options.faces,
                classes=classes,
                mapping=tuple(sorted(mapping.items())),
                train=split.train,
                held_out=split.validation,
                subjects=split.subjects,
                plan=plan,
                samples=options.mc_samples,
                views=options.views,
                unit=answer_unit(options.recognizer, options.unit),
                folder=folder / split.name,
            )
            for split in splits
        ]
        runs.append((name, seed, folder, jobs))
    outcomes = cross_validate_images(
        [job for *_, jobs in runs for job in jobs],
        engine=options.engine,
        workers=options.processes,
        ray_address=options.ray_address,
    )
    told = []
    for name, seed, folder, jobs in runs:
        of_run = [outcomes[job.folder] for job in jobs]
        predictions = pooled_predictions(of_run)
        result = gather(
            of_run,
            predictions=predictions,
            name=name,
            data=faces.face_set.data_set,
            folds=options.folds,
            seed=seed,
            classes=classes,
            command=command,
        )
        path = options.out / f'{folder.parent.name}_seed_{seed}.json'
        write_crossval(path, result, predictions)
        told.append(
            ImageRun(
                result=result,
                member_accuracies=pooled_members(of_run),
                localization=pooled_localization(of_run),
            )
        )
        vote = result.monte_carlo
        print(
            f'{name}, seed {seed}: accuracy {vote.accuracy:.4f} by all samples, '
            f'{result.single_pass.accuracy:.4f} by one pass, macro F1 {vote.macro_f1:.4f}, '
            f'0.67 F1 + 0.33 accuracy {abaw_score(vote):.4f}; {path}'
        )
    write_image_report(options.out / REPORT_FILE, told)
    print(f'members of the networks in {options.out / REPORT_FILE}')


def answer_unit(recognizer: str, unit: str | None) -> str:
    """Say what one answer is for: a sequence ('clip') or a frame; ValueError if it has none."""
    if recognizer == 'fer_gcn':
        if unit == 'frame':
            raise ValueError('fer_gcn reads whole sequences: it has no answer for each frame')
        return 'clip'
    return unit or 'frame'
