"""The benchmarks of zflow; `python -m bench list` from the repository's root tells which there are.

Every benchmark measures zflow and what it is compared with in turns, round by round, in one run, so
its results are ratios of neighbouring rounds: what else the machine does then weighs on both.

To add one, write a module `bench/NAME.py` and put its name into `bench.harness.suite.NAMES`.
The module has

- a docstring whose first line says what is measured; `list` shows it;
- `measure(quick: bool) -> Result`, which starts what it needs, measures, ends it all and returns
  plain data (see `bench.harness.result`). `quick` asks for a run of few seconds that still computes
  every ratio: the tests do that.

`python -m bench check NAME --accept` then puts its ratios into `baseline.json`. A benchmark prints
nothing and writes nothing: running, printing, storing, plotting and comparing are the harness's.
This file imports nothing, because the peers' adapters are run from here by
interpreters that have no zflow.
"""
