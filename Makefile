# `make demo` and `make test` set up all that they need themselves.
BIN := .venv/bin

.PHONY: help demo test unit slurm docker check format bench clean
help:
	@echo "make demo     run a small real computation on a cluster on this machine"
	@echo "make test     the whole test suite (as root on Debian or Ubuntu on a real Slurm, too)"
	@echo "make unit     the tests without processes and sockets"
	@echo "make slurm    the tests on a real Slurm"
	@echo "make docker   the tests on the dockerised Slurm of ci/slurm-docker"
	@echo "make check    format, lint, types, floors"
	@echo "make format   what of that mends itself"
	@echo "make bench    against dask and concurrent.futures, in one run"

demo:
	@tools/setup run
	@$(BIN)/hpccluster demo

test:
	@tools/setup test
	$(BIN)/pytest $(ARGS)

unit:
	@tools/setup test
	$(BIN)/pytest tests/unit $(ARGS)

slurm:
	@tools/setup test
	HPCCLUSTER_REQUIRE_SLURM=1 $(BIN)/pytest -m slurm $(ARGS)

docker:
	@tools/setup test
	HPCCLUSTER_REQUIRE_DOCKER=1 $(BIN)/pytest -m docker $(ARGS)

check:
	@tools/setup test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=tests $(BIN)/mypy --exclude 'tests/.+/conftest\.py' tests benchmarks
	$(BIN)/lint-imports

format:
	@tools/setup test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench:
	@tools/setup test
	$(BIN)/python -m pip install -q --group bench
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
