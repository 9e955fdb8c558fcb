# make bench: every benchmark, ours beside other ways, as one Markdown table.
# make oldest: the tests with the oldest of every dependency that pyproject.toml allows.

.PHONY: bench oldest
bench:
	python benchmarks/all.py --output benchmarks/RESULTS.md

oldest:
	python3 -m venv .venv-oldest
	.venv-oldest/bin/pip install -r envs/requirements-oldest.txt
	.venv-oldest/bin/pip install --no-deps -e .
	.venv-oldest/bin/pytest
