#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make docs/results.md and its pictures anew: every network on tracks of people it has not seen.
# `make results` calls it. Takes hours on two cores, and goes on where it was interrupted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data=${DATA:-../shared/data}
gestures=(--tracks "$data/buhmap_tracks.npz" --out out/results/buhmap)
signers=(--tracks "$data/lse_gfe_tracks.npz" --folds 3 --out out/results/lse)
recipe=(--frames 24 --normalization track --displacement mean --rotation 0.1 --time-crop 0.15
    --stretch 0.1 --dropout 0.1 --mixed-precision)
grown=(--epochs 6 --final-epochs 20 --max-layers 3)

fer_train crossval "${gestures[@]}" "${recipe[@]}" "${grown[@]}" --seeds 1 2 3
fer_train crossval "${signers[@]}" "${recipe[@]}" "${grown[@]}" --seeds 1 2 3
for architecture in st_gcn agcn st_bln dgnn; do
    seeds=(--seeds 1)
    case $architecture in st_gcn | agcn) seeds=(--seeds 1 2 3) ;; esac  # the others take hours
    for people in gestures signers; do
        declare -n tracks=$people
        fer_train crossval "${tracks[@]}" "${recipe[@]}" --architecture $architecture --epochs 20 \
            "${seeds[@]}"
    done
done
fer_train report out/results/buhmap/{pst_bln_grown,st_gcn,agcn,st_bln,dgnn}_seed_*.json \
    out/results/lse/{pst_bln_grown,st_gcn,agcn,st_bln,dgnn}_seed_*.json --out docs/results.md
