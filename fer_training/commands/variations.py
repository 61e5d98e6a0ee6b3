# SPDX-License-Identifier: Apache-2.0
"""Variations of a plan: settings that a sweep changes, and the names of what it writes."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from fer_perception.models.pst_bln import PstBlnConfig
from fer_training.fitting import FitConfig
from fer_training.inputs import Augmentation
from fer_training.plan import NetworkPlan


def vary(plan: NetworkPlan, settings: Mapping[str, Any]) -> NetworkPlan:
    """Change settings of the fit, of growth's steps, of the network and of the augmentation.

    Raises ValueError for a name that none of them has.
    """
    fit_names, network_names, augmentation_names = (
        {item.name for item in fields(kind)} for kind in (FitConfig, PstBlnConfig, Augmentation)
    )
    for name, value in settings.items():
        if name in fit_names:
            growth = plan.growth
            if growth is not None:
                final = None if growth.final is None else replace(growth.final, **{name: value})
                step = replace(growth.step, **{name: value})
                growth = replace(growth, step=step, final=final)
            plan = replace(plan, fit=replace(plan.fit, **{name: value}), growth=growth)
        elif name in network_names:
            plan = replace(plan, template=replace(plan.template, **{name: value}))
        elif name in augmentation_names:
            plan = replace(plan, augmentation=replace(plan.augmentation, **{name: value}))
        else:
            raise ValueError(
                f'there is no setting {name!r} to vary; there are '
                f'{", ".join(sorted(fit_names | network_names | augmentation_names))}'
            )
    return plan


def variations_of(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Read NAME=V1,V2 texts: one dictionary for each combination of values.

    Raises ValueError for a text of another form.
    """
    named = []
    for text in texts:
        name, _, values = text.partition('=')
        if not values:
            raise ValueError(f'--vary needs SETTING=V1,V2,..., not {text!r}')
        named.append([(name.replace('-', '_'), _value(item)) for item in values.split(',')])
    return [dict(combination) for combination in itertools.product(*named)]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {'true': True, 'false': False}.get(text.lower(), text)


def file_name(name: str) -> str:
    """Turn the name of a run into that of its files."""
    kept = ''.join(letter if letter.isalnum() else '_' for letter in name.lower())
    return '_'.join(part for part in kept.split('_') if part)
