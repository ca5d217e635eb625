# Every target does its own set-up: nothing has to be installed or activated by hand.
PYTHON ?= python3
export PYTHON
run := .venv/bin/

.PHONY: help setup examples check test test-fast torture demo bench bench-gpu format lock clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 14

setup:           ## .venv from the lock that fits this machine
	@scripts/setup.sh

demo: setup      ## two servers, one game: what MT-APC is worth on this machine (under 5 minutes)
	@$(run)elmas bench demo

test: setup      ## all tests, with a real vLLM server (several minutes)
	@$(run)python -m pytest

test-fast: setup ## the tests that start no server (seconds)
	@$(run)python -m pytest -m "not server"

torture: setup   ## kill -9 a serving server 50 times (about 30 minutes)
	@ELMAS_KILLS=50 ELMAS_KILLS_RESULT=results/kills.json $(run)python -m pytest -s tests/server/test_disk_kills.py

bench: setup     ## rounds that outgrow the device cache, and no reuse at all, with and without MT-APC (15 minutes)
	@$(run)elmas bench run --benchmarks small,no_reuse --servers noop,mt-apc --num-trials 2 --scale 1 \
	  --num-gpu-blocks 512 --result-dir results/bench --clear-result-dir

bench-gpu: setup ## MT-APC on a large GPU beside every peer, and without each of its mechanisms (an hour; ARGS="--disk DIR --disk-capacity 40GiB" for a disk)
	@$(run)elmas bench gpu --result-dir results/gpu --resume $(ARGS)

examples:        ## .venv-examples with what examples/ needs: the openai client and an agent framework
	@[ -x .venv-examples/bin/python ] || $(PYTHON) -m venv .venv-examples
	@.venv-examples/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r requirements/examples.lock

check: setup     ## format, lint, types
	@$(run)ruff format --check .
	@$(run)ruff check .
	@$(run)mypy

format: setup    ## format and mend what can be mended
	@$(run)ruff format .
	@$(run)ruff check --fix .

lock:            ## new locks from requirements/*.in (needs uv)
	uv pip compile --quiet --custom-compile-command "make lock" --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --override requirements/overrides-cpu.txt requirements/cpu.in -o requirements/cpu.lock
	uv pip compile --quiet --custom-compile-command "make lock" --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
	  requirements/gpu.in -o requirements/gpu.lock
	uv pip compile --quiet --custom-compile-command "make lock" --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  requirements/examples.in -o requirements/examples.lock

clean:           ## remove .venv, models and results
	rm -rf .venv .venv-examples models results
