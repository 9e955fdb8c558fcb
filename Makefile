# make bench: every benchmark, ours beside the obvious way, as one Markdown table.

.PHONY: bench
bench:
	python benchmarks/all.py --output benchmarks/RESULTS.md
