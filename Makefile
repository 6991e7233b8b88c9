# Everything runs in .venv, built from the lock files. `make quickstart` and `make test` build what they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV ?= $(shell command -v uv || echo .venv/bin/uv)
BIN := .venv/bin
# uv uses the same wheel directories as pip.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Importing jax and levanter without bytecode takes half a minute, so compile once.
INSTALL := $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python
# The environment of a target sees the packages of .venv, too.
SEE_VENV = echo "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" > \
	"$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_venv.pth"

.PHONY: env env-dev peers peers-transformers5 peers-trl peers-peft peers-easydel peers-lmeval lm-eval peers-vllm peers-llamacpp gguf card-wheels quickstart test test-pythons coverage slow torture served compilers hosts slurm prometheus browser check format docs infra lock bench clean

env: .venv/.runtime
env-dev: .venv/.dev

$(BIN)/python:
	$(PYTHON) -m venv .venv
	@test "$(UV)" != .venv/bin/uv || $(BIN)/python -m pip install --quiet uv

.venv/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.runtime
	$(INSTALL) --require-hashes -r requirements-dev.lock
	$(INSTALL) --no-deps torch==2.13.0
	@touch $@

# What the benchmarks compare with, in a separate environment because of conflicting pins.
peers: .peers/.done

.peers/.done: requirements-peers.lock | $(BIN)/python
	$(UV) venv --quiet --clear --python $(PYTHON) .peers
	$(UV) pip install --quiet --compile-bytecode --python .peers/bin/python --require-hashes -r $<
	@touch $@

# Another version of transformers to load exports with: `.venv/bin/python benchmarks/serve_export.py EXPORT`.
peers-transformers5: .peers-transformers5/.done
# TRL's trainers, compared with ours in benchmarks/sft.py, dpo.py, trl_parity.py and trl_dpo_parity.py.
peers-trl: .peers-trl/.done
# PEFT, to load our adapters with: `.venv/bin/python benchmarks/peft_parity.py`.
peers-peft: .peers-peft/.done
# EasyDeL's DPOTrainer, compared with ours in benchmarks/dpo.py.
peers-easydel: .peers-easydel/.done

# The LM Evaluation Harness, with which its step is tested on a task of local files: `make lm-eval`. It sees the packages
# of .venv, too.
peers-lmeval: .peers-lmeval/.done

.peers-lmeval/.done: requirements-lmeval.lock .venv/.dev
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(UV) pip install --quiet --compile-bytecode --python $(@D)/bin/python --no-deps --require-hashes -r $<
	$(SEE_VENV)
	@touch $@

lm-eval: peers-lmeval
	.peers-lmeval/bin/python -m pytest tests/evaluation/test_lm_eval.py

# vLLM for CPUs, in which `served` and `marin-sft serve-check` load exports.
peers-vllm: .peers-vllm/.done

# --no-deps: the lock files hold all dependencies except torch.
.peers-%/.done: requirements-%.lock | $(BIN)/python
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(UV) pip install --quiet --compile-bytecode --python $(@D)/bin/python --no-deps --require-hashes -r $<
	$(UV) pip install --quiet --python $(@D)/bin/python --no-deps torch==2.13.0
	@touch $@

# llama.cpp, to load GGUF files with: `make gguf`. It is compiled, for any x86-64 with AVX2, in about 20 minutes on two cores.
peers-llamacpp: .peers-llamacpp/.done

.peers-llamacpp/.done: export CMAKE_ARGS = -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF
.peers-llamacpp/.done: export CMAKE_BUILD_PARALLEL_LEVEL ?= 2
.peers-llamacpp/.done: requirements-llamacpp.lock | $(BIN)/python
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(UV) pip install --quiet --compile-bytecode --python $(@D)/bin/python --require-hashes -r $<
	@touch $@

# GGUF files of published models, computed by llama.cpp and by transformers.
gguf: env-dev peers-llamacpp
	$(BIN)/python benchmarks/gguf_parity.py

quickstart: env
	$(BIN)/python experiments/quickstart.py $(ARGS)

test: env-dev check
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What the suite checks too, but larger, longer, or for one more model.
slow: env-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# All tests with coverage, as HTML in coverage/. Slower than `make test`.
coverage: env-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-report=html

# The fast part of the suite on Python 3.13, with training on the newest JAX, tokamax and transformers. `make
# test-python-3.12` is the same for 3.12, all with pinned packages: what works on 3.11 and on 3.13 works there too, so it is
# not part of every check. These environments have no torch, so comparisons with torch run only on 3.11.
FAST := tests/data tests/training/test_checkpoints.py \
	tests/run/test_preview.py tests/test_identity.py tests/test_public_api.py tests/test_paths.py tests/test_progress.py
# Of the engine, what reads code, types and values; and all of it.
VERSIONED := $(patsubst %,tests/execution/test_%.py,executor source fingerprint inputs step graph store resources)
ENGINE := tests/execution
TRAINING := tests/training/cpu tests/training/attention tests/training/test_sft.py
LEFT_OUT := tests/execution/test_crashes.py tests/execution/test_ray_backend.py tests/execution/test_ray_that_is_there.py tests/execution/test_object_stores.py \
	tests/execution/test_gang.py tests/execution/test_preemption.py tests/execution/test_ray_metrics.py \
	tests/execution/test_claims.py tests/data/batches/test_pair_batches.py tests/data/batches/test_packed_nll.py
# On the path, or from pyenv, whose shims on the path may not run.
find_python = $(firstword $(shell python$(1) -c 'import sys; print(sys.executable)' 2>/dev/null) \
	$(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python))
test-pythons: $(if $(call find_python,3.13),test-newest)

test-python-%: .python-%/.done
	.python-$*/bin/python -m pytest -n 2 --dist loadfile $(ENGINE) $(FAST) $(TRAINING) $(addprefix --ignore=,$(LEFT_OUT))

test-newest: .python-3.13/.done requirements-newest.lock
	.python-3.13/bin/python -m pytest -n 2 --dist loadfile $(VERSIONED) $(FAST) $(addprefix --ignore=,$(LEFT_OUT))
	$(UV) pip install --quiet --python .python-3.13/bin/python --no-deps --require-hashes -r requirements-newest.lock
	.python-3.13/bin/python -m pytest -n 2 --dist loadfile $(TRAINING)
	rm .python-3.13/.done

.PRECIOUS: .python-%/.done
.python-%/.done: requirements.lock requirements-dev.lock pyproject.toml | $(BIN)/python
	$(UV) venv --quiet --clear --python $(call find_python,$*) .python-$*
	$(UV) pip install --quiet --compile-bytecode --python .python-$*/bin/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --compile-bytecode --python .python-$*/bin/python --require-hashes -r requirements-dev.lock
	$(UV) pip install --quiet --python .python-$*/bin/python --no-deps --no-build-isolation -e .
	@touch $@

# Random crashes and races, power cuts, damaged files; ROUNDS=300 for more.
torture: env-dev
	$(BIN)/python -m pytest -m torture -s -x tests/execution/test_torture.py

# Exports in vLLM, and in llama.cpp if its environment has been built (make peers-llamacpp). A server takes a minute to start.
served: env-dev peers-vllm
	$(BIN)/python -m pytest -m torture -s -x tests/evaluation/served

# Training steps compiled for GPUs and TPUs, by their own compilers, which need no such device. They see the packages of
# .venv, too.
compilers: .compilers/.done
	.compilers/bin/python -m pytest -m torture -s -x tests/compilers

.compilers/.done: requirements-compilers.lock .venv/.dev
	$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	$(UV) pip install --quiet --python $(@D)/bin/python --no-deps --require-hashes -r $<
	$(SEE_VENV)
	@touch $@

# Several hosts on this machine, in network namespaces: killed, cut off, preempted; and under Slurm. Needs root.
# ROUNDS=20 for more of each.
hosts: env-dev slurm
	$(BIN)/python -m pytest -m torture -s -x tests/hosts tests/infra tests/execution/test_gang.py tests/execution/test_gang_training.py

# Slurm for these tests: Debian's packages, unpacked and not installed. Without them its tests are skipped.
slurm: $(if $(shell command -v apt-get),.slurm/.done)

.slurm/.done:
	rm -rf .slurm
	mkdir -p .slurm/packages
	cd .slurm/packages && apt-get --quiet=2 download $$(apt-get install --simulate --no-install-recommends \
		slurmctld slurmd slurm-client | awk '/^Inst/ {print $$2}')
	for package in .slurm/packages/*.deb; do dpkg --extract $$package .slurm; done
	@touch $@

# A real Prometheus looks at a Ray on which steps run: the one on the path, or Debian's package, unpacked into .prometheus.
prometheus: env-dev $(if $(shell command -v prometheus),,$(if $(shell command -v apt-get),.prometheus/.done))
	PATH="$(CURDIR)/.prometheus/usr/bin:$$PATH" $(BIN)/python -m pytest -m torture -s -x tests/execution/test_prometheus.py

.prometheus/.done:
	rm -rf .prometheus
	mkdir .prometheus
	cd .prometheus && apt-get --quiet=2 download prometheus && dpkg --extract prometheus_*.deb .
	@touch $@

check: env-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Builds docs/ into site/. Warnings, e.g. for broken links, are errors.
docs: .docs/.done
	NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --strict --quiet

# Without the dependencies of the package: the reference is read from the sources without importing them.
.docs/.done: requirements-docs.lock | $(BIN)/python
	$(UV) venv --quiet --clear --python $(PYTHON) .docs
	$(UV) pip install --quiet --python .docs/bin/python --require-hashes -r $<
	@touch $@

# The pages of `marin-sft report`, `marin-sft ui` and `marin-sft dashboard` in headless Chromium, which has to be on the path.
# BROWSER_SHOTS=DIRECTORY keeps screenshots.
browser: env-dev .browser/.done
	PYTHONPATH="$(CURDIR)/.browser" $(BIN)/python -m pytest -m torture -s -x tests/run/report/test_browser.py tests/run/test_dashboard.py

.browser/.done: | $(BIN)/python
	$(UV) pip install --quiet --python $(BIN)/python --target .browser playwright
	@touch $@

# The examples of infra/. For a cluster of your own: `python infra/make.py --help`.
infra: env
	$(BIN)/python infra/make.py examples

bench: env-dev
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/sft.py
	$(BIN)/python benchmarks/dpo.py

COMPILE := $(UV) pip compile --quiet --no-header --python-version 3.11 --universal --no-emit-index-url \
	--no-emit-find-links --generate-hashes --prerelease=if-necessary-or-explicit
LOCK := $(COMPILE) pyproject.toml

# The lock files hold versions and hashes, and name no index.
lock: | $(BIN)/python
	printf 'hatchling\neditables\n' | $(LOCK) - -o requirements.lock
	$(LOCK) --extra dev -c requirements.lock -o requirements-dev.lock
	$(COMPILE) --group pyproject.toml:docs -o requirements-docs.lock
	$(COMPILE) --group pyproject.toml:peers -o requirements-peers.lock
	$(COMPILE) --group pyproject.toml:transformers5 -o requirements-transformers5.lock
	$(COMPILE) --override benchmarks/peers/overrides.txt --group pyproject.toml:trl -o requirements-trl.lock
	$(COMPILE) --override benchmarks/peers/overrides.txt --group pyproject.toml:peft -o requirements-peft.lock
	$(COMPILE) --group pyproject.toml:easydel -o requirements-easydel.lock
	$(COMPILE) --override benchmarks/peers/overrides.txt -c requirements.lock -c requirements-dev.lock \
		--group pyproject.toml:lmeval -o requirements-lmeval.lock
	$(COMPILE) --override benchmarks/peers/overrides-vllm.txt --group pyproject.toml:vllm -o requirements-vllm.lock
	$(COMPILE) --no-deps --group pyproject.toml:compilers -o requirements-compilers.lock
	$(COMPILE) --group pyproject.toml:llamacpp -o requirements-llamacpp.lock
	$(COMPILE) --no-deps --python-version 3.12 --group pyproject.toml:card -o requirements-card.lock
	$(COMPILE) --python-version 3.13 --group pyproject.toml:newest -o requirements-newest.lock

# What benchmarks/card.sh needs on a machine without a registry, under 52 MiB: wheels for Python 3.12 on Linux x86-64, data.
card-wheels: requirements-card.lock env
	rm -rf wheels
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --dest wheels -r $< \
		--python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64
	$(BIN)/python benchmarks/smaller_wheels.py wheels
	$(BIN)/python benchmarks/gpu_checks.py prepare wheels/prepared
	du -sm wheels

clean:
	rm -rf .venv .docs .browser .prometheus .slurm .peers .peers-transformers5 .peers-trl .peers-peft .peers-easydel .peers-lmeval .peers-vllm .peers-llamacpp .compilers .python-3.12 .python-3.13 wheels site coverage
